#include "common/base/dtype.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/base/philox.h"

namespace sounder::base {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

uint32_t BitsOf(float value) { return std::bit_cast<uint32_t>(value); }

// A 16-bit format, from its definition: exponent and mantissa in double arithmetic.
struct Format {
  const char* name;
  int exponent_bits;
  int mantissa_bits;
  float (*from)(uint16_t);
  uint16_t (*to)(float);

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  uint16_t infinity() const {
    return static_cast<uint16_t>(((1 << exponent_bits) - 1) << mantissa_bits);
  }
  bool IsNan(uint16_t bits) const { return (bits & 0x7fff) > infinity(); }

  double Value(uint16_t bits) const {
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    const int exponent = (bits & 0x7fff) >> mantissa_bits;
    const double sign = (bits & 0x8000) != 0 ? -1 : 1;
    if ((bits & 0x7fff) == infinity()) return sign * INFINITY;
    const double magnitude = exponent == 0 ? std::ldexp(mantissa, 1 - bias() - mantissa_bits)
                                           : std::ldexp(mantissa + (1 << mantissa_bits),
                                                        exponent - bias() - mantissa_bits);
    return sign * magnitude;
  }

  // The nearest of all values, ties to the even mantissa; the step past the largest finite value
  // is as wide as the last one. Looks each value up in a table of all of them.
  uint16_t Round(float value) const {
    const std::vector<double>& values = Magnitudes();
    const double magnitude = std::fabs(static_cast<double>(value));
    const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
    const auto above = std::lower_bound(values.begin(), values.end(), magnitude);
    if (above == values.end()) return sign | infinity();
    size_t nearest = static_cast<size_t>(above - values.begin());
    if (*above != magnitude) {
      const double up = *above - magnitude;
      const double down = magnitude - above[-1];
      if (down < up || (down == up && (nearest - 1) % 2 == 0)) --nearest;
    }
    return sign | static_cast<uint16_t>(nearest);
  }

 private:
  // Index = bits. The place of infinity holds the value that the next exponent would have.
  const std::vector<double>& Magnitudes() const {
    static std::vector<double> tables[2];
    std::vector<double>& table = tables[exponent_bits == 5 ? 0 : 1];
    if (table.empty()) {
      for (uint16_t bits = 0; bits < infinity(); ++bits) table.push_back(Value(bits));
      table.push_back(std::ldexp(1.0, bias() + 1));
    }
    return table;
  }
};

class FormatTest : public testing::TestWithParam<Format> {};

INSTANTIATE_TEST_SUITE_P(Formats, FormatTest,
                         testing::Values(Format{"f16", 5, 10, &FromF16, &ToF16},
                                         Format{"bf16", 8, 7,
                                                [](uint16_t bits) { return FromBF16(bits); },
                                                [](float value) { return ToBF16(value); }}),
                         [](const auto& each) { return std::string(each.param.name); });

TEST_P(FormatTest, All65536ValuesRoundTrip) {
  const Format& format = GetParam();
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    const float value = format.from(bits);
    if (format.IsNan(bits)) {
      ASSERT_TRUE(std::isnan(value)) << i;
      ASSERT_TRUE(format.IsNan(format.to(value))) << i;
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), format.Value(bits)) << i;
    ASSERT_EQ(std::signbit(value), (bits & 0x8000) != 0) << i;
    ASSERT_EQ(format.to(value), bits) << i;
  }
}

// Around every value: the value, the middle to the next one, and both sides of each.
TEST_P(FormatTest, RoundsToNearestEven) {
  const Format& format = GetParam();
  PhiloxStream random(11, 0);
  for (uint32_t i = 0; i < format.infinity(); ++i) {
    const float low = format.from(static_cast<uint16_t>(i));
    const double next = i + 1 == format.infinity() ? std::ldexp(1.0, format.bias() + 1)
                                                   : format.Value(static_cast<uint16_t>(i + 1));
    const auto middle = static_cast<float>((low + next) / 2);
    const auto between = static_cast<float>(low + (next - low) * random.NextUniform());
    for (const float at : {low, middle, between}) {
      for (const float value :
           {at, std::nextafter(at, kInfinity), std::nextafter(at, -kInfinity)}) {
        ASSERT_EQ(format.to(value), format.Round(value)) << value;
        ASSERT_EQ(format.to(-value), format.Round(-value)) << -value;
      }
    }
  }
}

TEST_P(FormatTest, Extremes) {
  const Format& format = GetParam();
  EXPECT_EQ(format.to(kInfinity), format.infinity());
  EXPECT_EQ(format.to(-kInfinity), format.infinity() | 0x8000);
  EXPECT_EQ(format.to(std::numeric_limits<float>::max()), format.infinity());
  EXPECT_EQ(format.to(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(format.to(-0.0f), 0x8000);
  for (const uint32_t nan : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u}) {
    EXPECT_TRUE(format.IsNan(format.to(std::bit_cast<float>(nan)))) << nan;
  }
}

// A control of the tests above: cutting the mantissa off is not rounding.
TEST(DTypeTest, TruncationWouldBeCaught) {
  const Format truncating{"bf16", 8, 7, [](uint16_t bits) { return FromBF16(bits); },
                          [](float value) { return static_cast<uint16_t>(BitsOf(value) >> 16); }};
  EXPECT_NE(truncating.to(1.005f), truncating.Round(1.005f));
}

TEST(DTypeTest, NamesAndSizes) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    EXPECT_EQ(ParseDType(NameOf(dtype)), dtype);
  }
  EXPECT_EQ(ParseDType("F32"), DType::kF32);
  EXPECT_EQ(ParseDType("F16"), DType::kF16);
  EXPECT_EQ(ParseDType("BF16"), DType::kBF16);
  for (const char* wrong : {"", "f64", "Bf16", "bf16 ", "float"}) EXPECT_FALSE(ParseDType(wrong));
  EXPECT_EQ(SizeOf(DType::kF32), 4u);
  EXPECT_EQ(SizeOf(DType::kF16), 2u);
  EXPECT_EQ(SizeOf(DType::kBF16), 2u);
}

TEST(DTypeTest, ElementsAreStoredAndLoadedUnaligned) {
  std::byte memory[8];
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const float value : {0.0f, 1.0f, -3.14159f, 65504.0f, 1e-6f, kInfinity}) {
      std::fill(std::begin(memory), std::end(memory), std::byte{0xaa});
      StoreElement(value, memory + 1, dtype);
      EXPECT_EQ(LoadElement(memory + 1, dtype), RoundTo(dtype, value));
      EXPECT_EQ(memory[0], std::byte{0xaa});
      EXPECT_EQ(memory[1 + SizeOf(dtype)], std::byte{0xaa});
    }
  }
  EXPECT_EQ(RoundTo(DType::kF32, 0.1f), 0.1f);
}

}  // namespace
}  // namespace sounder::base
