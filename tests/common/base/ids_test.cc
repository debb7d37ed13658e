#include "common/base/ids.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/hash/hash.h"
#include "common/base/philox.h"

namespace sounder::base {
namespace {

TEST(SessionIdTest, PrintsAndParses) {
  EXPECT_EQ((SessionId{}).ToString(), "00000000000000000000000000000000");
  EXPECT_EQ((SessionId{0x0123456789abcdef, 1}).ToString(), "0123456789abcdef0000000000000001");
  PhiloxStream random(1, 0);
  for (int i = 0; i < 1000; ++i) {
    const SessionId id{random.Next64(), random.Next64()};
    EXPECT_EQ(id.ToString().size(), 32u);
    EXPECT_EQ(SessionId::Parse(id.ToString()), id);
  }
  EXPECT_EQ(SessionId::Parse("0123456789ABCDEF0000000000000001"),
            (SessionId{0x0123456789abcdef, 1}));
}

TEST(SessionIdTest, RefusesAnythingElse) {
  const std::string good(32, 'a');
  ASSERT_TRUE(SessionId::Parse(good));
  EXPECT_FALSE(SessionId::Parse(""));
  EXPECT_FALSE(SessionId::Parse(good.substr(1)));
  EXPECT_FALSE(SessionId::Parse(good + "a"));
  for (size_t at = 0; at < 32; ++at) {
    for (const char wrong : {'g', ' ', '-', '+', 'x', '\0'}) {
      std::string text = good;
      text[at] = wrong;
      EXPECT_FALSE(SessionId::Parse(text)) << text;
    }
  }
  EXPECT_FALSE(SessionId::Parse("0x" + good.substr(2)));
}

TEST(SessionIdTest, EmptyOrderedHashed) {
  EXPECT_TRUE((SessionId{}).empty());
  EXPECT_FALSE((SessionId{0, 1}).empty());
  EXPECT_FALSE((SessionId{1, 0}).empty());
  EXPECT_LT((SessionId{0, 9}), (SessionId{1, 0}));
  EXPECT_LT((SessionId{1, 0}), (SessionId{1, 1}));
  const absl::Hash<SessionId> hash;
  EXPECT_EQ(hash(SessionId{1, 2}), hash(SessionId{1, 2}));
  EXPECT_NE(hash(SessionId{1, 2}), hash(SessionId{2, 1}));
}

TEST(PositionRangeTest, SizesAndIntersections) {
  EXPECT_EQ((PositionRange{3, 10}).size(), 7);
  EXPECT_TRUE((PositionRange{3, 3}).empty());
  EXPECT_TRUE((PositionRange{4, 3}).empty());
  EXPECT_EQ((PositionRange{4, 3}).size(), 0);
  for (Position a = 0; a < 6; ++a) {
    for (Position b = 0; b < 6; ++b) {
      for (Position c = 0; c < 6; ++c) {
        for (Position d = 0; d < 6; ++d) {
          const PositionRange both = Intersect({a, b}, {c, d});
          for (Position at = 0; at < 6; ++at) {
            const auto in = [at](PositionRange range) {
              return at >= range.begin && at < range.end;
            };
            EXPECT_EQ(in(both), in({a, b}) && in({c, d}));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace sounder::base
