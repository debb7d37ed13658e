#include "kv_node/kernels/pps_sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "common/base/philox.h"
#include "common/kernels/simd_level.h"
#include "kv_node/kernels/sketch_scan.h"

namespace sounder::kv_node {
namespace {

constexpr int kStep = 37;
constexpr double kOrder = double{kScoreUnit} / kStep;  // scores per binary order

// Scores of a group of queries over `rows` rows: normal with standard deviation `spread` binary
// orders; rows beyond are kNoScore, and so are the first `hidden`.
struct Scored {
  Scored(int queries, int64_t rows, double spread, uint64_t seed, int64_t hidden = 0)
      : padded((rows + 63) / 64 * 64),
        offsets(queries, 0),
        scores(queries * padded, kNoScore),
        shares(padded),
        sums(padded / kSizeBlockRows) {
    base::PhiloxStream stream(seed, 0);
    for (int q = 0; q < queries; ++q) {
      offsets[q] = static_cast<int16_t>(40 * q);
      for (int64_t r = hidden; r < rows; ++r) {
        const double share = std::min(0.0, stream.NextGaussian() * spread - 12);
        scores[q * padded + r] =
            static_cast<int8_t>(std::clamp(share * kOrder + offsets[q], -127.0, 127.0));
      }
    }
    sizes = {.shares = shares.data(), .sums = sums.data()};
    MeasureSizes({.scores = scores.data(),
                  .stride = padded,
                  .padded_rows = padded,
                  .step = kStep,
                  .offsets = offsets},
                 &sizes);
  }
  int64_t padded;
  std::vector<int16_t> offsets;
  std::vector<int8_t> scores;
  std::vector<int8_t> shares;
  std::vector<uint32_t> sums;
  GroupSizes sizes;
};

// The size of a row, from its scores, in plain arithmetic: a line between powers of two.
uint32_t SizeRef(const Scored& scored, int64_t row) {
  int share = kNoScore;
  for (size_t q = 0; q < scored.offsets.size(); ++q) {
    const int score = scored.scores[q * scored.padded + row];
    if (score == kNoScore) return 0;
    share = std::max(share, std::clamp(score - scored.offsets[q], -127, 0));
  }
  const int exponent = static_cast<int>(std::floor(share * kStep / double{kScoreUnit}));
  const double mantissa = 1 + share * kStep / double{kScoreUnit} - exponent;
  return static_cast<uint32_t>(std::ldexp(mantissa, exponent + kFullSizeBits));
}

PpsPlan Plan(const GroupSizes& sizes, int64_t visible, double wanted, double floor_share) {
  std::vector<uint32_t> large(sizes.padded_rows + 1);
  return PlanSample(sizes, visible, wanted, floor_share, large.data());
}

struct Drawn {
  std::vector<uint16_t> rows;
  std::vector<float> probabilities;
  friend bool operator==(const Drawn&, const Drawn&) = default;
};

Drawn Draw(const Scored& scored, const PpsPlan& plan, uint32_t start) {
  Drawn drawn{std::vector<uint16_t>(scored.padded), std::vector<float>(scored.padded)};
  const int64_t count =
      DrawSystematic(scored.sizes, plan, start, {}, drawn.rows.data(), drawn.probabilities.data());
  drawn.rows.resize(count);
  drawn.probabilities.resize(count);
  return drawn;
}

class PpsSampleTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::ForceSimdLevel(GetParam()).ok()); }
  ~PpsSampleTest() override { EXPECT_TRUE(kernels::ForceSimdLevel("best").ok()); }
};

TEST_P(PpsSampleTest, MeasuresSizes) {
  for (const int queries : {1, 2, 3, 4, 8}) {
    for (const int64_t rows : {1, 63, 65, 700}) {
      const Scored scored(queries, rows, 5, 2, rows > 10 ? 7 : 0);
      uint64_t total = 0;
      for (int64_t b = 0; b < scored.padded / kSizeBlockRows; ++b) {
        uint64_t sum = 0;
        for (int64_t r = b * kSizeBlockRows; r < (b + 1) * kSizeBlockRows; ++r) {
          sum += SizeRef(scored, r);
        }
        ASSERT_EQ(scored.sums[b], sum) << b;
        total += sum;
      }
      EXPECT_EQ(scored.sizes.total, total);
    }
  }
}

TEST_P(PpsSampleTest, TakesExtremesForWhatTheyAre) {
  Scored scored(1, 64, 0, 1);
  scored.scores = std::vector<int8_t>(64, -127);
  scored.scores[0] = 127;
  scored.scores[1] = kNoScore;
  const auto measure = [&](int16_t offset) {
    scored.offsets[0] = offset;
    MeasureSizes({.scores = scored.scores.data(),
                  .stride = 64,
                  .padded_rows = 64,
                  .step = kMaxScoreStep,
                  .offsets = scored.offsets},
                 &scored.sizes);
  };
  measure(100);
  EXPECT_EQ(scored.shares[0], 0) << "more than all is all";
  EXPECT_EQ(scored.shares[1], kNoScore);
  EXPECT_EQ(scored.shares[2], kNoScore + 1) << "next to nothing, but not out";
  EXPECT_EQ(scored.sizes.total, uint64_t{1} << kFullSizeBits);
  measure(129);  // beyond eight bits
  EXPECT_EQ(scored.shares[0], -2);
  EXPECT_EQ(scored.sizes.total, uint64_t{1} << (kFullSizeBits - 2));
  measure(1000);
  EXPECT_EQ(scored.shares[0], -127);
  measure(-127);
  EXPECT_EQ(scored.shares[2], 0);
}

double ExpectedRows(const Scored& scored, const PpsPlan& plan) {
  double expected = 0;
  for (int64_t r = 0; r < scored.padded; ++r) {
    if (scored.shares[r] == kNoScore) continue;
    expected += std::min(
        1.0, static_cast<double>(SizeRef(scored, r) + plan.floor) / static_cast<double>(plan.step));
  }
  return expected;
}

TEST_P(PpsSampleTest, MeetsTheBudget) {
  for (const double spread : {0.0, 1.0, 3.0, 6.0, 12.0}) {
    for (const int64_t rows : {1, 63, 64, 65, 1000, 5000}) {
      const Scored scored(2, rows, spread, 2);
      for (const double share : {0.003, 0.01, 0.05, 0.5, 0.99, 1.0, 2.0}) {
        SCOPED_TRACE(std::to_string(spread) + " " + std::to_string(rows) + " " +
                     std::to_string(share));
        const double wanted = share * static_cast<double>(rows);
        const PpsPlan plan = Plan(scored.sizes, rows, wanted, 0.1);
        const double expected = ExpectedRows(scored, plan);
        EXPECT_NEAR(expected, std::min(wanted, static_cast<double>(rows)), 0.01 * wanted + 1e-3);
        const auto drawn = static_cast<double>(Draw(scored, plan, 1u << 31).rows.size());
        EXPECT_NEAR(drawn, expected, 1);
        if (share >= 1) {
          EXPECT_EQ(drawn, static_cast<double>(rows));
        }
      }
    }
  }
  const Scored scored(2, 100, 1, 3);
  EXPECT_TRUE(Draw(scored, Plan(scored.sizes, 100, 0, 0.1), 5).rows.empty());
  EXPECT_TRUE(Draw(scored, Plan(scored.sizes, 0, 10, 0.1), 5).rows.empty());
}

// Over starts that are spread evenly, every row comes as often as its probability says, and sums
// over the sample divided by probabilities are those over all rows.
TEST_P(PpsSampleTest, DrawsWithTheProbabilitiesItNames) {
  constexpr int64_t kRows = 700;
  constexpr int64_t kHidden = 40;
  constexpr uint32_t kStarts = 4096;
  const Scored scored(3, kRows, 3, 5, kHidden);
  const PpsPlan plan = Plan(scored.sizes, kRows - kHidden, 70, 0.1);
  std::vector<int> times(kRows);
  std::vector<double> named(kRows);
  double estimate = 0;
  for (uint32_t k = 0; k < kStarts; ++k) {
    const Drawn drawn = Draw(scored, plan, k * (uint32_t{1} << 20));
    EXPECT_TRUE(std::is_sorted(drawn.rows.begin(), drawn.rows.end()));
    EXPECT_EQ(std::adjacent_find(drawn.rows.begin(), drawn.rows.end()), drawn.rows.end());
    for (size_t i = 0; i < drawn.rows.size(); ++i) {
      ASSERT_LT(drawn.rows[i], kRows);
      ++times[drawn.rows[i]];
      named[drawn.rows[i]] = drawn.probabilities[i];
      estimate += (drawn.rows[i] % 7) / double{drawn.probabilities[i]} / kStarts;
    }
  }
  double truth = 0;
  int always = 0;
  for (int64_t r = 0; r < kHidden; ++r) EXPECT_EQ(times[r], 0) << r;
  for (int64_t r = kHidden; r < kRows; ++r) {
    truth += static_cast<double>(r % 7);
    ASSERT_GT(named[r], 0) << r;
    EXPECT_NEAR(times[r] / double(kStarts), named[r], 1.01 / kStarts) << r;
    always += named[r] == 1 ? 1 : 0;
  }
  EXPECT_GT(always, 3) << "no row is certain, the test shows less than it should";
  EXPECT_NEAR(estimate / truth, 1, 0.01);
}

TEST_P(PpsSampleTest, TheSameRowsAtEveryLevel) {
  for (const double spread : {0.5, 3.0, 8.0}) {
    const auto draw = [&] {
      const Scored scored(4, 3001, spread, 8);
      const PpsPlan plan = Plan(scored.sizes, 3001, 90, 0.1);
      return std::tuple(plan.step, plan.floor, Draw(scored, plan, 777u << 20));
    };
    const auto here = draw();
    ASSERT_TRUE(kernels::ForceSimdLevel("best").ok());
    EXPECT_EQ(here, draw());
    ASSERT_TRUE(kernels::ForceSimdLevel(GetParam()).ok());
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, PpsSampleTest, testing::ValuesIn(kernels::SimdLevels()),
                         [](const auto& level) { return level.param; });

}  // namespace
}  // namespace sounder::kv_node
