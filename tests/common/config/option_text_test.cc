#include "common/config/option_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/base/absl_text.h"
#include "common/base/philox.h"

namespace sounder::config {
namespace {

using std::chrono::nanoseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(OptionText, Ints) {
  EXPECT_EQ(*ParseInt(" 42 "), 42);
  EXPECT_EQ(*ParseInt("-7"), -7);
  EXPECT_EQ(*ParseInt("+7"), 7);
  EXPECT_EQ(*ParseInt("9223372036854775807"), std::numeric_limits<int64_t>::max());
  for (const char* bad :
       {"", " ", "4x", "4.0", "0x10", "9223372036854775808", "--1", "+-1", "1 2"}) {
    EXPECT_FALSE(ParseInt(bad).ok()) << bad;
  }
  EXPECT_THAT(base::MessageOf(ParseInt("4x").status()), HasSubstr("\"4x\" is not a whole number"));
}

TEST(OptionText, Doubles) {
  EXPECT_EQ(*ParseDouble("0.25"), 0.25);
  EXPECT_EQ(*ParseDouble("-1e-3"), -1e-3);
  for (const char* bad : {"", "nan", "inf", "-inf", "1e999", "1,5", "x", "+-1"}) {
    EXPECT_FALSE(ParseDouble(bad).ok()) << bad;
  }
}

TEST(OptionText, Bools) {
  for (const char* yes : {"true", "YES", "on", "1", " True "}) EXPECT_TRUE(*ParseBool(yes)) << yes;
  for (const char* no : {"false", "No", "OFF", "0"}) EXPECT_FALSE(*ParseBool(no)) << no;
  for (const char* bad : {"", "2", "y", "maybe"}) EXPECT_FALSE(ParseBool(bad).ok()) << bad;
}

TEST(OptionText, Bytes) {
  EXPECT_EQ(*ParseBytes("8GiB"), int64_t{8} << 30);
  EXPECT_EQ(*ParseBytes("512 MiB"), int64_t{512} << 20);
  EXPECT_EQ(*ParseBytes("1.5KiB"), 1536);
  EXPECT_EQ(*ParseBytes("10MB"), 10'000'000);
  EXPECT_EQ(*ParseBytes("4096"), 4096);
  EXPECT_EQ(*ParseBytes("0"), 0);
  EXPECT_EQ(*ParseBytes("7B"), 7);
  for (const char* bad : {"", "GiB", "8Gib", "8gb", "-1", "1.5", "1.0001KiB", "9999999999TiB",
                          "1..5KiB", "8GiB8", "1e3"}) {
    EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
  }
}

TEST(OptionText, Durations) {
  EXPECT_EQ(*ParseDuration("500ms"), std::chrono::milliseconds(500));
  EXPECT_EQ(*ParseDuration("2s"), std::chrono::seconds(2));
  EXPECT_EQ(*ParseDuration("1.5h"), std::chrono::minutes(90));
  EXPECT_EQ(*ParseDuration("10 us"), std::chrono::microseconds(10));
  EXPECT_EQ(*ParseDuration("3min"), std::chrono::minutes(3));
  EXPECT_EQ(*ParseDuration("0"), nanoseconds(0));
  for (const char* bad : {"", "2", "s", "2m", "2sec", "-1s", "0.5ns", "9999999h"}) {
    EXPECT_FALSE(ParseDuration(bad).ok()) << bad;
  }
}

TEST(OptionText, Lists) {
  EXPECT_THAT(*ParseList("a:1, b:2 ,c"), ElementsAre("a:1", "b:2", "c"));
  EXPECT_THAT(*ParseList(" "), IsEmpty());
  for (const char* bad : {",", "a,", ",a", "a,,b", "a, ,b"})
    EXPECT_FALSE(ParseList(bad).ok()) << bad;
}

TEST(OptionText, FormattedTextIsReadBack) {
  base::PhiloxStream random(1, 2);
  for (int i = 0; i < 2000; ++i) {
    const int64_t bits = static_cast<int64_t>(random.Next64() >> (1 + i % 60));
    EXPECT_EQ(*ParseBytes(FormatBytes(bits)), bits);
    EXPECT_EQ(ParseDuration(FormatDuration(nanoseconds(bits)))->count(), bits);
    const double number = random.NextGaussian() * static_cast<double>(bits);
    EXPECT_EQ(*ParseDouble(FormatDouble(number)), number);
  }
  EXPECT_EQ(FormatBytes(int64_t{8} << 30), "8GiB");
  EXPECT_EQ(FormatBytes(1000), "1000B");
  EXPECT_EQ(FormatBytes(0), "0B");
  EXPECT_EQ(FormatDuration(std::chrono::milliseconds(1500)), "1500ms");
  EXPECT_EQ(FormatDuration(nanoseconds(0)), "0s");
}

TEST(OptionText, NearestWord) {
  const std::vector<std::string> known = {"seal_rows", "seal_bytes", "nodes"};
  EXPECT_EQ(NearestWord("seal_row", known), "seal_rows");
  EXPECT_EQ(NearestWord("node", known), "nodes");
  EXPECT_EQ(NearestWord("window", known), "");
  EXPECT_EQ(NearestWord("", known), "");
}

TEST(OptionText, ColumnsWrap) {
  const std::string text =
      FormatColumns({{"--a", std::string(60, 'x') + " " + std::string(60, 'y')},
                     {std::string(50, 'l'), "right"}});
  EXPECT_EQ(text, "  --a  " + std::string(60, 'x') + "\n       " + std::string(60, 'y') + "\n  " +
                      std::string(50, 'l') + "\n       right\n");
}

}  // namespace
}  // namespace sounder::config
