// Every query attends to every position exactly once, however positions and blocks are cut.
#include "gpu_worker/engine/query_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/philox.h"

namespace sounder::gpu_worker {
namespace {

constexpr int64_t kCounts[] = {1, 2, 3, 7, 16, 64, 129};

// What is wrong with how queries [positions, positions + count) see positions; empty: nothing.
std::string SplitFault(const PositionSplit& split, int64_t positions, int64_t count) {
  for (int64_t t = 0; t < count; ++t) {
    const base::Position own = positions + t;
    for (base::Position at = 0; at < positions + count; ++at) {
      int seen = 0;
      for (const base::PositionRange& range : {split.sinks, split.window}) {
        seen += range.begin <= at && at < range.end && at <= own ? 1 : 0;  // causally
      }
      seen += split.middle.begin <= at && at < split.middle.end ? 1 : 0;  // without a bound
      if (seen == (at <= own ? 1 : 0)) continue;
      return absl::StrCat("the query at ", own, " sees position ", at, " ", seen, " times");
    }
  }
  return "";
}

TEST(SplitPositionsTest, EveryPositionOnce) {
  int64_t splits = 0;
  for (const int64_t count : kCounts) {
    for (const int64_t sinks : {0, 1, 4, 9, 40}) {
      for (const int64_t window : {1, 2, 8, 33, 500}) {
        for (const int64_t positions : {0, 1, 3, 4, 5, 8, 9, 12, 13, 40, 41, 42, 73, 74, 120}) {
          const PositionSplit split = SplitPositions(positions, count, sinks, window);
          ASSERT_EQ(SplitFault(split, positions, count), "")
              << count << " queries at " << positions << ", sinks " << sinks << ", window "
              << window;
          // What was shipped before the block is all that the nodes are asked for.
          ASSERT_LE(split.middle.end, std::max(positions, split.middle.begin));
          ++splits;
        }
      }
    }
  }
  std::printf("%lld splits\n", static_cast<long long>(splits));
}

// Negative control: the checker notices one position too many and one too few.
TEST(SplitPositionsTest, FaultsAreNoticed) {
  PositionSplit split = SplitPositions(50, 7, 4, 8);
  EXPECT_EQ(SplitFault(split, 50, 7), "");
  ++split.middle.end;
  EXPECT_NE(SplitFault(split, 50, 7), "");
  split.middle.end -= 2;
  EXPECT_NE(SplitFault(split, 50, 7), "");
  // The window of the last query instead of the first: earlier ones would miss positions or see
  // the middle's beyond their own.
  split = SplitPositions(56, 1, 4, 3);
  split.window.end = 57;
  EXPECT_NE(SplitFault(split, 50, 7), "");
}

struct Case {
  int64_t count = 0;
  base::PositionRange middle;
  int64_t seal_rows = 0;
  std::vector<base::Position> marks;
  QueryBlockLimits limits;
};

// A node's units for [begin, end), as it cuts segments and pieces (kv_node/server/work_split.h).
int64_t UnitsOf(const Case& c, base::PositionRange range, int64_t queries_of_head) {
  const int64_t rows = base::kUnitRows * ((queries_of_head + 63) / 64);
  int64_t units = 0;
  for (base::Position begin = range.begin; begin < range.end;) {
    base::Position first = begin / c.seal_rows * c.seal_rows;  // of the segment
    base::Position last = first + c.seal_rows;
    for (const base::Position mark : c.marks) {
      if (mark <= begin) first = std::max(first, mark);
      if (mark > begin) last = std::min(last, mark);
    }
    begin = std::min({range.end, last, first + ((begin - first) / rows + 1) * rows});
    ++units;
  }
  return units;
}

std::optional<std::string> BlocksFault(const Case& c, const std::vector<QueryBlock>& blocks) {
  std::vector<base::Position> next(static_cast<size_t>(c.count), c.middle.begin);
  for (const QueryBlock& block : blocks) {
    if (block.count < 1 || block.count > c.limits.queries || block.range.empty()) return "size";
    for (int64_t t = block.first; t < block.first + block.count; ++t) {
      if (t >= c.count || next[static_cast<size_t>(t)] != block.range.begin) return "order";
      next[static_cast<size_t>(t)] = block.range.end;
    }
    // At most the partial outputs that fit, but for a single run between cuts.
    const int64_t units = UnitsOf(c, block.range, 1);
    if (units > 2 && units * block.count > c.limits.query_units) return "units";
  }
  for (const base::Position end : next) {
    if (end != std::max(c.middle.begin, c.middle.end)) return "end";
  }
  return std::nullopt;
}

TEST(CutQueryBlockTest, EveryQueryAndPositionOnceWithinTheLimits) {
  constexpr uint64_t kSeeds = 3000;
  int64_t cut = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    base::PhiloxStream random(seed, 1);
    Case c;
    c.count = kCounts[random.NextBelow(7)];
    c.middle.begin = random.NextBelow(10);
    c.middle.end = c.middle.begin + random.NextBelow(40000);
    c.seal_rows = std::vector<int64_t>{16, 48, 1024, 4096, 5000, 65536}[random.NextBelow(6)];
    if (c.seal_rows < 1024) c.middle.end = c.middle.begin + c.middle.size() / 50;
    base::Position mark = 0;
    for (uint32_t marks = random.NextBelow(6); marks > 0; --marks) {
      c.marks.push_back(mark += 1 + random.NextBelow(9000));
    }
    c.limits.queries = 1 + random.NextBelow(150);
    c.limits.query_units = 2 * c.limits.queries + random.NextBelow(600);
    const std::vector<QueryBlock> blocks =
        CutQueryBlock(c.count, c.middle, c.seal_rows, c.marks, c.limits);
    ASSERT_EQ(BlocksFault(c, blocks).value_or(""), "") << "seed " << seed;
    cut += blocks.size() > 1 ? 1 : 0;
    if (c.middle.empty()) {
      EXPECT_TRUE(blocks.empty());
    }
  }
  std::printf("%llu blocks, %lld of them cut\n", static_cast<unsigned long long>(kSeeds),
              static_cast<long long>(cut));
  EXPECT_GT(cut, 500);
}

TEST(CutQueryBlockTest, FaultsAreNoticed) {
  const Case c{8, {3, 500}, 64, {100}, {4, 12}};
  std::vector<QueryBlock> blocks = CutQueryBlock(c.count, c.middle, c.seal_rows, c.marks, c.limits);
  ASSERT_GT(blocks.size(), 3u);
  EXPECT_EQ(BlocksFault(c, blocks), std::nullopt);
  const auto broken = [&](const auto& change) {
    std::vector<QueryBlock> wrong = blocks;
    change(wrong);
    return BlocksFault(c, wrong).has_value();
  };
  EXPECT_TRUE(broken([](auto& wrong) { wrong.pop_back(); }));
  EXPECT_TRUE(broken([](auto& wrong) { wrong.push_back(wrong.back()); }));
  EXPECT_TRUE(broken([](auto& wrong) { ++wrong[1].range.begin; }));
  EXPECT_TRUE(broken([](auto& wrong) { std::swap(wrong[0], wrong[1]); }));
  EXPECT_TRUE(broken([](auto& wrong) { wrong[0].range.end = 500; }));
}

// What fits is not cut: rows are read once.
TEST(CutQueryBlockTest, LimitsOfModels) {
  const QueryBlockLimits tiny = LimitsOf(4, 32);
  EXPECT_EQ(tiny.queries, base::kMaxQueryBlock);
  // 32 query heads of 128: 512 queries over 4 segments of 4,096 rows and more.
  const QueryBlockLimits large = LimitsOf(32, 128);
  EXPECT_GE(large.queries, 512);
  EXPECT_EQ(CutQueryBlock(512, {4, 31 * 4096}, 4096, {}, large).size(), 1u);
  EXPECT_EQ(CutQueryBlock(512, {4, 32 * 4096}, 4096, {}, large).size(), 2u);
  // The largest there may be: still a query and two units.
  const QueryBlockLimits huge = LimitsOf(32 * 1024, 512);
  EXPECT_GE(huge.queries, 1);
  EXPECT_GE(huge.query_units, 2);
  EXPECT_LE(static_cast<uint64_t>(huge.queries) * 32 * 1024 * 513 * 4, base::kMaxPayloadBytes);
}

}  // namespace
}  // namespace sounder::gpu_worker
