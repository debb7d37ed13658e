#include "common/base/philox.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace sounder::base {
namespace {

uint64_t Key(uint32_t k0, uint32_t k1) { return k0 | (uint64_t{k1} << 32); }

// The known answers of "philox4x32 10" that the authors publish with Random123.
TEST(PhiloxTest, KnownAnswers) {
  EXPECT_EQ(Philox(Key(0, 0), {0, 0, 0, 0}),
            (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Philox(Key(kOnes, kOnes), {kOnes, kOnes, kOnes, kOnes}),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  // The digits of pi.
  EXPECT_EQ(Philox(Key(0xa4093822, 0x299f31d0), {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
  static_assert(Philox(0, {0, 0, 0, 0})[0] == 0x6627e8d5, "usable at compile time");
}

TEST(PhiloxTest, AStreamIsItsBlocksInOrder) {
  constexpr uint64_t kKey = 0x0123456789abcdef;
  constexpr uint64_t kStream = 0xfedcba9876543210;
  PhiloxStream words(kKey, kStream);
  PhiloxStream pairs(kKey, kStream);
  for (uint32_t block = 0; block < 9; ++block) {
    const PhiloxBlock expected = Philox(
        kKey, {block, 0, static_cast<uint32_t>(kStream), static_cast<uint32_t>(kStream >> 32)});
    for (const uint32_t word : expected) EXPECT_EQ(words.Next32(), word);
    EXPECT_EQ(pairs.Next64(), expected[0] | (uint64_t{expected[1]} << 32));
    EXPECT_EQ(pairs.Next64(), expected[2] | (uint64_t{expected[3]} << 32));
  }
}

TEST(PhiloxTest, CopiesContinueAlikeAndNeighboursDiffer) {
  PhiloxStream stream(7, 9);
  stream.NextGaussian();  // leaves a spare behind
  PhiloxStream copy = stream;
  for (int i = 0; i < 100; ++i) EXPECT_EQ(stream.NextGaussian(), copy.NextGaussian());
  std::set<uint64_t> first;
  for (uint64_t key = 0; key < 30; ++key) {
    for (uint64_t of_key = 0; of_key < 30; ++of_key)
      first.insert(PhiloxStream(key, of_key).Next64());
  }
  EXPECT_EQ(first.size(), 900u);
}

TEST(PhiloxTest, UniformNumbersStayInTheirRange) {
  PhiloxStream stream(1, 2);
  constexpr int kDraws = 100000;
  double sum = 0, squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = stream.NextUniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    squares += u * u;
  }
  // Six standard deviations of the mean of u (0.2887 / sqrt(n)) and of u^2 (0.2981 / sqrt(n)).
  EXPECT_NEAR(sum / kDraws, 0.5, 6 * 0.2887 / std::sqrt(kDraws));
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 6 * 0.2981 / std::sqrt(kDraws));
}

TEST(PhiloxTest, NextBelowIsEvenOverItsRange) {
  PhiloxStream stream(3, 4);
  for (const uint32_t bound : {1u, 2u, 7u, 1000u}) {
    std::vector<int> seen(bound);
    const int draws = 200 * static_cast<int>(bound);
    for (int i = 0; i < draws; ++i) {
      const uint32_t value = stream.NextBelow(bound);
      ASSERT_LT(value, bound);
      ++seen[value];
    }
    for (const int count : seen) EXPECT_NEAR(count, 200, 6 * std::sqrt(200.0)) << bound;
  }
  for (int i = 0; i < 1000; ++i) EXPECT_LT(stream.NextBelow(UINT32_MAX), UINT32_MAX);
}

TEST(PhiloxTest, GaussiansHaveTheirMoments) {
  PhiloxStream stream(5, 6);
  constexpr int kDraws = 200000;
  double moments[4] = {};
  for (int i = 0; i < kDraws; ++i) {
    const double x = stream.NextGaussian();
    ASSERT_TRUE(std::isfinite(x));
    double power = 1;
    for (double& moment : moments) moment += (power *= x);
  }
  // Standard deviations of x, x^2, x^3, x^4 are 1, sqrt(2), sqrt(15), sqrt(96).
  const double expected[4] = {0, 1, 0, 3};
  const double deviation[4] = {1, std::sqrt(2.0), std::sqrt(15.0), std::sqrt(96.0)};
  for (int k = 0; k < 4; ++k) {
    EXPECT_NEAR(moments[k] / kDraws, expected[k], 6 * deviation[k] / std::sqrt(kDraws)) << k + 1;
  }
}

}  // namespace
}  // namespace sounder::base
