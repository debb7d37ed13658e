// The row cache and the row source: what was read once comes from memory the next time, to the
// byte; memory stays within its bound; what fails is nobody's row.
#include "kv_node/store/row_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <numeric>
#include <thread>

#include "common/base/virtual_executor.h"
#include "kv_node/store/faulty_disk.h"
#include "kv_node/store/linux_disk.h"
#include "kv_node/store/row_source.h"
#include "kv_node/store/segment_log.h"
#include "tests/kv_node/store/await.h"
#include "tests/kv_node/store/scratch_folder.h"
#include "tests/kv_node/store/segment_content.h"

namespace sounder::kv_node {
namespace {

using absl::StatusCode;
using base::DType;
using Reader = std::shared_ptr<const SegmentReader>;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Rows of a segment on their way.
struct Asked {
  Asked(Reader reader, std::vector<uint16_t> wanted)
      : segment(std::move(reader)),
        rows(std::move(wanted)),
        keys(rows.size() * segment->shape().row_bytes() / 2),
        values(keys.size()) {}
  RowRequest Request(bool recurring) { return {segment, rows, keys, values, recurring}; }
  void TakeFrom(const TestSegment& from) {
    const size_t half = from.half_row_bytes();
    for (size_t i = 0; i < rows.size(); ++i) {
      std::memcpy(keys.data() + i * half, from.Key(rows[i]).data(), half);
      std::memcpy(values.data() + i * half, from.Value(rows[i]).data(), half);
    }
  }
  bool Has(const TestSegment& expected, size_t i) const {
    const size_t half = expected.half_row_bytes();
    return SameBytes(std::span(keys).subspan(i * half, half), expected.Key(rows[i])) &&
           SameBytes(std::span(values).subspan(i * half, half), expected.Value(rows[i]));
  }
  bool HasAll(const TestSegment& expected) const {
    for (size_t i = 0; i < rows.size(); ++i) {
      if (!Has(expected, i)) return false;
    }
    return true;
  }
  std::vector<uint32_t> AllPlaces() const {
    std::vector<uint32_t> places(rows.size());
    std::iota(places.begin(), places.end(), 0u);
    return places;
  }

  Reader segment;
  std::vector<uint16_t> rows;
  std::vector<std::byte> keys;
  std::vector<std::byte> values;
};

std::vector<uint16_t> Rows(uint16_t begin, uint16_t end) {
  std::vector<uint16_t> rows(end - begin);
  std::iota(rows.begin(), rows.end(), begin);
  return rows;
}

// Distinct rows in order.
std::vector<uint16_t> Sample(base::PhiloxStream& random, uint32_t of, uint32_t one_in) {
  std::vector<uint16_t> rows;
  for (uint32_t row = 0; row < of; ++row) {
    if (random.NextBelow(one_in) == 0) rows.push_back(static_cast<uint16_t>(row));
  }
  return rows;
}

class RowCacheTest : public testing::Test {
 protected:
  RowCacheTest() : folder_("/dev/shm"), linux_(*LinuxDisk::Start(folder_.path())) {
    UseDisk({}, 1);
  }
  ~RowCacheTest() override { log_.reset(); }

  void UseDisk(const DiskFaultOptions& options, uint64_t seed) {
    log_.reset();
    disk_ = *FaultyDisk::Start(linux_.get(), options, seed);
    log_ = *SegmentLog::Open(disk_.get(), {});
  }
  Reader Store(const TestSegment& segment) { return log_->Append(segment.content())->reader; }
  void Keep(RowCache& cache, const TestSegment& from, const Reader& reader,
            std::vector<uint16_t> rows) {
    Asked asked(reader, std::move(rows));
    asked.TakeFrom(from);
    cache.Keep(reader, asked.rows, asked.keys, asked.values, asked.AllPlaces());
  }
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
  // Reads by the source and waits.
  std::vector<absl::Status> Read(RowSource& source, std::vector<RowRequest> requests) {
    using Statuses = std::vector<absl::Status>;
    return Await<Statuses>([&](auto done) {
      source.Read(std::move(requests), [done](std::span<const absl::Status> statuses) {
        done(Statuses(statuses.begin(), statuses.end()));
      });
    });
  }
  // Nobody holds a segment any more: what is counted is what comes now, as in a new cache.
  void ExpectNothingIsLeftIn(RowCache& cache) {
    constexpr uint64_t kSegments = 20;  // each looks at two of those that are let go of
    RowCache fresh(cache.capacity());
    std::vector<Reader> readers;
    for (uint64_t i = 1; i <= kSegments; ++i) {
      const TestSegment segment(100 + i, 8, 8, DType::kBF16, 0);
      readers.push_back(Store(segment));
      Keep(cache, segment, readers.back(), {1, 2});
      Keep(fresh, segment, readers.back(), {1, 2});
    }
    EXPECT_EQ(cache.bytes(), fresh.bytes());
  }

  ScratchFolder folder_;
  std::unique_ptr<LinuxDisk> linux_;
  std::unique_ptr<FaultyDisk> disk_;
  std::unique_ptr<SegmentLog> log_;
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

TEST_F(RowCacheTest, ThreadsShareIt) {
  std::vector<std::unique_ptr<TestSegment>> segments;
  std::vector<Reader> readers;
  for (uint64_t i = 1; i <= 4; ++i) {
    segments.push_back(std::make_unique<TestSegment>(i, 200, 16, DType::kBF16, 0));
    readers.push_back(Store(*segments.back()));
  }
  RowCache cache(30'000);
  RowSource source(disk_.get(), &cache);
  const auto work = [&](uint64_t seed) {
    base::PhiloxStream random(seed, 0);
    for (int step = 0; step < 200; ++step) {
      const uint32_t i = random.NextBelow(4), j = (i + 1) % 4;
      Asked a(readers[i], Sample(random, 200, 8)), b(readers[j], Sample(random, 200, 8));
      for (const absl::Status& status : Read(source, {a.Request(true), b.Request(true)})) {
        ASSERT_TRUE(status.ok()) << status;
      }
      ASSERT_TRUE(a.HasAll(*segments[i]) && b.HasAll(*segments[j])) << step;
      ASSERT_LE(cache.bytes(), cache.capacity());
    }
  };
  std::thread other([&] { work(1); });
  work(2);
  other.join();
  const RowSourceCounts counts = source.counts();
  EXPECT_GT(counts.cached, 0u);
  EXPECT_EQ(counts.cached, cache.counts().hits);
  EXPECT_EQ(counts.rows, cache.counts().hits + cache.counts().misses);
  source.WaitIdle();
  readers.clear();
  ExpectNothingIsLeftIn(cache);
}

TEST_F(RowCacheTest, TheSourceReadsOnlyWhatIsMissing) {
  // 96: rows lie across pages.
  const TestSegment a(1, 500, 96, DType::kBF16, 0), b(2, 500, 64, DType::kF32, 0);
  const Reader first = Store(a), second = Store(b);
  RowCache cache(1 << 20);
  RowSource source(disk_.get(), &cache);
  base::PhiloxStream random(3, 0);
  for (const bool recurring : {true, false}) {
    Asked x(first, {0, 3, 10, 11, 200, 499}), y(second, {5, 7, 200, 498}), none(second, {});
    const RowSourceCounts before = source.counts();
    auto statuses =
        Read(source, {x.Request(recurring), none.Request(recurring), y.Request(recurring)});
    ASSERT_EQ(statuses.size(), 3u);
    for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(x.HasAll(a) && y.HasAll(b));
    EXPECT_EQ(source.counts().batches, before.batches + 1);
    EXPECT_EQ(source.counts().rows, before.rows + 10);
  }
  EXPECT_EQ(source.counts().cached, 0u) << "runs go past the cache";
  const RowSourceCounts before = source.counts();
  Asked again(first, {0, 3, 200, 499});
  EXPECT_TRUE(Read(source, {again.Request(true)})[0].ok());
  EXPECT_TRUE(again.HasAll(a));
  EXPECT_EQ(source.counts().pages, before.pages);
  EXPECT_EQ(source.counts().cached, before.cached + 4);
  Asked more(first, {0, 1, 200, 300, 499});
  EXPECT_TRUE(Read(source, {more.Request(true)})[0].ok());
  EXPECT_TRUE(more.HasAll(a));
  EXPECT_EQ(source.counts().cached, before.cached + 7);
  EXPECT_LE(source.counts().pages, before.pages + 4);
  EXPECT_EQ(source.counts().bytes(), source.counts().pages * 4096);
  EXPECT_EQ(source.counts().failed, 0u);
}

TEST_F(RowCacheTest, AFaultIsTheStatusOfItsSegmentAndNeverARow) {
  const TestSegment a(1, 50, 64, DType::kBF16, 0), b(2, 50, 64, DType::kBF16, 0);
  const Reader first = Store(a), second = Store(b);
  for (const DiskFault fault : {DiskFault::kReadFlip, DiskFault::kReadError}) {
    SCOPED_TRACE(NameOf(fault));
    RowCache cache(1 << 20);
    RowSource source(disk_.get(), &cache);
    Asked x(first, {3}), y(second, {4});
    disk_->Arm(fault);
    const auto statuses = Read(source, {x.Request(true), y.Request(true)});
    EXPECT_NE(statuses[0].ok(), statuses[1].ok()) << "one of the two";
    Asked& sound = statuses[0].ok() ? x : y;
    EXPECT_TRUE(sound.HasAll(statuses[0].ok() ? a : b));
    const absl::Status& failed = statuses[0].ok() ? statuses[1] : statuses[0];
    EXPECT_EQ(failed.code(), StatusCode::kDataLoss);
    EXPECT_THAT(failed.ToString(), HasSubstr("segment at"));
    EXPECT_EQ(source.counts().failed, 1u);
    // It was not kept: the next read gets what is there.
    EXPECT_TRUE(Read(source, {x.Request(true)})[0].ok());
    EXPECT_TRUE(Read(source, {y.Request(true)})[0].ok());
    EXPECT_TRUE(x.HasAll(a) && y.HasAll(b));
    EXPECT_EQ(source.counts().cached, 1u);
  }
}

TEST_F(RowCacheTest, PageBytesAreBounded) {
  base::PhiloxStream random(9, 0);
  for (const int dim : {8, 40, 96, 128, 512}) {
    const TestSegment segment(static_cast<uint64_t>(dim), 600, dim, DType::kF32, 0);
    const Reader reader = Store(segment);
    for (const uint32_t one_in : {1, 3, 50, 300}) {
      RowCache cache(0);
      RowSource source(disk_.get(), &cache);
      Asked asked(reader, Sample(random, 600, one_in));
      if (asked.rows.empty()) continue;
      EXPECT_TRUE(Read(source, {asked.Request(false)})[0].ok());
      EXPECT_TRUE(asked.HasAll(segment));
      EXPECT_LE(source.counts().bytes(), MostPageBytes(*reader, asked.rows.size()));
    }
  }
}

}  // namespace
}  // namespace sounder::kv_node
