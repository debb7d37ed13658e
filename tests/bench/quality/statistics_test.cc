// Intervals against published and hand-computed values, and how often they hold what they promise.
#include "bench/quality/statistics.h"

#include <gtest/gtest.h>

#include "common/base/philox.h"

namespace sounder::quality {
namespace {

TEST(StatisticsTest, SharesHaveWilsonsInterval) {
  const Estimate all = Share(512, 512);
  EXPECT_EQ(all.mean, 1);
  EXPECT_NEAR(all.low, .9926, .0001);
  EXPECT_NEAR(all.high, 1, 1e-12);
  const Estimate most = Share(497, 512);
  EXPECT_NEAR(most.mean, .9707, .0001);
  EXPECT_NEAR(most.low, .9522, .0001);
  EXPECT_NEAR(most.high, .9822, .0001);
}

// 1 and 9 of 98 prompts answered by one side alone: (9.5 - 1.5) / 100, variance
// (11 / 100 - .08^2) / 100.
TEST(StatisticsTest, PairedDifferencesLookAtDisagreementsOnly) {
  std::vector<bool> a(98, true), b(98, true);
  for (int i = 0; i < 9; ++i) b[i] = false;
  a[9] = false;
  for (int i = 10; i < 40; ++i) a[i] = b[i] = false;
  const Estimate difference = PairedDifference(a, b);
  EXPECT_DOUBLE_EQ(difference.mean, 8.0 / 98);
  EXPECT_NEAR(difference.low, .08 - 1.95996 * .032187, 1e-5);
  EXPECT_NEAR(difference.high, .08 + 1.95996 * .032187, 1e-5);
  const Estimate reversed = PairedDifference(b, a);
  EXPECT_DOUBLE_EQ(reversed.low, -difference.high);
  EXPECT_DOUBLE_EQ(reversed.high, -difference.low);
}

TEST(StatisticsTest, NoDisagreementIsNoCertainty) {
  const std::vector<bool> right(1000, true);
  const Estimate difference = PairedDifference(right, right);
  EXPECT_EQ(difference.mean, 0);
  EXPECT_GT(difference.high, .001);
  EXPECT_LT(difference.high, .004);
}

TEST(StatisticsTest, IntervalsHoldTheTruthAboutAsOftenAsTheySay) {
  base::PhiloxStream random(1, 0);
  constexpr int kRuns = 2000, kPrompts = 400;
  int inside = 0;
  for (int run = 0; run < kRuns; ++run) {
    std::vector<bool> a, b;
    for (int i = 0; i < kPrompts; ++i) {  // b is right in .9, and a in .95 of those: truth -.045
      b.push_back(random.NextUniform() < .9);
      a.push_back(b.back() && random.NextUniform() < .95);
    }
    const Estimate difference = PairedDifference(a, b);
    inside += difference.low <= -.045 && -.045 <= difference.high ? 1 : 0;
  }
  EXPECT_GE(inside, .93 * kRuns);
  EXPECT_LE(inside, .975 * kRuns);
}

}  // namespace
}  // namespace sounder::quality
