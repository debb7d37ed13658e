#include "common/policy/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "common/base/absl_text.h"
#include "common/base/limits.h"
#include "common/base/philox.h"

namespace sounder::policy {
namespace {

using base::PositionRange;
using base::SessionId;

constexpr uint64_t kSeed = 31;

struct Case {
  PlacementOptions options;
  int kv_heads = 1;
  int64_t seal_rows = 1;
  SessionId session;
};

Case RandomCase(base::PhiloxStream& random) {
  Case drawn;
  drawn.kv_heads = 1 + static_cast<int>(random.NextBelow(12));
  drawn.seal_rows = 1 + random.NextBelow(9);
  drawn.options.num_nodes = 1 + static_cast<int>(random.NextBelow(7));
  drawn.options.head_shards =
      1 + static_cast<int>(random.NextBelow(static_cast<uint32_t>(drawn.kv_heads)));
  drawn.options.shard_rows = random.NextBelow(4) * drawn.seal_rows;
  drawn.session = {random.Next64(), random.Next64()};
  return drawn;
}

Placement Make(const Case& from) {
  auto placement = Placement::Create(from.options, from.kv_heads, from.seal_rows, from.session);
  EXPECT_TRUE(placement.ok()) << placement.status();
  return *placement;
}

TEST(PlacementTest, EveryPositionAndHeadLiesInExactlyOneShard) {
  std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  base::PhiloxStream random(kSeed, 0);
  for (int round = 0; round < 2000; ++round) {
    const Case drawn = RandomCase(random);
    const Placement placement = Make(drawn);
    PositionRange range{random.NextBelow(60), 0};
    range.end = range.begin + random.NextBelow(60);
    std::vector<int> seen(static_cast<size_t>(range.size() * drawn.kv_heads));
    PositionRange last{-1, -1};
    int last_head = 0;
    for (const Shard& shard : placement.ShardsOf(range)) {
      ASSERT_FALSE(shard.range.empty());
      ASSERT_GT(shard.kv_heads(), 0);
      ASSERT_GE(shard.node, 0);
      ASSERT_LT(shard.node, drawn.options.num_nodes);
      // Cuts along the sequence lie on seal marks.
      if (shard.range.begin != range.begin) {
        ASSERT_EQ(shard.range.begin % drawn.seal_rows, 0);
      }
      // In order of position, then head.
      if (shard.range == last) {
        ASSERT_EQ(shard.kv_head_begin, last_head);
      } else {
        ASSERT_EQ(shard.range.begin, last.end == -1 ? range.begin : last.end);
        ASSERT_EQ(shard.kv_head_begin, 0);
      }
      last = shard.range;
      last_head = shard.kv_head_end;
      for (int64_t position = shard.range.begin; position < shard.range.end; ++position) {
        ASSERT_GE(position, range.begin);
        ASSERT_LT(position, range.end);
        for (int head = shard.kv_head_begin; head < shard.kv_head_end; ++head) {
          ++seen.at(static_cast<size_t>((position - range.begin) * drawn.kv_heads + head));
        }
      }
    }
    ASSERT_TRUE(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; })) << round;
  }
}

TEST(PlacementTest, WhereAPositionLiesDoesNotDependOnTheRangeAskedFor) {
  base::PhiloxStream random(kSeed, 1);
  for (int round = 0; round < 300; ++round) {
    const Case drawn = RandomCase(random);
    const Placement placement = Make(drawn);
    const std::vector<Shard> all = placement.ShardsOf({0, 80});
    for (int64_t position = 0; position < 80; ++position) {
      for (const Shard& one : placement.ShardsOf({position, position + 1})) {
        const bool same = std::any_of(all.begin(), all.end(), [&](const Shard& shard) {
          return shard.node == one.node && shard.kv_head_begin == one.kv_head_begin &&
                 shard.kv_head_end == one.kv_head_end && shard.range.begin <= position &&
                 position < shard.range.end;
        });
        ASSERT_TRUE(same);
      }
    }
  }
}

TEST(PlacementTest, KvHeadsOfCoversWhatANodeMayHoldAndNodesAreThose) {
  base::PhiloxStream random(kSeed, 2);
  for (int round = 0; round < 1000; ++round) {
    const Case drawn = RandomCase(random);
    const Placement placement = Make(drawn);
    std::vector<std::pair<int, int>> held(static_cast<size_t>(drawn.options.num_nodes),
                                          {drawn.kv_heads, 0});
    for (const Shard& shard : placement.ShardsOf({0, 400})) {
      auto& [begin, end] = held[static_cast<size_t>(shard.node)];
      begin = std::min(begin, shard.kv_head_begin);
      end = std::max(end, shard.kv_head_end);
    }
    std::vector<int> nodes;
    for (int node = 0; node < drawn.options.num_nodes; ++node) {
      const auto [begin, end] = held[static_cast<size_t>(node)];
      const auto expected = begin < end ? std::pair(begin, end) : std::pair(0, 0);
      ASSERT_EQ(placement.KvHeadsOf(node), expected) << round;
      if (begin < end) nodes.push_back(node);
    }
    ASSERT_EQ(placement.Nodes(), nodes);
  }
}

TEST(PlacementTest, HeadsAreSpreadEvenlyOverShards) {
  for (int kv_heads = 1; kv_heads <= 20; ++kv_heads) {
    for (int parts = 1; parts <= kv_heads; ++parts) {
      const Placement placement = Make({{.num_nodes = 2, .head_shards = parts}, kv_heads, 1, {}});
      const std::vector<Shard> shards = placement.ShardsOf({0, 1});
      ASSERT_EQ(shards.size(), static_cast<size_t>(parts));
      for (const Shard& shard : shards) {
        EXPECT_GE(shard.kv_heads(), kv_heads / parts);
        EXPECT_LE(shard.kv_heads(), (kv_heads + parts - 1) / parts);
      }
    }
  }
}

TEST(PlacementTest, SessionsAreSpreadOverNodes) {
  constexpr int kNodes = 5;
  constexpr int kSessions = 5000;
  base::PhiloxStream random(kSeed, 3);
  std::vector<int> drawn_ids(kNodes), counted_ids(kNodes);
  for (uint64_t i = 0; i < kSessions; ++i) {
    const PlacementOptions options{.num_nodes = kNodes};
    const SessionId id{random.Next64(), random.Next64()};
    ++drawn_ids[static_cast<size_t>(Make({options, 8, 1, id}).ShardsOf({0, 1})[0].node)];
    // Ids that differ little spread as well.
    ++counted_ids[static_cast<size_t>(Make({options, 8, 1, {0, i}}).ShardsOf({0, 1})[0].node)];
  }
  for (int node = 0; node < kNodes; ++node) {
    const double deviation = std::sqrt(kSessions * 0.2 * 0.8);
    EXPECT_NEAR(drawn_ids[static_cast<size_t>(node)], kSessions / kNodes, 5 * deviation);
    EXPECT_NEAR(counted_ids[static_cast<size_t>(node)], kSessions / kNodes, 5 * deviation);
  }
}

TEST(PlacementTest, ALongSessionUsesEveryNode) {
  const Placement placement = Make({{.num_nodes = 3, .shard_rows = 4}, 2, 4, {1, 2}});
  std::vector<int> rows(3);
  for (const Shard& shard : placement.ShardsOf({0, 1200})) {
    rows[static_cast<size_t>(shard.node)] += static_cast<int>(shard.range.size());
  }
  EXPECT_THAT(rows, testing::Each(400));
  EXPECT_THAT(placement.Nodes(), testing::ElementsAre(0, 1, 2));
  // Not cut along the sequence: one node, up to the last position there can be.
  const Placement whole = Make({{.num_nodes = 3}, 2, 4, {1, 2}});
  EXPECT_EQ(whole.ShardsOf({0, base::kMaxPositions}).size(), 1u);
  EXPECT_EQ(whole.Nodes().size(), 1u);
}

TEST(PlacementTest, EmptyRangesHaveNoShards) {
  const Placement placement = Make({{.num_nodes = 3, .shard_rows = 4}, 2, 4, {1, 2}});
  EXPECT_TRUE(placement.ShardsOf({5, 5}).empty());
  EXPECT_TRUE(placement.ShardsOf({6, 5}).empty());
}

TEST(PlacementTest, WrongOptionsAreRefusedByName) {
  const auto refusal = [](const PlacementOptions& options, int kv_heads, int64_t seal_rows) {
    const auto placement = Placement::Create(options, kv_heads, seal_rows, {1, 2});
    EXPECT_EQ(placement.status().code(), absl::StatusCode::kInvalidArgument);
    return base::MessageOf(placement.status());
  };
  EXPECT_THAT(refusal({.num_nodes = 0}, 4, 8), testing::HasSubstr("needs a node"));
  EXPECT_THAT(refusal({.num_nodes = -1}, 4, 8), testing::HasSubstr("needs a node"));
  EXPECT_THAT(refusal({.head_shards = 0}, 4, 8), testing::HasSubstr("head shards 0"));
  EXPECT_THAT(refusal({.head_shards = 5}, 4, 8), testing::HasSubstr("the model's 4 kv heads"));
  EXPECT_THAT(refusal({.head_shards = 1}, 0, 8), testing::HasSubstr("kv heads"));
  EXPECT_THAT(refusal({.shard_rows = -8}, 4, 8), testing::HasSubstr("shard rows -8"));
  EXPECT_THAT(refusal({.shard_rows = 12}, 4, 8), testing::HasSubstr("multiple of seal rows 8"));
  EXPECT_THAT(refusal({.shard_rows = 8}, 4, 0), testing::HasSubstr("seal rows 0"));
  EXPECT_THAT(refusal({}, 4, -1), testing::HasSubstr("seal rows -1"));
}

TEST(PlacementDeathTest, PositionsOutOfBoundsAreABug) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const Placement placement = Make({{.num_nodes = 3}, 2, 4, {1, 2}});
  EXPECT_DEATH(placement.ShardsOf({-1, 5}), "CHECK failed");
  EXPECT_DEATH(placement.ShardsOf({0, base::kMaxPositions + 1}), "CHECK failed");
}

}  // namespace
}  // namespace sounder::policy
