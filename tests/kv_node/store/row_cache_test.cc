// The row cache: what was kept comes from memory the next time, to the byte; memory stays within
// its bound.
#include "kv_node/store/row_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <numeric>
#include <thread>

#include "tests/kv_node/store/asked_rows.h"

namespace sounder::kv_node {
namespace {

using absl::StatusCode;
using base::DType;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class RowCacheTest : public StoredRowsTest {
 protected:
  // The rows that are not there; those that are have to be right.
  std::vector<uint16_t> Missing(RowCache& cache, const TestSegment& from, const Reader& reader,
                                std::vector<uint16_t> rows) {
    Asked asked(reader, std::move(rows));
    std::vector<uint32_t> places;
    cache.Find(reader, asked.rows, asked.keys, asked.values, &places);
    std::vector<uint16_t> missing;
    for (size_t i = 0, next = 0; i < asked.rows.size(); ++i) {
      if (next < places.size() && places[next] == i) {
        missing.push_back(asked.rows[i]);
        ++next;
      } else {
        EXPECT_TRUE(asked.Has(from, i)) << asked.rows[i];
      }
    }
    return missing;
  }
};

TEST_F(RowCacheTest, FindsWhatItKeepsBySegmentAndRow) {
  const TestSegment a(1, 100, 24, DType::kBF16, 0), b(2, 100, 8, DType::kF32, 0);
  const Reader first = Store(a), second = Store(b);
  RowCache cache(1 << 20);
  EXPECT_EQ(cache.bytes(), 0u);
  EXPECT_THAT(Missing(cache, a, first, {3, 5}), ElementsAre(3, 5));
  Keep(cache, a, first, {5, 9, 70});
  Keep(cache, b, second, {3, 9});
  Keep(cache, a, first, {4, 9, 99});
  EXPECT_THAT(Missing(cache, a, first, {3, 4, 5, 6, 9, 70, 98, 99}), ElementsAre(3, 6, 98));
  EXPECT_THAT(Missing(cache, b, second, {0, 3, 4, 5, 9}), ElementsAre(0, 4, 5));
  const RowCacheCounts counts = cache.counts();
  EXPECT_EQ(counts.hits, 7u);
  EXPECT_EQ(counts.misses, 8u);
  EXPECT_EQ(counts.evicted, 0u);
  // A row kept twice counts once.
  const uint64_t bytes = cache.bytes();
  EXPECT_GT(bytes, 5 * a.content().keys.row_stride * 2u);
  Keep(cache, a, first, {4, 5, 9, 70, 99});
  EXPECT_EQ(cache.bytes(), bytes);
}

TEST_F(RowCacheTest, SizeZeroKeepsNothing) {
  const TestSegment a(1, 100, 24, DType::kBF16, 0);
  const Reader first = Store(a);
  RowCache cache(0);
  Keep(cache, a, first, {5, 9, 70});
  EXPECT_EQ(cache.bytes(), 0u);
  EXPECT_THAT(Missing(cache, a, first, {5}), ElementsAre(5));
}

TEST_F(RowCacheTest, RowsThatRecurOutliveThoseThatDoNot) {
  const TestSegment a(1, 4000, 64, DType::kBF16, 0);
  const Reader first = Store(a);
  RowCache cache(100'000);  // some 300 rows
  const std::vector<uint16_t> recurring = Rows(1000, 1100);
  Keep(cache, a, first, recurring);
  for (uint16_t step = 0; step < 60; ++step) {
    EXPECT_THAT(Missing(cache, a, first, recurring), IsEmpty()) << step;
    Keep(cache, a, first, Rows(2000 + 30 * step, 2030 + 30 * step));
    ASSERT_LE(cache.bytes(), cache.capacity());
  }
  EXPECT_GT(cache.counts().evicted, 1400u);
  EXPECT_GT(cache.bytes(), cache.capacity() * 8 / 10) << "room is used";
  // Once nobody asks for them they go.
  for (int i = 0; i < 90; ++i) {
    const auto first_row = static_cast<uint16_t>(2000 + i % 60 * 30);
    Keep(cache, a, first, Rows(first_row, first_row + 30));
  }
  EXPECT_EQ(Missing(cache, a, first, Rows(1000, 1100)).size(), 100u);
  // More than there can ever be room for changes nothing.
  const uint64_t bytes = cache.bytes();
  Keep(cache, a, first, Rows(0, 4000));
  EXPECT_EQ(cache.bytes(), bytes);
}

TEST_F(RowCacheTest, WhatIsKeptOfASegmentGoesWithIt) {
  std::vector<std::unique_ptr<TestSegment>> segments;
  RowCache cache(1 << 20);
  uint64_t first = 0, most = 0;
  for (uint64_t i = 1; i <= 40; ++i) {  // addresses come again
    segments.push_back(std::make_unique<TestSegment>(i, 50, 24, DType::kBF16, 0));
    const Reader reader = Store(*segments.back());
    EXPECT_EQ(Missing(cache, *segments.back(), reader, Rows(0, 50)).size(), 50u);
    Keep(cache, *segments.back(), reader, Rows(0, 50));
    EXPECT_THAT(Missing(cache, *segments.back(), reader, Rows(0, 50)), IsEmpty());
    if (i == 1) first = cache.bytes();
    most = std::max(most, cache.bytes());
  }
  EXPECT_LE(most, 3 * first) << "those let go of do not add up";
  ExpectNothingIsLeftIn(cache);
}

TEST_F(RowCacheTest, BytesAreWithinTheBoundWhateverHappens) {
  constexpr uint64_t kSeed = 7;
  std::printf("seed %llu\n", static_cast<unsigned long long>(kSeed));
  base::PhiloxStream random(kSeed, 0);
  std::vector<std::unique_ptr<TestSegment>> segments;
  std::vector<Reader> readers;
  for (uint64_t i = 1; i <= 6; ++i) {
    segments.push_back(
        std::make_unique<TestSegment>(i, 300, 8 * static_cast<int>(i), DType::kBF16, 0));
    readers.push_back(Store(*segments.back()));
  }
  RowCache cache(60'000);
  for (int step = 0; step < 2000; ++step) {
    const uint32_t i = random.NextBelow(6);
    const std::vector<uint16_t> rows = Sample(random, 300, 1 + random.NextBelow(30));
    switch (random.NextBelow(3)) {
      case 0:
        Keep(cache, *segments[i], readers[i], rows);
        break;
      case 1:
        Missing(cache, *segments[i], readers[i], rows);
        break;
      default:
        if (random.NextBelow(20) == 0) readers[i] = Store(*segments[i]);
    }
    ASSERT_LE(cache.bytes(), cache.capacity());
  }
  EXPECT_GT(cache.counts().evicted, 1000u);
  readers.clear();
  ExpectNothingIsLeftIn(cache);
}

}  // namespace
}  // namespace sounder::kv_node
