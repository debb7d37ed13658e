// What every registered sampler owes its callers, whatever it samples: rows from the visible range
// only, the estimator over its candidates, true statistics, answers that depend on nothing but rows
// and request, finite results. Whether it is unbiased: calibration_test.cc.
#include "tests/kv_node/sampler/conformance.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "common/attention/attention_ref.h"
#include "common/attention/partial_output.h"
#include "common/kernels/simd_level.h"
#include "tests/kv_node/sampler/testing.h"

namespace sounder::kv_node {
namespace {

using base::DType;

constexpr int kDim = 32;
constexpr int64_t kRows = 700;

class ConformanceTest : public testing::TestWithParam<Configuration> {
 protected:
  ~ConformanceTest() override { EXPECT_TRUE(kernels::ForceSimdLevel("best").ok()); }

  static std::unique_ptr<Segment> AnySegment(const Sampler& sampler, DType dtype = DType::kF32,
                                             base::Position first_position = 0) {
    return MakeSegment(sampler, kRows, kDim, dtype, Gaussian(1, 1, .4), Gaussian(2),
                       first_position);
  }
  static std::vector<std::vector<Candidate>> AllCandidates(const Sampler& sampler,
                                                           const Segment& segment,
                                                           const GroupQuery& query) {
    Scratch scratch;
    std::vector<std::vector<Candidate>> all;
    for (int g = 0; g < query.group; ++g) {
      all.push_back(sampler.Candidates(segment, query, g, scratch));
    }
    return all;
  }
  static std::vector<int64_t> RowsOf(const std::vector<std::vector<Candidate>>& candidates) {
    std::vector<int64_t> rows;
    for (const auto& of_member : candidates) {
      for (const Candidate& c : of_member) rows.push_back(c.row);
    }
    return rows;
  }
};

// The estimate of one query from its candidates, in float64.
void ExpectEstimate(const Segment& segment, const GroupQuery& query, int member,
                    const std::vector<Candidate>& candidates, const Answer& answer,
                    const Configuration& configuration) {
  const double tolerance = 5e-4 + 6 * configuration.row_error;
  const int dim = segment.dim();
  double sum = 0;
  std::vector<double> output(dim);
  for (const Candidate& c : candidates) {
    double logit = 0;
    for (int i = 0; i < dim; ++i) {
      logit += double{query.queries[member * dim + i]} * segment.keys().At(c.row, i);
    }
    const double weight = std::exp(logit * query.scale) / c.u;
    sum += weight;
    for (int i = 0; i < dim; ++i) output[i] += weight * segment.values().At(c.row, i);
  }
  if (candidates.empty()) {
    EXPECT_EQ(answer.lse[member], attention::kEmptyLse);
    for (int i = 0; i < dim; ++i) EXPECT_EQ(answer.outputs[member * dim + i], 0.0f);
    return;
  }
  EXPECT_NEAR(answer.lse[member], std::log(sum), tolerance);
  if (configuration.roulette()) return;
  for (int i = 0; i < dim; ++i) {
    EXPECT_NEAR(answer.outputs[member * dim + i], output[i] / sum, tolerance);
  }
}

TEST_P(ConformanceTest, TheEstimatorOverCandidatesOfTheVisibleRows) {
  const auto sampler = GetParam().Make(kDim);
  const auto segment = AnySegment(*sampler, DType::kBF16);
  const Group group(*sampler, 4, kDim, Gaussian(3, 1.5));
  for (const auto& [begin, end] : std::vector<std::pair<int64_t, int64_t>>{{0, kRows},
                                                                           {0, 0},
                                                                           {350, 350},
                                                                           {kRows, kRows},
                                                                           {0, 1},
                                                                           {699, 700},
                                                                           {13, 14},
                                                                           {1, 31},
                                                                           {31, 33},
                                                                           {33, 650},
                                                                           {64, 128},
                                                                           {100, 700},
                                                                           {128, 130}}) {
    SCOPED_TRACE(std::to_string(begin) + " to " + std::to_string(end));
    const GroupQuery query = group.Query(begin, end);
    const Answer answer = Ask(*sampler, *segment, query);
    const auto candidates = AllCandidates(*sampler, *segment, query);
    std::set<int64_t> loaded;
    int64_t read = 0;
    for (int g = 0; g < group.group; ++g) {
      int64_t last = begin - 1;
      for (const Candidate& c : candidates[g]) {
        EXPECT_GT(c.row, last);
        EXPECT_GT(c.u, 0);
        EXPECT_LE(c.u, 1);
        last = c.row;
        loaded.insert(c.row);
      }
      EXPECT_LT(last, std::max(end, begin + 1));
      read += static_cast<int64_t>(candidates[g].size());
      ExpectEstimate(*segment, query, g, candidates[g], answer, GetParam());
    }
    EXPECT_EQ(answer.stats.rows_read, read);
    EXPECT_EQ(answer.stats.rows_loaded, static_cast<int64_t>(loaded.size()));
    EXPECT_EQ(answer.stats.exact, GetParam().exact());
    EXPECT_TRUE(!GetParam().exact() || read == group.group * (end - begin));
    EXPECT_TRUE(end - begin < 500 || loaded.size() > 20) << loaded.size();
  }
}

TEST_P(ConformanceTest, ErrorTermsAreThoseOfTheCandidates) {
  const auto sampler = GetParam().Make(kDim);
  const auto segment = AnySegment(*sampler);
  const Group group(*sampler, 3, kDim, Gaussian(3, 1.5));
  const GroupQuery query = group.Query(7, 690);
  const Answer answer = Ask(*sampler, *segment, query);
  const auto candidates = AllCandidates(*sampler, *segment, query);
  if (answer.stats.exact) {
    for (const ErrorTerms& errors : answer.errors) EXPECT_TRUE(errors.a == 0 && errors.b == 0);
    return;
  }
  for (int g = 0; g < group.group; ++g) {
    ErrorTerms expected;
    for (const Candidate& c : candidates[g]) {
      double logit = 0;
      double distance = 0;
      for (int i = 0; i < kDim; ++i) {
        logit += double{group.queries[g * kDim + i]} * segment->keys().At(c.row, i);
        distance += std::pow(segment->values().At(c.row, i) - answer.outputs[g * kDim + i], 2);
      }
      const double weight = std::exp(logit * query.scale - answer.lse[g]) / c.u;
      expected.a += static_cast<float>((1 - c.u) * weight * weight * distance);
      expected.b += static_cast<float>((1 - c.u) * weight * weight);
      expected.concentration += static_cast<float>(c.u * weight * weight);
    }
    const double tolerance = 2e-3 + 8 * GetParam().row_error;
    if (!GetParam().roulette()) {
      EXPECT_NEAR(answer.errors[g].a, expected.a, tolerance * expected.a + 1e-9);
    }
    EXPECT_NEAR(answer.errors[g].b, expected.b, tolerance * expected.b + 1e-9);
    EXPECT_NEAR(answer.errors[g].concentration, expected.concentration,
                tolerance * expected.concentration);
  }
}

TEST_P(ConformanceTest, AnswersDependOnRowsAndRequestOnly) {
  const auto sampler = GetParam().Make(kDim);
  const auto segment = AnySegment(*sampler, DType::kBF16);
  const Group group(*sampler, 4, kDim, Gaussian(3, 1.5));
  const Group other(*sampler, 7, kDim, Gaussian(4, 9));
  Scratch scratch;
  const Answer first = Ask(*sampler, *segment, group.Query(3, 697), scratch);
  Ask(*sampler, *segment, other.Query(0, kRows), scratch);
  const Answer again = Ask(*sampler, *segment, group.Query(3, 697), scratch);
  // Another sampler of the same specification, another segment of the same rows.
  const auto twin = GetParam().Make(kDim);
  const Answer elsewhere = Ask(*twin, *AnySegment(*twin, DType::kBF16), group.Query(3, 697));
  for (const Answer* answer : {&again, &elsewhere}) {
    EXPECT_EQ(answer->outputs, first.outputs);
    EXPECT_EQ(answer->lse, first.lse);
    EXPECT_EQ(answer->stats.rows_loaded, first.stats.rows_loaded);
  }
}

TEST_P(ConformanceTest, EveryLevelTakesTheSameSample) {
  for (const int dim : {32, 128}) {
    std::vector<std::vector<std::vector<Candidate>>> samples;
    std::vector<Answer> answers;
    for (const std::string& level : kernels::SimdLevels()) {
      SCOPED_TRACE(level);
      ASSERT_TRUE(kernels::ForceSimdLevel(level).ok());
      const auto sampler = GetParam().Make(dim);
      const auto segment =
          MakeSegment(*sampler, 1500, dim, DType::kBF16, Gaussian(1, 1, .3), Gaussian(2));
      const Group group(*sampler, 5, dim, Gaussian(3, 2));
      samples.push_back(AllCandidates(*sampler, *segment, group.Query(5, 1490)));
      answers.push_back(Ask(*sampler, *segment, group.Query(5, 1490)));
      EXPECT_EQ(RowsOf(samples.back()), RowsOf(samples[0]));
      EXPECT_GT(RowsOf(samples.back()).size(), 20u);
      for (size_t g = 0; g < samples[0].size(); ++g) {
        for (size_t i = 0; i < std::min(samples.back()[g].size(), samples[0][g].size()); ++i) {
          EXPECT_NEAR(samples.back()[g][i].u, samples[0][g][i].u, 1e-3 * samples[0][g][i].u);
        }
      }
      for (size_t i = 0; i < answers[0].outputs.size() && !GetParam().roulette(); ++i) {
        EXPECT_NEAR(answers.back().outputs[i], answers[0].outputs[i], 2e-3);
      }
    }
  }
}

// A sampler that draws draws anew for every step, key, layer, kv head and place in the sequence;
// one that does not is not told apart by them.
TEST_P(ConformanceTest, DrawsAnewWhereItSaysSo) {
  const auto sampler = GetParam().Make(kDim);
  const auto segment = AnySegment(*sampler);
  const Group group(*sampler, 2, kDim, Gaussian(3, 1.5));
  const GroupQuery query = group.Query(0, kRows);
  const auto rows = RowsOf(AllCandidates(*sampler, *segment, query));
  // A few of each: two draws of a few hundred rows may be the same by chance.
  bool other[5] = {};
  for (int value = 1; value <= 4; ++value) {
    std::vector<GroupQuery> others(5, query);
    others[0].step = value;
    others[1].sample_key = value;
    others[2].layer = value;
    others[3].kv_head = value;
    const auto later = AnySegment(*sampler, DType::kF32, int64_t{70000} * value);
    for (int i = 0; i < 5; ++i) {
      const Segment& asked = i == 4 ? *later : *segment;
      other[i] |= RowsOf(AllCandidates(*sampler, asked, others[i])) != rows;
    }
  }
  for (const bool differs : other) EXPECT_EQ(differs, GetParam().sampler->draws);
}

TEST_P(ConformanceTest, ShortSegmentsAreExact) {
  const auto sampler = GetParam().Make(kDim, 1, kRows + 1);
  const auto exact = *MakeSampler({.kind = SamplerKind::kExact, .dim = kDim});
  const auto segment = AnySegment(*sampler, DType::kF16);
  EXPECT_EQ(segment->index(), nullptr);
  EXPECT_EQ(sampler->IndexBytesBound(kRows), 0u);
  const Group group(*sampler, 5, kDim, Gaussian(3));
  const Answer answer = Ask(*sampler, *segment, group.Query(3, 650));
  const Answer expected = Ask(*exact, *segment, group.Query(3, 650));
  EXPECT_EQ(answer.outputs, expected.outputs);
  EXPECT_EQ(answer.lse, expected.lse);
  EXPECT_TRUE(answer.stats.exact);
  EXPECT_EQ(answer.stats.rows_read, 5 * 647);
  EXPECT_EQ(answer.stats.rows_loaded, 647);
}

TEST_P(ConformanceTest, IndexesAreAsLargeAsSaid) {
  const auto sampler = GetParam().Make(kDim);
  const auto segment = AnySegment(*sampler);
  const size_t bytes = segment->bytes() - sizeof(Segment) - size_t{kRows} * kDim * 4 * 2;
  EXPECT_LE(bytes, sampler->IndexBytesBound(kRows) + 256);
  EXPECT_GE(bytes + 256, sampler->IndexBytesBound(kRows));
}

TEST_P(ConformanceTest, RefusesSegmentsOfAnotherDimension) {
  if (GetParam().exact()) return;  // has nothing that depends on it
  const auto sampler = GetParam().Make(64);
  const auto segment =
      *Segment::Create(0, 10, 32, DType::kF32, memory::AlignedBuffer::Zeroed(10 * 128),
                       memory::AlignedBuffer::Zeroed(10 * 128));
  Scratch scratch;
  EXPECT_EQ(sampler->BuildIndex(*segment->rows(), scratch).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// The rows asked for are the rows read, give or take one; all of them is exact.
TEST_P(ConformanceTest, KeepsTheBudget) {
  if (!GetParam().budgeted()) return;
  const auto sampler = GetParam().Make(kDim);
  const auto segment = AnySegment(*sampler);
  const Group group(*sampler, 4, kDim, Gaussian(3, 1.5));
  GroupQuery query = group.Query(0, kRows);
  for (const double fraction : {.02, .1, .5}) {
    query.row_fraction = fraction;
    EXPECT_NEAR(static_cast<double>(Ask(*sampler, *segment, query).stats.rows_loaded),
                fraction * kRows, 1);
  }
  query.row_cap = 11;
  EXPECT_NEAR(static_cast<double>(Ask(*sampler, *segment, query).stats.rows_loaded), 11, 1);
  query.row_cap = 0;
  query.row_fraction = 1;
  const Answer answer = Ask(*sampler, *segment, query);
  EXPECT_EQ(answer.stats.rows_loaded, kRows);
  std::vector<double> outputs(4 * kDim);
  std::vector<double> lse(4);
  attention::AttentionRef({.queries = group.queries.data(),
                           .query_stride = kDim,
                           .num_queries = 4,
                           .keys = segment->keys(),
                           .values = segment->values(),
                           .scale = query.scale},
                          outputs.data(), lse.data());
  const double tolerance = 3e-5 + 6 * GetParam().row_error;
  for (size_t i = 0; i < outputs.size(); ++i) {
    EXPECT_NEAR(answer.outputs[i], outputs[i], tolerance);
  }
  for (int g = 0; g < 4; ++g) EXPECT_NEAR(answer.lse[g], lse[g], tolerance);
}

void ExpectFinite(const Sampler& sampler, const Segment& segment, const GroupQuery& query) {
  const Answer answer = Ask(sampler, segment, query);
  for (const float x : answer.outputs) ASSERT_TRUE(std::isfinite(x));
  for (const float lse : answer.lse) {
    ASSERT_TRUE(std::isfinite(lse) || lse == attention::kEmptyLse);
  }
  for (const ErrorTerms& errors : answer.errors) {
    ASSERT_TRUE(std::isfinite(errors.a) && std::isfinite(errors.b));
  }
  Scratch scratch;
  for (const Candidate& c : sampler.Candidates(segment, query, query.group - 1, scratch)) {
    ASSERT_GT(c.u, 0);
    ASSERT_LE(c.u, 1);
  }
}

TEST_P(ConformanceTest, TakesEveryDimensionGroupAndType) {
  for (const int dim : {8, 40, 128, 512}) {
    const auto sampler = GetParam().Make(dim);
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const auto segment = MakeSegment(*sampler, 200, dim, dtype, Gaussian(1, 1, .4), Gaussian(2));
      for (const int size : {1, 3, 32}) {
        SCOPED_TRACE(std::to_string(dim) + " " + std::string(base::NameOf(dtype)) + " " +
                     std::to_string(size));
        const Group group(*sampler, size, dim, Gaussian(3, 1.5));
        ExpectFinite(*sampler, *segment, group.Query(0, 200));
        const Answer answer = Ask(*sampler, *segment, group.Query(0, 200));
        const auto candidates = AllCandidates(*sampler, *segment, group.Query(0, 200));
        ExpectEstimate(*segment, group.Query(0, 200), size - 1, candidates[size - 1], answer,
                       GetParam());
      }
    }
  }
}

struct Hostile {
  const char* name;
  RowFunction key;
  RowFunction value;
  RowFunction query;
};

std::vector<Hostile> HostileCases() {
  const auto pattern = [](int64_t r, int c) {
    return static_cast<float>((r * 31 + c * 17) % 23) / 10 - 1;
  };
  return {
      {"query equal to a key", pattern, pattern,
       [=](int64_t g, int c) { return pattern(7 + g, c); }},
      {"zero keys", [](int64_t, int) { return 0.0f; }, pattern, pattern},
      {"zero queries", pattern, pattern, [](int64_t, int) { return 0.0f; }},
      {"one key 100 times the others",
       [=](int64_t r, int c) { return pattern(r, c) * (r == 50 ? 100.0f : 1.0f); }, pattern,
       [=](int64_t, int c) { return pattern(50, c); }},
      {"all keys equal", [=](int64_t, int c) { return pattern(3, c); }, pattern,
       [=](int64_t, int c) { return pattern(3, c); }},
      {"values of 1e4", [=](int64_t r, int c) { return 1e4f * pattern(r, c); },
       [=](int64_t r, int c) { return 1e4f * pattern(r, c); },
       [=](int64_t g, int c) { return 1e4f * pattern(g, c); }},
      {"logits of hundreds", [=](int64_t r, int c) { return 30 * pattern(r, c); }, pattern,
       [=](int64_t g, int c) { return 30 * pattern(g, c); }},
      {"tiny", [=](int64_t r, int c) { return 1e-20f * pattern(r, c); }, pattern,
       [=](int64_t g, int c) { return 1e-20f * pattern(g, c); }},
      {"query against every key", [](int64_t, int c) { return c % 2 == 0 ? 1.0f : -2.0f; }, pattern,
       [](int64_t, int c) { return c % 2 == 0 ? -1.0f : 2.0f; }},
  };
}

TEST_P(ConformanceTest, HostileValuesStayFinite) {
  for (const std::string& level : kernels::SimdLevels()) {
    ASSERT_TRUE(kernels::ForceSimdLevel(level).ok());
    const auto sampler = GetParam().Make(kDim);
    for (const Hostile& hostile : HostileCases()) {
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
        for (const int64_t rows : {1, 2, 300}) {
          SCOPED_TRACE(level + " " + hostile.name + " " + std::to_string(rows));
          const auto segment = MakeSegment(*sampler, rows, kDim, dtype, hostile.key, hostile.value);
          const Group group(*sampler, 2, kDim, hostile.query);
          ExpectFinite(*sampler, *segment, group.Query(0, rows));
        }
      }
    }
  }
}

TEST_P(ConformanceTest, InfinitiesInRowsDoNotCrash) {
  for (const std::string& level : kernels::SimdLevels()) {
    ASSERT_TRUE(kernels::ForceSimdLevel(level).ok());
    const auto sampler = GetParam().Make(kDim);
    const auto segment = MakeSegment(
        *sampler, 100, kDim, DType::kBF16,
        [](int64_t r, int c) {
          return r == 9 && c == 3 ? INFINITY : static_cast<float>(r % 7 - 3);
        },
        [](int64_t r, int) { return r == 10 ? NAN : 1.0f; });
    const Group group(*sampler, 2, kDim, Gaussian(1));
    Ask(*sampler, *segment, group.Query(0, 100));
  }
}

TEST(RegistryTest, NodesServeWhatIsMarkedServable) {
  std::set<std::string_view> names;
  for (const RegisteredSampler& sampler : cli::AllSamplers()) {
    EXPECT_TRUE(names.insert(sampler.name).second) << sampler.name;
    EXPECT_EQ(cli::FindSampler(sampler.name), &sampler);
  }
  for (const RegisteredSampler& sampler : ServableSamplers()) {
    EXPECT_TRUE(sampler.servable && sampler.unbiased) << sampler.name;
    EXPECT_TRUE(names.contains(sampler.name)) << sampler.name;
  }
  for (const std::string_view name : {"uniform", "oracle", "topk", "quest"}) {
    ASSERT_TRUE(names.contains(name));
    EXPECT_FALSE(cli::FindSampler(name)->servable);
  }
  EXPECT_EQ(cli::FindSampler("best"), nullptr);
}

TEST(RegistryTest, RefusesWhatMakesNoSense) {
  for (const RegisteredSampler& sampler : cli::AllSamplers()) {
    SCOPED_TRACE(sampler.name);
    EXPECT_FALSE(sampler.make({.dim = 64, .min_indexed_rows = 0}).ok());
    if (sampler.name == "exact") continue;
    EXPECT_FALSE(sampler.make({.dim = 100}).ok());
    EXPECT_FALSE(sampler.make({.dim = 520}).ok());
  }
  SamplerSpec spec = {.dim = 64};
  spec.sketch.row_fraction = 0;
  for (const std::string_view name : {"sketch", "uniform", "oracle", "topk", "quest"}) {
    EXPECT_FALSE(cli::FindSampler(name)->make(spec).ok()) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Samplers, ConformanceTest, testing::ValuesIn(Configurations()),
                         [](const auto& test) { return test.param.label; });

}  // namespace
}  // namespace sounder::kv_node
