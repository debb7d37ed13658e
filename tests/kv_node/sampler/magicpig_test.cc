// The LSH sampler is MagicPIG: over many draws of the projections, rows are sampled as often as
// their inclusion probabilities say and the estimated partition function is unbiased. A wrong
// exponent, threshold or centring is caught by the same check.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "common/kernels/row_statistics.h"
#include "common/kernels/signature.h"
#include "common/lsh/inclusion_probability.h"
#include "kv_node/kernels/bucket_tables.h"
#include "tests/kv_node/sampler/testing.h"

namespace sounder::kv_node {
namespace {

constexpr int64_t kRows = 4096;
constexpr int kQueries = 8;
constexpr int kSeeds = 64;

// What is tested: the tables of the paper's main settings.
struct Setting {
  lsh::ProjectionKind projection;
  int bits;
  int tables;
  int dim;
};

std::string NameOf(const Setting& setting) {
  return std::string(lsh::NameOf(setting.projection)) + "_" + std::to_string(setting.bits) + "_" +
         std::to_string(setting.tables) + "_dim_" + std::to_string(setting.dim);
}

class MagicPigTest : public testing::TestWithParam<Setting> {
 protected:
  MagicPigTest() : dim_(GetParam().dim), scale_(1 / std::sqrt(static_cast<float>(dim_))) {
    // Keys share an offset, as real keys do; queries lean on it a little.
    const RowFunction key = Gaussian(1, 1, 0.8);
    keys_ = MakeRows(kRows, dim_, base::DType::kF32, key);
    values_ = MakeRows(kRows, dim_, base::DType::kF32, Gaussian(2));
    const RowFunction query = Gaussian(3, 1.0, 0.05);
    for (int i = 0; i < kQueries * dim_; ++i) queries_.push_back(query(0, 0));
    view_ = {.data = keys_.data(),
             .rows = kRows,
             .row_stride = dim_ * int64_t{4},
             .dim = dim_,
             .dtype = base::DType::kF32};
    mean_.resize(dim_);
    kernels::MeanOfRows(view_, mean_.data());
    const lsh::Projection projection = *lsh::Projection::Create(Params(1), dim_);
    for (int q = 0; q < kQueries; ++q) {
      double z = 0;
      double expected = 0;
      for (int64_t r = 0; r < kRows; ++r) {
        logits_.push_back(Logit(q, r));
        u_.push_back(lsh::InclusionProbability(projection, CentredCosine(q, r)));
        z += std::exp(logits_.back());
        expected += u_.back();
      }
      z_.push_back(z);
      expected_.push_back(expected);
    }
  }

  static lsh::LshParams Params(uint64_t seed) {
    return {.bits_per_table = GetParam().bits,
            .num_tables = GetParam().tables,
            .projection = GetParam().projection,
            .seed = seed};
  }
  double Logit(int q, int64_t r) const {
    double dot = 0;
    for (int c = 0; c < dim_; ++c) dot += double{queries_[q * dim_ + c]} * view_.At(r, c);
    return dot * scale_;
  }
  double CentredCosine(int q, int64_t r) const {
    double qk = 0;
    double qq = 0;
    double kk = 0;
    for (int c = 0; c < dim_; ++c) {
      const double query = queries_[q * dim_ + c];
      const double key = double{view_.At(r, c)} - mean_[c];
      qk += query * key;
      qq += query * query;
      kk += key * key;
    }
    return qk / std::sqrt(qq * kk);
  }
  std::vector<uint64_t> Signatures(const lsh::Projection& projection) const {
    std::vector<uint64_t> signatures(kQueries * projection.params().words());
    kernels::SignVectors(projection, queries_.data(), dim_, kQueries, signatures.data());
    return signatures;
  }

  const int dim_;
  const float scale_;
  memory::AlignedBuffer keys_;
  memory::AlignedBuffer values_;
  memory::RowsView view_;
  std::vector<float> queries_;
  std::vector<float> mean_;
  std::vector<double> logits_;    // [query, row]
  std::vector<double> u_;         // [query, row]
  std::vector<double> z_;         // [query]
  std::vector<double> expected_;  // [query] sum of u
};

TEST_P(MagicPigTest, SamplesAndEstimatesWithoutBias) {
  Statistic fraction;
  Statistic z_ratio;
  Statistic mutant_exponent;
  for (int seed = 0; seed < kSeeds; ++seed) {
    const auto sampler =
        *MakeSampler({.kind = SamplerKind::kLshTables, .lsh = Params(100 + seed), .dim = dim_});
    auto segment = *Segment::Create(0, kRows, dim_, base::DType::kF32,
                                    memory::AlignedBuffer::CopyOf(keys_.bytes()),
                                    memory::AlignedBuffer::CopyOf(values_.bytes()));
    Scratch scratch;
    segment->SetIndex(*sampler->BuildIndex(*segment->rows(), scratch));
    const std::vector<uint64_t> signatures = Signatures(*sampler->projection());
    const GroupQuery query = {.queries = queries_.data(),
                              .group = kQueries,
                              .signatures = signatures.data(),
                              .row_begin = 0,
                              .row_end = kRows,
                              .scale = scale_};
    std::vector<float> outputs(kQueries * dim_);
    std::vector<float> lse(kQueries);
    sampler->Attend(*segment, query, scratch, outputs.data(), lse.data(), nullptr, nullptr);
    double fractions = 0;
    double ratios = 0;
    double mutants = 0;
    for (int q = 0; q < kQueries; ++q) {
      const auto candidates = sampler->Candidates(*segment, query, q, scratch);
      double mutant = 0;
      for (const Candidate& c : candidates) {
        mutant += std::exp(logits_[q * kRows + c.row]) / std::pow(c.u, 1.1);
      }
      fractions += static_cast<double>(candidates.size()) / expected_[q] / kQueries;
      ratios += std::exp(lse[q] - std::log(z_[q])) / kQueries;
      mutants += mutant / z_[q] / kQueries;
    }
    fraction.Add(fractions);
    z_ratio.Add(ratios);
    mutant_exponent.Add(mutants);
  }
  std::printf(
      "%s: seeds %d, sampled / sum of u %.4f +- %.4f, Z ratio %.4f +- %.4f, with u^1.1 %.4f\n",
      NameOf(GetParam()).c_str(), kSeeds, fraction.mean(), fraction.standard_error(),
      z_ratio.mean(), z_ratio.standard_error(), mutant_exponent.mean());
  EXPECT_LE(fraction.standard_error(), 0.01);
  EXPECT_LE(z_ratio.standard_error(), 0.01);
  EXPECT_TRUE(fraction.IsOne());
  EXPECT_TRUE(z_ratio.IsOne());
  EXPECT_FALSE(mutant_exponent.IsOne());
}

// Mutants of the retrieval, on the kernels the sampler is made of: candidates at one collision, and
// tables over keys that were not centred, both with the probabilities of the real sampler.
TEST_P(MagicPigTest, CatchesWrongThresholdsAndMissingCentring) {
  Statistic honest;
  Statistic one_collision;
  Statistic not_centred;
  for (int seed = 0; seed < kSeeds / 2; ++seed) {
    const lsh::LshParams params = Params(100 + seed);
    const lsh::Projection projection = *lsh::Projection::Create(params, dim_);
    const std::vector<uint64_t> signatures = Signatures(projection);
    for (const bool centred : {true, false}) {
      std::vector<uint16_t> codes(params.num_tables * kRows);
      kernels::SignRows(projection, view_, centred ? mean_.data() : nullptr, codes.data(), kRows);
      std::vector<uint16_t> starts(params.num_tables * ((1 << params.bits_per_table) + 1));
      std::vector<uint16_t> ids(params.num_tables * kRows);
      std::vector<int32_t> full(params.num_tables);
      BuildBucketTables(codes.data(), kRows, kRows, params.bits_per_table, params.num_tables,
                        starts.data(), ids.data(), full.data());
      const BucketTables tables = {.rows = kRows,
                                   .bits_per_table = params.bits_per_table,
                                   .num_tables = params.num_tables,
                                   .starts = starts.data(),
                                   .ids = ids.data(),
                                   .full_bucket = full.data()};
      for (const int min_collisions : {1, 2}) {
        double ratio = 0;
        for (int q = 0; q < kQueries; ++q) {
          Scratch scratch;
          CountCollisions(tables, signatures.data() + q * params.words(), 0, scratch.counts());
          const int64_t count = TakeCandidates(scratch.counts(), kRows, min_collisions, 0, kRows,
                                               scratch.candidates(), scratch.seen());
          for (int64_t i = 0; i < count; ++i) {
            const int64_t at = q * kRows + scratch.candidates()[i];
            ratio += std::exp(logits_[at]) / u_[at] / z_[q] / kQueries;
          }
        }
        if (centred && min_collisions == 2) honest.Add(ratio);
        if (centred && min_collisions == 1) one_collision.Add(ratio);
        if (!centred && min_collisions == 2) not_centred.Add(ratio);
      }
    }
  }
  std::printf("Z ratio: honest %.3f, one collision %.3f, not centred %.3f\n", honest.mean(),
              one_collision.mean(), not_centred.mean());
  EXPECT_TRUE(honest.IsOne());
  EXPECT_FALSE(one_collision.IsOne());
  EXPECT_FALSE(not_centred.IsOne());
}

constexpr auto kGaussian = lsh::ProjectionKind::kGaussian;
constexpr auto kHadamard = lsh::ProjectionKind::kHadamard;

INSTANTIATE_TEST_SUITE_P(
    Settings, MagicPigTest,
    testing::Values(Setting{kGaussian, 8, 75, 64}, Setting{kHadamard, 8, 75, 64},
                    Setting{kGaussian, 9, 120, 128}, Setting{kHadamard, 9, 120, 128},
                    Setting{kGaussian, 10, 150, 128}, Setting{kHadamard, 10, 150, 128}),
    [](const auto& test) { return NameOf(test.param); });

}  // namespace
}  // namespace sounder::kv_node
