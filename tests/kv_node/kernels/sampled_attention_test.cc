#include "kv_node/kernels/sampled_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/kernels/row_statistics.h"
#include "common/kernels/simd_level.h"
#include "common/lsh/inclusion_probability.h"

namespace sounder::kv_node {
namespace {

using base::DType;

struct Rows {
  Rows(int64_t rows, int dim, DType dtype, double spread, double offset, uint64_t seed)
      : bytes(rows * dim * base::SizeOf(dtype)) {
    const int64_t element = base::SizeOf(dtype);
    view = {.data = bytes.data(),
            .rows = rows,
            .row_stride = dim * element,
            .dim = dim,
            .dtype = dtype};
    base::PhiloxStream stream(seed, 0);
    for (int64_t i = 0; i < rows * dim; ++i) {
      base::StoreElement(static_cast<float>(spread * stream.NextGaussian() + offset),
                         bytes.data() + i * element, dtype);
    }
  }
  std::vector<std::byte> bytes;
  memory::RowsView view;
};

class SampledAttentionTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::ForceSimdLevel(GetParam()).ok()); }
  ~SampledAttentionTest() override { EXPECT_TRUE(kernels::ForceSimdLevel("best").ok()); }
};

// One sample of `count` of 300 rows against float64.
void ExpectFloat64(int dim, DType dtype, size_t count, const lsh::Projection& projection,
                   const lsh::InclusionTable& inclusion) {
  const Rows keys(300, dim, dtype, 1, 0.5, 1);
  const Rows values(300, dim, dtype, 1, 0, 2);
  const Rows query(1, dim, DType::kF32, 2, 0, 3);
  const auto* q = reinterpret_cast<const float*>(query.view.data);
  std::vector<float> mean(dim);
  std::vector<float> norms(300);
  kernels::MeanOfRows(keys.view, mean.data());
  kernels::CentredNorms(keys.view, mean.data(), norms.data());
  std::vector<uint16_t> rows;
  for (size_t i = 0; i < count; ++i) rows.push_back(static_cast<uint16_t>(i * 300 / count));
  // Garbage beyond the sample must not matter.
  std::vector<float> logits(count + kSamplePadding, NAN);
  std::vector<float> log_u(count + kSamplePadding, NAN);
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  SampledLogits({.query = q,
                 .keys = keys.view,
                 .rows = rows,
                 .scale = scale,
                 .mean = mean.data(),
                 .norms = norms.data(),
                 .log_u = inclusion.values()},
                logits.data(), log_u.data());
  std::vector<double> adjusted;
  for (size_t i = 0; i < count; ++i) {
    double dot = 0;
    double centred_dot = 0;
    double qq = 0;
    double kk = 0;
    for (int c = 0; c < dim; ++c) {
      const double k = keys.view.At(rows[i], c);
      dot += q[c] * k;
      centred_dot += q[c] * (k - mean[c]);
      qq += double{q[c]} * q[c];
      kk += (k - mean[c]) * (k - mean[c]);
    }
    EXPECT_NEAR(logits[i], dot * scale, 3e-6 * (1 + std::abs(dot * scale)) + 2e-6);
    const double expected = lsh::LogInclusionProbability(
        projection, lsh::SameSideProbability(centred_dot / std::sqrt(qq * kk)));
    EXPECT_NEAR(std::max(log_u[i], -20.0f), std::max(expected, -20.0), 2e-4);
    adjusted.push_back(double{logits[i]} - log_u[i]);
  }
  const double largest = *std::max_element(adjusted.begin(), adjusted.end());
  double sum = 0;
  std::vector<double> expected_output(dim);
  for (size_t i = 0; i < count; ++i) {
    const double weight = std::exp(adjusted[i] - largest);
    sum += weight;
    for (int c = 0; c < dim; ++c) expected_output[c] += weight * values.view.At(rows[i], c);
  }
  std::vector<float> output(dim, NAN);
  float lse;
  WeightedValues(values.view, rows, logits.data(), log_u.data(), output.data(), &lse);
  EXPECT_NEAR(lse, largest + std::log(sum), 3e-6 * (1 + std::abs(largest)));
  for (int c = 0; c < dim; ++c) EXPECT_NEAR(output[c], expected_output[c] / sum, 1e-5);
}

TEST_P(SampledAttentionTest, AgreesWithFloat64) {
  for (int dim : {8, 24, 64, 80, 128, 256, 512}) {
    const lsh::Projection projection = *lsh::Projection::Create({}, dim);
    const lsh::InclusionTable inclusion(projection);
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (size_t count : {1, 3, 4, 17, 33, 250}) {
        SCOPED_TRACE(std::to_string(dim) + " " + std::string(base::NameOf(dtype)) + " " +
                     std::to_string(count));
        ExpectFloat64(dim, dtype, count, projection, inclusion);
      }
    }
  }
}

TEST_P(SampledAttentionTest, NoRows) {
  const Rows values(4, 16, DType::kBF16, 1, 0, 2);
  std::vector<float> output(16, NAN);
  float lse = NAN;
  WeightedValues(values.view, {}, nullptr, nullptr, output.data(), &lse);
  EXPECT_EQ(lse, -std::numeric_limits<float>::infinity());
  for (float x : output) EXPECT_EQ(x, 0.0f);
}

// A zero query, a key equal to the mean, keys along and against the query: clamped angles.
TEST_P(SampledAttentionTest, DegenerateAngles) {
  const int dim = 8;
  const lsh::Projection projection = *lsh::Projection::Create({.num_tables = 20}, dim);
  const lsh::InclusionTable inclusion(projection);
  const std::vector<float> keys = {1, 1, 1, 1, 1, 1, 1, 1, 3,  3,  3,  3,  3,  3,  3,  3,
                                   0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1};
  const memory::RowsView view = {.data = reinterpret_cast<const std::byte*>(keys.data()),
                                 .rows = 4,
                                 .row_stride = dim * 4,
                                 .dim = dim,
                                 .dtype = DType::kF32};
  const std::vector<float> mean(dim, 1.0f);
  // One norm a little short, so that the cosine comes out above 1.
  const std::vector<float> norms = {0, std::sqrt(8.0f) * 2 * 0.999f, std::sqrt(8.0f),
                                    std::sqrt(8.0f) * 2};
  const std::vector<uint16_t> rows = {0, 1, 2, 3};
  for (const float size : {0.7f, 0.0f}) {
    const std::vector<float> query(dim, size);
    std::vector<float> logits(4 + kSamplePadding);
    std::vector<float> log_u(4 + kSamplePadding);
    SampledLogits({.query = query.data(),
                   .keys = view,
                   .rows = rows,
                   .scale = 1,
                   .mean = mean.data(),
                   .norms = norms.data(),
                   .log_u = inclusion.values()},
                  logits.data(), log_u.data());
    const auto expected = [&](double cosine) {
      return lsh::LogInclusionProbability(projection, lsh::SameSideProbability(cosine));
    };
    EXPECT_NEAR(log_u[0], expected(0), 1e-4);
    EXPECT_NEAR(log_u[1], expected(size == 0 ? 0 : 1), 1e-4);
    EXPECT_NEAR(log_u[2], expected(size == 0 ? 0 : -1), 1e-4);
    EXPECT_NEAR(log_u[3], expected(size == 0 ? 0 : -1), 1e-4);
  }
}

TEST_P(SampledAttentionTest, FarLogitsVanishInsteadOfOverflowing) {
  const Rows values(3, 8, DType::kF32, 1, 0, 2);
  const std::vector<uint16_t> rows = {0, 1, 2};
  std::vector<float> logits = {-700, 500, 390};
  logits.resize(3 + kSamplePadding, 1e30f);
  std::vector<float> log_u = {-80, 0, -5};
  log_u.resize(3 + kSamplePadding, -1e30f);
  std::vector<float> output(8);
  float lse;
  WeightedValues(values.view, rows, logits.data(), log_u.data(), output.data(), &lse);
  EXPECT_FLOAT_EQ(lse, 500);
  for (int c = 0; c < 8; ++c) EXPECT_FLOAT_EQ(output[c], values.view.At(1, c));
}

// Heavy rows as they are, light ones by lot: unbiased, from a few hundred rows.
TEST_P(SampledAttentionTest, RouletteIsUnbiased) {
  constexpr int kDim = 16;
  constexpr int64_t kCount = 4000;
  const Rows values(kCount, kDim, DType::kBF16, 1, .5, 2);
  const Rows spread(1, kCount, DType::kF32, 1.5, 0, 3);
  std::vector<uint16_t> rows;
  for (int64_t i = 0; i < kCount; ++i) rows.push_back(static_cast<uint16_t>(i));
  const std::vector<float> log_u(kCount + kSamplePadding, -2.0f);
  const auto logits_of = [&] {
    std::vector<float> logits(kCount + kSamplePadding);
    for (int64_t i = 0; i < kCount; ++i) logits[i] = spread.view.At(0, static_cast<int>(i));
    return logits;
  };
  std::vector<float> weights = logits_of();
  std::vector<float> expected(kDim);
  float expected_lse;
  WeightedValues(values.view, rows, weights.data(), log_u.data(), expected.data(), &expected_lse);
  double sum = 0;
  for (int64_t i = 0; i < kCount; ++i) sum += weights[i];
  constexpr int kStarts = 512;
  std::vector<double> mean(kDim);
  std::vector<double> kept_mean(kCount);
  for (int start = 0; start < kStarts; ++start) {
    std::vector<float> logits = logits_of();
    std::vector<float> kept(kCount);
    std::vector<float> output(kDim);
    float lse;
    WeightedValuesByRoulette(values.view, rows, static_cast<uint32_t>(start) << 23, logits.data(),
                             log_u.data(), kept.data(), output.data(), &lse);
    EXPECT_EQ(lse, expected_lse);
    EXPECT_LE(kCount - std::count(kept.begin(), kept.end(), 0.0f), 2 * kRouletteRows + 1);
    for (int c = 0; c < kDim; ++c) {
      double by_hand = 0;
      for (int64_t i = 0; i < kCount; ++i) by_hand += kept[i] / sum * values.view.At(i, c);
      EXPECT_NEAR(output[c], by_hand, 1e-5);
      mean[c] += double{output[c]} / kStarts;
    }
    for (int64_t i = 0; i < kCount; ++i) {
      kept_mean[i] += double{kept[i]} / kStarts;
      if (weights[i] >= sum / kRouletteRows * 1.001) {
        EXPECT_EQ(kept[i], weights[i]);
      }
    }
  }
  // Starts evenly spread over the interval: every row's mean is right to its resolution.
  for (int64_t i = 0; i < kCount; ++i) {
    EXPECT_NEAR(kept_mean[i], weights[i], 1.01 * sum / kRouletteRows / kStarts);
  }
  for (int c = 0; c < kDim; ++c) EXPECT_NEAR(mean[c], expected[c], 3e-3);
  float lse = 0;
  std::vector<float> output(kDim, NAN);
  WeightedValuesByRoulette(values.view, {}, 0, nullptr, nullptr, nullptr, output.data(), &lse);
  EXPECT_EQ(lse, -std::numeric_limits<float>::infinity());
}

TEST_P(SampledAttentionTest, UnitesIndependentChances) {
  std::vector<float> log_u;
  for (int i = 0; i < 37; ++i) log_u.push_back(-2.5f * static_cast<float>(i));
  for (const size_t count : {1, 4, 19, 37}) {
    std::vector<float> first(log_u.begin(), log_u.begin() + static_cast<int64_t>(count));
    first.resize(count + kSamplePadding);
    std::vector<float> second(count + kSamplePadding, -7.0f);
    std::vector<float> u(count + kSamplePadding);
    UniteProbabilities(first.data(), count, u.data());
    for (size_t i = 0; i < count; ++i) {
      const double expected = std::exp(std::max(-70.0, double{log_u[i]}));
      EXPECT_NEAR(u[i], expected, 1e-5 * expected);
    }
    UniteProbabilities(second.data(), count, u.data());
    for (size_t i = 0; i < count; ++i) {
      const double expected = 1 - (1 - std::exp(double{log_u[i]})) * (1 - std::exp(-7.0));
      EXPECT_NEAR(u[i], expected, 1e-5 * expected);
      EXPECT_LE(u[i], 1);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, SampledAttentionTest, testing::ValuesIn(kernels::SimdLevels()),
                         [](const auto& param_info) { return param_info.param; });

}  // namespace
}  // namespace sounder::kv_node
