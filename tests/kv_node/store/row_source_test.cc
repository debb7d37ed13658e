// The row source: what was read once comes from memory the next time, what is being read comes with
// it, to the byte; what fails is nobody's row.
#include "kv_node/store/row_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <deque>
#include <optional>
#include <thread>

#include "tests/kv_node/store/asked_rows.h"
#include "tests/kv_node/store/forwarding_disk.h"

namespace sounder::kv_node {
namespace {

using absl::StatusCode;
using base::DType;
using testing::HasSubstr;

// Reads are held until they are let go.
class HeldDisk final : public ForwardingDisk {
 public:
  using ForwardingDisk::ForwardingDisk;

  void Read(std::vector<DiskRead> reads, ReadsDone done) override {
    held_.push_back({std::move(reads), std::move(done)});
  }

  size_t held() const { return held_.size(); }
  // The nth of those that are held; returns after its callback.
  void LetGo(size_t nth) {
    Held held = std::move(held_[nth]);
    held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(nth));
    const std::vector<absl::Status> statuses = ReadAndWait(below(), std::move(held.reads));
    held.done(statuses);
  }

 private:
  struct Held {
    std::vector<DiskRead> reads;
    ReadsDone done;
  };
  std::deque<Held> held_;
};

class RowSourceTest : public StoredRowsTest {
 protected:
  // Reads by the source and waits.
  std::vector<absl::Status> Read(RowSource& source, std::vector<RowRequest> requests) {
    using Statuses = std::vector<absl::Status>;
    return Await<Statuses>([&](auto done) {
      source.Read(std::move(requests), [done](std::span<const absl::Status> statuses) {
        done(Statuses(statuses.begin(), statuses.end()));
      });
    });
  }
};

// A read that has been started.
struct Started {
  Started(RowSource& source, std::vector<RowRequest> requests) {
    source.Read(std::move(requests), [this](std::span<const absl::Status> all) {
      EXPECT_FALSE(statuses.has_value()) << "called twice";
      statuses.emplace(all.begin(), all.end());
    });
  }
  bool ended() const { return statuses.has_value(); }
  bool ok() const {
    return ended() &&
           std::all_of(statuses->begin(), statuses->end(), [](auto& one) { return one.ok(); });
  }
  std::optional<std::vector<absl::Status>> statuses;
};

TEST_F(RowSourceTest, WhatIsBeingReadIsNotReadAgain) {
  const TestSegment segment(1, 400, 96, DType::kBF16, 0);
  const Reader reader = Store(segment);
  for (const bool recurring : {false, true}) {
    for (const size_t first : {0u, 1u}) {
      RowCache cache(recurring ? 1 << 20 : 0);
      HeldDisk disk(disk_.get());
      RowSource source(&disk, &cache);
      Asked a(reader, Rows(0, 200)), b(reader, Rows(100, 300)), within(reader, {7, 150, 299});
      const Started one(source, {a.Request(recurring)});
      const Started two(source, {b.Request(recurring)});
      const Started three(source, {within.Request(recurring)});
      ASSERT_EQ(disk.held(), 2u) << "the third has it all from the others";
      EXPECT_EQ(source.counts().joined, 103u);
      disk.LetGo(first);
      EXPECT_EQ(one.ended(), first == 0) << "nobody waits for more than he asked for";
      EXPECT_FALSE(two.ended() || three.ended());
      disk.LetGo(0);
      EXPECT_TRUE(one.ok() && two.ok() && three.ok());
      EXPECT_TRUE(a.HasAll(segment) && b.HasAll(segment) && within.HasAll(segment));
      // 384 bytes each: 300 rows in 29 pages, one of them read twice.
      EXPECT_LE(source.counts().pages, 30u);
      // Nothing is in flight any more.
      Asked later(reader, {399});
      const Started last(source, {later.Request(recurring)});
      ASSERT_EQ(disk.held(), 1u);
      disk.LetGo(0);
      EXPECT_TRUE(last.ok() && later.HasAll(segment));
    }
  }
}

// A sample would wait for all of a long run.
TEST_F(RowSourceTest, ASampleDoesNotWaitForARun) {
  const TestSegment segment(1, 100, 64, DType::kF32, 0);
  const Reader reader = Store(segment);
  RowCache cache(1 << 20);
  HeldDisk disk(disk_.get());
  RowSource source(&disk, &cache);
  Asked run(reader, Rows(0, 100)), sample(reader, {5, 50});
  const Started one(source, {run.Request(false)});
  const Started two(source, {sample.Request(true)});
  ASSERT_EQ(disk.held(), 2u);
  EXPECT_EQ(source.counts().joined, 0u);
  disk.LetGo(1);
  EXPECT_TRUE(two.ok() && sample.HasAll(segment) && !one.ended());
  disk.LetGo(0);
  EXPECT_TRUE(one.ok() && run.HasAll(segment));
}

TEST_F(RowSourceTest, ARequestMayAskForTheSameTwice) {
  const TestSegment segment(1, 100, 64, DType::kF32, 0);
  const Reader reader = Store(segment);
  RowCache cache(0);
  RowSource source(disk_.get(), &cache);
  for (const bool recurring : {false, true}) {
    Asked a(reader, Rows(10, 50)), b(reader, Rows(20, 60)), c(reader, {9, 10, 59, 60});
    const uint64_t before = source.counts().joined;
    for (const absl::Status& status :
         Read(source, {a.Request(recurring), b.Request(recurring), c.Request(recurring)})) {
      EXPECT_TRUE(status.ok()) << status;
    }
    EXPECT_TRUE(a.HasAll(segment) && b.HasAll(segment) && c.HasAll(segment));
    EXPECT_EQ(source.counts().joined, before + 32);
  }
}

// What others read may fail for a row that only they want.
TEST_F(RowSourceTest, AFailureIsNotSharedButReadAgain) {
  const TestSegment segment(1, 400, 64, DType::kF32, 0);
  const Reader reader = Store(segment);
  for (const DiskFault fault : {DiskFault::kReadFlip, DiskFault::kReadError}) {
    for (const bool recurring : {false, true}) {
      SCOPED_TRACE(NameOf(fault));
      RowCache cache(1 << 20);
      HeldDisk disk(disk_.get());
      RowSource source(&disk, &cache);
      Asked a(reader, {0, 100, 200}), b(reader, {100, 300}), c(reader, {200});
      const Started one(source, {a.Request(recurring)});
      const Started two(source, {b.Request(recurring)});
      const Started three(source, {c.Request(recurring)});
      ASSERT_EQ(disk.held(), 2u);
      disk_->Arm(fault);
      disk.LetGo(0);
      ASSERT_TRUE(one.ended() && !one.ok());
      EXPECT_EQ((*one.statuses)[0].code(), StatusCode::kDataLoss);
      EXPECT_FALSE(two.ended() || three.ended());
      EXPECT_EQ(source.counts().failed, 3u);
      ASSERT_EQ(disk.held(), 3u) << "b's own, and what each of the two waited for";
      disk.LetGo(1);
      EXPECT_FALSE(two.ended()) << "its own read is not there yet";
      disk.LetGo(1);
      EXPECT_TRUE(three.ok() && c.HasAll(segment));
      disk.LetGo(0);
      EXPECT_TRUE(two.ok() && b.HasAll(segment));
      // Once more fails the second time too.
      Asked d(reader, {0, 1}), e(reader, {1});
      const Started four(source, {d.Request(false)});
      const Started five(source, {e.Request(false)});
      disk_->Arm(fault);
      disk.LetGo(0);
      disk_->Arm(fault);
      ASSERT_EQ(disk.held(), 1u);
      disk.LetGo(0);
      ASSERT_TRUE(five.ended() && !five.ok());
      EXPECT_EQ((*five.statuses)[0].code(), StatusCode::kDataLoss);
      source.WaitIdle();
    }
  }
}

TEST_F(RowSourceTest, ThreadsShareIt) {
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

// Whoever reads for others fails now and then: all have their rows, or know that they have not.
TEST_F(RowSourceTest, ThreadsShareADiskThatFails) {
  DiskFaultOptions faults;
  faults.probability[static_cast<size_t>(DiskFault::kReadFlip)] = .01;
  faults.probability[static_cast<size_t>(DiskFault::kReadError)] = .01;
  UseDisk(faults, 5);
  const TestSegment segment(1, 300, 96, DType::kBF16, 0);
  const Reader reader = Store(segment);
  RowCache cache(20'000);
  RowSource source(disk_.get(), &cache);
  std::atomic<int> right{0}, failed{0};
  const auto work = [&](uint64_t seed) {
    base::PhiloxStream random(seed, 0);
    for (int step = 0; step < 300; ++step) {
      const auto begin = static_cast<uint16_t>(random.NextBelow(250));
      Asked a(reader, Sample(random, 300, 6)), b(reader, Rows(begin, begin + 50));
      const auto statuses = Read(source, {a.Request(true), b.Request(false)});
      for (const auto& [asked, status] : {std::pair(&a, &statuses[0]), {&b, &statuses[1]}}) {
        if (status->ok()) {
          ASSERT_TRUE(asked->HasAll(segment)) << step;
        } else {
          ASSERT_EQ(status->code(), StatusCode::kDataLoss) << *status;
        }
        ++(status->ok() ? right : failed);
      }
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 4; ++seed) threads.emplace_back(work, seed);
  for (std::thread& thread : threads) thread.join();
  std::printf("%d right, %d failed, %d rows joined\n", right.load(), failed.load(),
              static_cast<int>(source.counts().joined));
  EXPECT_GT(right, 300);
  EXPECT_GT(failed, 30);
  EXPECT_GT(source.counts().joined, 0u);
}

TEST_F(RowSourceTest, TheSourceReadsOnlyWhatIsMissing) {
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

TEST_F(RowSourceTest, AFaultIsTheStatusOfItsSegmentAndNeverARow) {
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

TEST_F(RowSourceTest, PageBytesAreBounded) {
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
