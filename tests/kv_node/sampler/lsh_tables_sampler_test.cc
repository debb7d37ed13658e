#include "kv_node/sampler/lsh_tables_sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "common/attention/attention_ref.h"
#include "common/kernels/row_statistics.h"
#include "common/lsh/signature.h"
#include "common/lsh/signature_ref.h"
#include "tests/kv_node/sampler/testing.h"

namespace sounder::kv_node {
namespace {

using base::DType;

std::unique_ptr<Sampler> Lsh(int dim, const lsh::LshParams& params, int64_t min_rows = 1) {
  return *MakeSampler(
      {.kind = SamplerKind::kLshTables, .lsh = params, .dim = dim, .min_indexed_rows = min_rows});
}

class LshTablesTest : public testing::TestWithParam<lsh::ProjectionKind> {};

// What the sampler must answer to one query, from its definition: candidates by comparing the codes
// of scalar reference signatures table by table, weights and sums in float64.
struct Expected {
  std::vector<int64_t> rows;
  std::vector<double> u;
  std::vector<double> output;
  double lse = 0;
  double a = 0;
  double b = 0;
  double concentration = 0;
};

Expected FromDefinition(const lsh::Projection& projection, const Segment& segment,
                        const std::vector<float>& mean, const float* q, int64_t begin,
                        int64_t end) {
  const int dim = segment.dim();
  const lsh::LshParams& params = projection.params();
  Expected expected;
  std::vector<uint64_t> query_signature(params.words());
  lsh::SignatureRef(projection, q, nullptr, query_signature.data());
  std::vector<double> weights;
  for (int64_t r = begin; r < end; ++r) {
    std::vector<float> key(dim);
    for (int c = 0; c < dim; ++c) key[c] = segment.keys().At(r, c);
    std::vector<uint64_t> signature(params.words());
    lsh::SignatureRef(projection, key.data(), mean.data(), signature.data());
    int collisions = 0;
    for (int t = 0; t < params.num_tables; ++t) {
      collisions += lsh::CodeOf(signature.data(), t, params.bits_per_table) ==
                    lsh::CodeOf(query_signature.data(), t, params.bits_per_table);
    }
    if (collisions < params.min_collisions) continue;
    double dot = 0;
    double centred = 0;
    double qq = 0;
    double kk = 0;
    for (int c = 0; c < dim; ++c) {
      const double centred_key = double{key[c]} - mean[c];
      dot += double{q[c]} * key[c];
      centred += q[c] * centred_key;
      qq += double{q[c]} * q[c];
      kk += centred_key * centred_key;
    }
    expected.rows.push_back(r);
    expected.u.push_back(lsh::InclusionProbability(projection, centred / std::sqrt(qq * kk)));
    weights.push_back(std::exp(dot / std::sqrt(double(dim))) / expected.u.back());
  }
  double sum = 0;
  expected.output.resize(dim);
  for (size_t i = 0; i < weights.size(); ++i) sum += weights[i];
  for (size_t i = 0; i < weights.size(); ++i) {
    for (int c = 0; c < dim; ++c) {
      expected.output[c] += weights[i] / sum * segment.values().At(expected.rows[i], c);
    }
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    const double term = (1 - expected.u[i]) * std::pow(weights[i] / sum, 2);
    double distance = 0;
    for (int c = 0; c < dim; ++c) {
      distance += std::pow(segment.values().At(expected.rows[i], c) - expected.output[c], 2);
    }
    expected.a += term * distance;
    expected.b += term;
    expected.concentration += expected.u[i] * std::pow(weights[i] / sum, 2);
  }
  expected.lse = std::log(sum);
  return expected;
}

TEST_P(LshTablesTest, IsTheEstimatorOfItsDefinition) {
  const int dim = 64;
  const int64_t rows = 1500;
  const lsh::LshParams params = {
      .bits_per_table = 6, .num_tables = 40, .projection = GetParam(), .seed = 3};
  const auto sampler = Lsh(dim, params);
  const auto segment =
      MakeSegment(*sampler, rows, dim, DType::kBF16, Gaussian(1, 1, 0.7), Gaussian(2));
  const Group group(*sampler, 3, dim, Gaussian(3, 2, 0.1));
  const GroupQuery query = group.Query(100, 1400);
  std::vector<float> mean(dim);
  kernels::MeanOfRows(segment->keys(), mean.data());
  for (int c = 0; c < dim; ++c) {
    double sum = 0;
    for (int64_t r = 0; r < rows; ++r) sum += segment->keys().At(r, c);
    EXPECT_NEAR(mean[c], sum / rows, 1e-5);
  }
  const Answer answer = Ask(*sampler, *segment, query);
  Scratch scratch;
  std::set<int64_t> loaded;
  int64_t read = 0;
  for (int g = 0; g < group.group; ++g) {
    const Expected expected = FromDefinition(*sampler->projection(), *segment, mean,
                                             group.queries.data() + g * dim, 100, 1400);
    EXPECT_NEAR(answer.lse[g], expected.lse, 3e-4);
    for (int c = 0; c < dim; ++c) {
      EXPECT_NEAR(answer.outputs[g * dim + c], expected.output[c], 3e-4);
    }
    EXPECT_NEAR(answer.errors[g].a, expected.a, 2e-3 * expected.a);
    EXPECT_NEAR(answer.errors[g].b, expected.b, 2e-3 * expected.b);
    EXPECT_NEAR(answer.errors[g].concentration, expected.concentration,
                2e-3 * expected.concentration);
    const std::vector<Candidate> candidates = sampler->Candidates(*segment, query, g, scratch);
    ASSERT_EQ(candidates.size(), expected.rows.size());
    EXPECT_GT(candidates.size(), 20u);
    for (size_t i = 0; i < candidates.size(); ++i) {
      EXPECT_EQ(candidates[i].row, expected.rows[i]);
      EXPECT_NEAR(candidates[i].u, expected.u[i], 3e-4 * expected.u[i]);
      loaded.insert(candidates[i].row);
    }
    read += static_cast<int64_t>(candidates.size());
  }
  EXPECT_EQ(answer.stats.rows_read, read);
  EXPECT_EQ(answer.stats.rows_loaded, static_cast<int64_t>(loaded.size()));
  EXPECT_EQ(answer.stats.tables_walked, 3 * 40);
  EXPECT_FALSE(answer.stats.exact);
}

// With buckets so wide that every row is a candidate with u = 1, sampling is exact.
TEST_P(LshTablesTest, EverythingSampledIsExact) {
  const lsh::LshParams params = {.bits_per_table = 1, .num_tables = 300, .projection = GetParam()};
  const auto sampler = Lsh(64, params);
  const auto segment = MakeSegment(*sampler, 2000, 64, DType::kF32, Gaussian(1, 1, 2), Gaussian(2));
  const Group group(*sampler, 4, 64, Gaussian(3));
  const Answer answer = Ask(*sampler, *segment, group.Query(0, 2000));
  std::vector<double> outputs(4 * 64);
  std::vector<double> lse(4);
  attention::AttentionRef({.queries = group.queries.data(),
                           .query_stride = 64,
                           .num_queries = 4,
                           .keys = segment->keys(),
                           .values = segment->values(),
                           .scale = 0.125},
                          outputs.data(), lse.data());
  EXPECT_EQ(answer.stats.rows_read, 4 * 2000);
  EXPECT_EQ(answer.stats.rows_loaded, 2000);
  for (int i = 0; i < 4 * 64; ++i) EXPECT_NEAR(answer.outputs[i], outputs[i], 2e-5);
  for (int g = 0; g < 4; ++g) EXPECT_NEAR(answer.lse[g], lse[g], 1e-5);
}

// Over steps the roulette answers what it would answer without, and knows its error.
TEST_P(LshTablesTest, RouletteOfValues) {
  const int dim = 64;
  SamplerSpec spec = {.kind = SamplerKind::kLshTables,
                      .lsh = {.bits_per_table = 4, .num_tables = 40, .projection = GetParam()},
                      .dim = dim,
                      .min_indexed_rows = 1};
  const auto plain = *MakeSampler(spec);
  spec.lsh_tables.value_roulette = true;
  const auto sampler = *MakeSampler(spec);
  const auto segment =
      MakeSegment(*sampler, 4000, dim, DType::kBF16, Gaussian(1, 1, 0.7), Gaussian(2));
  const Group group(*sampler, 2, dim, Gaussian(3, 1.5));
  GroupQuery query = group.Query(0, 4000);
  const Answer expected = Ask(*plain, *segment, query);
  constexpr int kSteps = 600;
  std::vector<double> mean(2 * dim);
  std::vector<double> square(2);
  std::vector<double> variance(2);
  for (int step = 0; step < kSteps; ++step) {
    query.step = step;
    const Answer answer = Ask(*sampler, *segment, query);
    EXPECT_EQ(answer.lse, expected.lse);
    for (int g = 0; g < 2; ++g) {
      for (int i = g * dim; i < (g + 1) * dim; ++i) {
        const double difference = double{answer.outputs[i]} - expected.outputs[i];
        mean[i] += difference / kSteps;
        square[g] += difference * difference / kSteps;
      }
      EXPECT_EQ(answer.errors[g].b, expected.errors[g].b);
      EXPECT_EQ(answer.errors[g].concentration, expected.errors[g].concentration);
      variance[g] += (double{answer.errors[g].a} - expected.errors[g].a) / kSteps;
    }
  }
  for (int g = 0; g < 2; ++g) {
    EXPECT_GT(square[g], 0);
    EXPECT_NEAR(variance[g], square[g], .3 * square[g]);
    double norm = 0;
    for (int i = g * dim; i < (g + 1) * dim; ++i) norm += mean[i] * mean[i];
    // The mean of kSteps draws of that variance, 4 standard errors.
    EXPECT_LE(norm, square[g] / kSteps * (1 + 4 * std::sqrt(2.0 / dim)));
  }
}

TEST(LshTables, AccountsItsBytes) {
  const auto sampler = Lsh(128, {});
  const auto segment = MakeSegment(*sampler, 4096, 128, DType::kBF16, Gaussian(1), Gaussian(2));
  EXPECT_EQ(segment->row_bytes(), 2u * 4096 * 128 * 2);
  // ids, starts, norms, mean, full buckets.
  const size_t payload = 150 * 4096 * 2 + 150 * 1025 * 2 + 4096 * 4 + 128 * 4 + 150 * 4;
  EXPECT_GE(segment->index_bytes(), payload);
  EXPECT_LE(segment->index_bytes(), payload + 1024);
  EXPECT_EQ(segment->bytes(), sizeof(Segment) + segment->row_bytes() + segment->index_bytes());
}

TEST(MakeSamplerTest, RefusesWhatMakesNoSense) {
  EXPECT_THAT(MakeSampler({.kind = SamplerKind::kLshTables, .dim = 100}).status().ToString(),
              testing::HasSubstr("dim is 100"));
  EXPECT_THAT(MakeSampler({.kind = SamplerKind::kExact, .dim = 128, .min_indexed_rows = 0})
                  .status()
                  .ToString(),
              testing::HasSubstr("min_indexed_rows is 0"));
  EXPECT_THAT(MakeSampler({.kind = SamplerKind::kLshTables,
                           .lsh = {.num_tables = 15, .projection = lsh::ProjectionKind::kGaussian},
                           .lsh_tables = {.split = true},
                           .group = 8})
                  .status()
                  .ToString(),
              testing::HasSubstr("num_tables is 15"));
  EXPECT_THAT(
      MakeSampler({.kind = SamplerKind::kLshTables, .lsh_tables = {.split = true}, .group = 4})
          .status()
          .ToString(),
      testing::HasSubstr("expected gaussian"));
  EXPECT_FALSE(MakeSampler({.kind = SamplerKind::kLshTables, .lsh = {.probe_distance = 2}}).ok());
  const auto sampler = Lsh(64, {});
  auto segment = *Segment::Create(0, 10, 32, DType::kF32, memory::AlignedBuffer::Zeroed(10 * 128),
                                  memory::AlignedBuffer::Zeroed(10 * 128));
  Scratch scratch;
  EXPECT_THAT(sampler->BuildIndex(*segment->rows(), scratch).status().ToString(),
              testing::HasSubstr("dim 32, expected 64"));
}

INSTANTIATE_TEST_SUITE_P(Projections, LshTablesTest,
                         testing::Values(lsh::ProjectionKind::kGaussian,
                                         lsh::ProjectionKind::kHadamard),
                         [](const auto& param_info) {
                           return std::string(lsh::NameOf(param_info.param));
                         });

}  // namespace
}  // namespace sounder::kv_node
