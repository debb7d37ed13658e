#include "common/lsh/inclusion_probability.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

namespace sounder::lsh {
namespace {

// The tail as a plain sum of positive terms in long double.
long double TailByHand(int trials, long double p, int min_collisions) {
  long double sum = 0;
  for (int k = trials; k >= min_collisions; --k) {
    sum +=
        std::exp(std::lgamma(trials + 1.0L) - std::lgamma(k + 1.0L) -
                 std::lgamma(trials - k + 1.0L) + k * std::log(p) + (trials - k) * std::log1p(-p));
  }
  return sum;
}

TEST(LogBinomialTail, AgreesWithASumOfPositiveTerms) {
  for (int trials : {1, 2, 3, 75, 150, 1000}) {
    for (int min_collisions : {1, 2, 3, 7}) {
      if (min_collisions > trials) continue;
      for (double p : {1e-12, 1e-6, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.999}) {
        const double expected =
            static_cast<double>(std::log(TailByHand(trials, p, min_collisions)));
        const double tail = LogBinomialTail(trials, p, min_collisions);
        EXPECT_NEAR(tail, expected, 1e-11 * std::max(1.0, std::abs(expected)))
            << trials << " " << min_collisions << " " << p;
      }
    }
  }
}

TEST(LogBinomialTail, Equation10OfThePaper) {
  // u = 1 - (1 - P)^L - L P (1 - P)^(L-1), at the values tabulated for (10, 150).
  const double cosines[] = {0, 0.2, 0.4, 0.5, 0.6, 0.8};
  const double expected[] = {0.0097, 0.087, 0.443, 0.736, 0.943, 1.0};
  for (int i = 0; i < 6; ++i) {
    const double collision = std::pow(SameSideProbability(cosines[i]), 10);
    const double direct =
        1 - std::pow(1 - collision, 150) - 150 * collision * std::pow(1 - collision, 149);
    const double u = std::exp(LogBinomialTail(150, collision, 2));
    EXPECT_NEAR(u, direct, 1e-12);
    EXPECT_NEAR(u, expected[i], 6e-4);
  }
}

TEST(LogBinomialTail, Edges) {
  EXPECT_EQ(LogBinomialTail(150, 0, 2), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(LogBinomialTail(150, 1, 2), 0);
  EXPECT_EQ(LogBinomialTail(150, 0.3, 0), 0);
  EXPECT_NEAR(LogBinomialTail(2, 1e-100, 2), 2 * std::log(1e-100), 1e-9);
}

TEST(SameSideProbability, IsTotal) {
  EXPECT_EQ(SameSideProbability(1), 1);
  EXPECT_EQ(SameSideProbability(1.0001), 1);
  EXPECT_EQ(SameSideProbability(-1.5), 0);
  EXPECT_EQ(SameSideProbability(0), 0.5);
  EXPECT_EQ(SameSideProbability(std::nan("")), 0.5);
}

// All patterns of agreeing bits, and how likely each is.
TEST(CollisionProbability, CountsTheBucketsLookedInto) {
  for (const int bits : {1, 2, 5, 12}) {
    for (const double p : {0.0, 0.1, 0.5, 0.83, 1.0}) {
      double same = 0;
      double near = 0;
      for (uint32_t agree = 0; agree < uint32_t{1} << bits; ++agree) {
        const int count = std::popcount(agree);
        const double chance = std::pow(p, count) * std::pow(1 - p, bits - count);
        if (count == bits) same += chance;
        if (count >= bits - 1) near += chance;
      }
      EXPECT_NEAR(CollisionProbability({.bits_per_table = bits}, p), same, 1e-14);
      EXPECT_NEAR(CollisionProbability({.bits_per_table = bits, .probe_distance = 1}, p), near,
                  1e-14);
    }
  }
}

class InclusionTest : public testing::TestWithParam<ProjectionKind> {};

TEST_P(InclusionTest, TheTableInterpolatesTheFormula) {
  for (const auto& [bits, tables, collisions] : std::vector<std::array<int, 3>>{
           {10, 150, 2}, {8, 75, 2}, {1, 1, 1}, {16, 1024, 3}, {4, 9, 9}}) {
    const Projection projection = *Projection::Create({.bits_per_table = bits,
                                                       .num_tables = tables,
                                                       .min_collisions = collisions,
                                                       .projection = GetParam()},
                                                      64);
    const InclusionTable table(projection);
    ASSERT_EQ(table.values().size(), InclusionTable::kCells + 2u);
    for (int i = 0; i < 2000; ++i) {
      const double p = (i + 0.37) / 2000;
      const double exact = LogInclusionProbability(projection, p);
      const double x = p * InclusionTable::kCells;
      const int cell = static_cast<int>(x);
      const double value =
          table.values()[cell] + (x - cell) * (table.values()[cell + 1] - table.values()[cell]);
      EXPECT_LE(value, 0);
      // Below e^-20 nothing is sampled; near p = 0 the logarithm bends too much for its cells.
      if (exact < -20 || p < 0.02) continue;
      EXPECT_NEAR(value, exact, 1e-4) << bits << " " << tables << " " << p;
    }
  }
}

TEST_P(InclusionTest, GrowsWithTheCosineAndStaysAProbability) {
  const Projection projection = *Projection::Create({.projection = GetParam()}, 128);
  double last = 0;
  for (int i = -1000; i <= 1000; ++i) {
    const double u = InclusionProbability(projection, i / 1000.0);
    EXPECT_GT(u, 0);
    EXPECT_LE(u, 1);
    EXPECT_GE(u, last * (1 - 1e-9));
    last = u;
  }
  EXPECT_EQ(last, 1);
}

TEST_P(InclusionTest, OfSomeOfTheTables) {
  const LshParams params = {.num_tables = 150, .probe_distance = 1, .projection = GetParam()};
  LshParams fewer = params;
  fewer.num_tables = 37;
  const Projection projection = *Projection::Create(params, 128);
  EXPECT_EQ(LogInclusionProbability(projection, .6),
            LogInclusionProbability(projection, .6, params.num_tables));
  EXPECT_LT(LogInclusionProbability(projection, .6, 37), LogInclusionProbability(projection, .6));
  if (GetParam() == ProjectionKind::kHadamard) return;  // its blocks depend on the tables there are
  const Projection small = *Projection::Create(fewer, 128);
  EXPECT_EQ(LogInclusionProbability(projection, .6, 37), LogInclusionProbability(small, .6));
}

INSTANTIATE_TEST_SUITE_P(Projections, InclusionTest,
                         testing::Values(ProjectionKind::kGaussian, ProjectionKind::kHadamard),
                         [](const auto& param_info) {
                           return std::string(NameOf(param_info.param));
                         });

}  // namespace
}  // namespace sounder::lsh
