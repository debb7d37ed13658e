#include "kv_node/store/segment_log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>

#include "kv_node/store/faulty_disk.h"
#include "kv_node/store/linux_disk.h"
#include "tests/kv_node/store/await.h"
#include "tests/kv_node/store/scratch_folder.h"
#include "tests/kv_node/store/segment_content.h"

namespace sounder::kv_node {
namespace {

using absl::StatusCode;
using base::DType;

constexpr int64_t kRows = 64;
constexpr uint64_t kBytes = 9 * kPageBytes;  // 6 of rows (96 x bf16), one of index

std::unique_ptr<TestSegment> Make(uint64_t seed) {
  return std::make_unique<TestSegment>(seed, kRows, 96, DType::kBF16, 50);
}

// Whether the segment at `place` is there, whole and the one of this seed.
absl::Status Verify(Disk& disk, const SegmentLog& log, const SegmentPlace& place, uint64_t seed) {
  const auto expected = Make(seed);
  const auto file = log.FileOf(place);
  if (!file.ok()) return file.status();
  std::vector<uint16_t> rows(kRows);
  std::iota(rows.begin(), rows.end(), uint16_t{0});
  std::vector<std::byte> keys(kRows * 192), values(kRows * 192);
  const auto status = Await<absl::Status>([&](auto finish) {
    SegmentReader::Open(disk, *file, place.offset, expected->shape(), [&, finish](auto reader) {
      if (!reader.ok()) return finish(reader.status());
      ReadRows(disk, {{*reader, rows, keys, values}},
               [finish](std::span<const absl::Status> read, const auto&) { finish(read[0]); });
    });
  });
  if (!status.ok()) return status;
  for (size_t row = 0; row < kRows; ++row) {
    EXPECT_TRUE(SameBytes(std::span(keys).subspan(row * 192, 192), expected->Key(row)));
    EXPECT_TRUE(SameBytes(std::span(values).subspan(row * 192, 192), expected->Value(row)));
  }
  return absl::OkStatus();
}

class SegmentLogTest : public testing::Test {
 protected:
  SegmentLogTest() : folder_("/dev/shm"), below_(*LinuxDisk::Start(folder_.path())) { Restart({}); }

  // With these records.
  void Restart(const std::map<uint64_t, SegmentPlace>& live) {
    log_.reset();
    disk_.reset();
    disk_ = *FaultyDisk::Start(below_.get(), {}, ++starts_);
    std::vector<LiveSegment> segments;
    for (const auto& [seed, place] : live) segments.push_back({place, SizeOf(seed)});
    auto log = SegmentLog::Open(disk_.get(), segments, {.file_bytes = 4 * kBytes});
    ASSERT_TRUE(log.ok()) << log.status().ToString();
    log_ = *std::move(log);
  }
  static uint64_t SizeOf(uint64_t seed) { return SegmentLayout(Make(seed)->shape()).bytes(); }

  SegmentPlace Append(uint64_t seed) {
    auto written = log_->Append(Make(seed)->content());
    EXPECT_TRUE(written.ok()) << written.status().ToString();
    return written.ok() ? written->place : SegmentPlace{};
  }
  uint64_t Allocated() {
    uint64_t bytes = 0;
    const std::vector<std::string> names = *below_->List();
    for (const std::string& name : names) bytes += *(*below_->Open(name))->AllocatedBytes();
    return bytes;
  }

  ScratchFolder folder_;
  std::unique_ptr<LinuxDisk> below_;
  std::unique_ptr<FaultyDisk> disk_;
  std::unique_ptr<SegmentLog> log_;
  uint64_t starts_ = 0;
};

TEST_F(SegmentLogTest, FilesFillUpAndAreRemovedWhenEmpty) {
  std::vector<SegmentPlace> places;
  for (uint64_t seed = 0; seed < 10; ++seed) places.push_back(Append(seed));
  EXPECT_EQ(places[0], (SegmentPlace{1, 0}));
  EXPECT_EQ(places[9].file, 3u);
  EXPECT_EQ(disk_->List()->size(), 3u);
  EXPECT_TRUE(log_->MakeDurable(places).ok());
  for (uint64_t seed = 0; seed < 10; ++seed) {
    EXPECT_TRUE(Verify(*disk_, *log_, places[seed], seed).ok());
  }
  // Holes while there is something left, then the file goes.
  const uint64_t before = Allocated();
  for (uint64_t seed = 0; seed < 3; ++seed) {
    ASSERT_TRUE(log_->Free({places[seed], SizeOf(seed)}).ok());
  }
  EXPECT_EQ(Allocated(), before - SizeOf(0) - SizeOf(1) - SizeOf(2));
  EXPECT_EQ(Verify(*disk_, *log_, places[0], 0).code(), StatusCode::kDataLoss);
  EXPECT_TRUE(Verify(*disk_, *log_, places[3], 3).ok());
  ASSERT_TRUE(log_->Free({places[3], SizeOf(3)}).ok());
  EXPECT_EQ(*disk_->List(), (std::vector<std::string>{"segments.2", "segments.3"}));
  EXPECT_EQ(log_->FileOf(places[3]).status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(log_->counts().files, 2u);
  // The file being written to stays, and goes when the next one is begun.
  ASSERT_TRUE(log_->Free({places[8], SizeOf(8)}).ok());
  ASSERT_TRUE(log_->Free({places[9], SizeOf(9)}).ok());
  EXPECT_EQ(disk_->List()->size(), 2u);
  const SegmentPlace tenth = Append(10), eleventh = Append(11);
  ASSERT_TRUE(log_->Free({tenth, SizeOf(10)}).ok());
  ASSERT_TRUE(log_->Free({eleventh, SizeOf(11)}).ok());
  EXPECT_EQ(Append(12).file, 4u);
  EXPECT_EQ(*disk_->List(), (std::vector<std::string>{"segments.2", "segments.4"}));
}

TEST_F(SegmentLogTest, AfterAStartOnlyWhatRecordsNameTakesSpace) {
  std::map<uint64_t, SegmentPlace> live;
  std::vector<SegmentPlace> all;
  for (uint64_t seed = 0; seed < 12; ++seed) all.push_back(Append(seed));
  ASSERT_TRUE(log_->MakeDurable(all).ok());
  for (const uint64_t seed : {1, 2, 9}) live[seed] = all[seed];
  Restart(live);
  EXPECT_EQ(log_->counts().removed_files, 1u);  // the one of 4 to 7
  EXPECT_EQ(log_->counts().live_bytes, SizeOf(1) + SizeOf(2) + SizeOf(9));
  EXPECT_EQ(log_->counts().freed_bytes,
            SizeOf(0) + SizeOf(3) + SizeOf(8) + SizeOf(10) + SizeOf(11));
  for (const auto& [seed, place] : live) EXPECT_TRUE(Verify(*disk_, *log_, place, seed).ok());
  EXPECT_EQ(Append(20).file, 4u);  // not behind what is there
  ASSERT_TRUE(disk_->SyncDirectory().ok());
  EXPECT_EQ(Allocated(), log_->counts().live_bytes - SizeOf(20));
  Restart(live);
  EXPECT_EQ(log_->counts().freed_bytes, 0u);
  // A record whose file is gone is a missing segment and nothing else.
  live[30] = {77, 0};
  Restart(live);
  EXPECT_EQ(Verify(*disk_, *log_, live[30], 30).code(), StatusCode::kDataLoss);
  EXPECT_TRUE(log_->Free({live[30], SizeOf(30)}).ok());
  EXPECT_EQ(Append(31).file, 78u);
}

TEST_F(SegmentLogTest, AFailedSyncIsEverybodysAndTheNextSegmentGoesElsewhere) {
  const SegmentPlace first = Append(1);
  ASSERT_TRUE(log_->MakeDurable({{first}}).ok());
  const SegmentPlace second = Append(2), third = Append(3);
  disk_->Arm(DiskFault::kSyncError);
  EXPECT_EQ(log_->MakeDurable({{second}}).code(), StatusCode::kDataLoss);
  EXPECT_EQ(log_->MakeDurable({{third}}).code(), StatusCode::kDataLoss);
  EXPECT_TRUE(log_->MakeDurable({{first}}).ok()) << "it was durable before";
  const SegmentPlace again = Append(2);
  EXPECT_NE(again.file, second.file);
  EXPECT_TRUE(log_->MakeDurable({{again}}).ok());
  // A name that could not be synced is tried again, and nothing more comes under it.
  const auto other = SegmentLog::Open(disk_.get(), {}, {});
  ASSERT_TRUE(other.ok());
  const SegmentPlace place = (*other)->Append(Make(5)->content())->place;
  disk_->Arm(DiskFault::kDirectorySyncError);
  EXPECT_EQ((*other)->MakeDurable({{place}}).code(), StatusCode::kDataLoss);
  EXPECT_TRUE((*other)->MakeDurable({{place}}).ok());
  EXPECT_NE((*other)->Append(Make(6)->content())->place.file, place.file);
}

TEST_F(SegmentLogTest, AfterAFailedAppendTheNextSegmentGoesElsewhere) {
  const SegmentPlace first = Append(1);
  disk_->Arm(DiskFault::kWriteError);
  EXPECT_EQ(log_->Append(Make(2)->content()).status().code(), StatusCode::kDataLoss);
  const SegmentPlace second = Append(2);
  EXPECT_EQ(second, (SegmentPlace{2, 0}));
  EXPECT_TRUE(log_->MakeDurable({{first, second}}).ok());
  EXPECT_TRUE(Verify(*disk_, *log_, first, 1).ok());
  EXPECT_EQ(log_->counts().live_bytes, SizeOf(1) + SizeOf(2));
  ASSERT_TRUE(log_->Free({second, SizeOf(2)}).ok());
  // A file that is left with nothing in it goes at once, whatever failed.
  disk_->Arm(DiskFault::kShortWrite);
  EXPECT_FALSE(log_->Append(Make(3)->content()).ok());
  EXPECT_EQ(*disk_->List(), (std::vector<std::string>{"segments.1"}));
  const SegmentPlace third = Append(3);
  ASSERT_TRUE(log_->Free({third, SizeOf(3)}).ok());
  disk_->Arm(DiskFault::kSyncError);
  EXPECT_EQ(log_->MakeDurable({{third}}).code(), StatusCode::kDataLoss);
  EXPECT_EQ(*disk_->List(), (std::vector<std::string>{"segments.1"}));
  EXPECT_EQ(Append(4).file, 4u);
}

TEST_F(SegmentLogTest, AnOldFileThatCannotBeRemovedFailsNoAppend) {
  std::vector<SegmentPlace> places;
  for (uint64_t seed = 1; seed <= 4; ++seed) places.push_back(Append(seed));
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    ASSERT_TRUE(log_->Free({places[seed - 1], SizeOf(seed)}).ok());
  }
  ASSERT_TRUE(disk_->Remove("segments.1").ok());  // so that the log cannot
  EXPECT_EQ(Append(5).file, 2u);
  EXPECT_EQ(log_->counts().files, 1u);
}

TEST_F(SegmentLogTest, AFullDiskAndThenSpaceAgain) {
  const SegmentPlace first = Append(1);
  disk_->SetCapacity(kBytes + kPageBytes);
  EXPECT_EQ(log_->Append(Make(2)->content()).status().code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(Verify(*disk_, *log_, first, 1).ok());
  disk_->SetCapacity(100 * kBytes);
  const SegmentPlace second = Append(2);
  EXPECT_EQ(second.file, first.file);
  EXPECT_TRUE(log_->MakeDurable({{first, second}}).ok());
  EXPECT_TRUE(Verify(*disk_, *log_, second, 2).ok());
}

// Random work, a loss of power at a random moment, a start: what was made durable is there, and the
// disk holds nothing else.
TEST_F(SegmentLogTest, CrashesLoseNothingDurableAndLeakNothing) {
  std::map<uint64_t, SegmentPlace> records;  // durable, as the store's database would have them
  uint64_t next_seed = 1;
  int whole = 0, lost = 0, frees = 0;
  for (uint64_t round = 0; round < 20; ++round) {
    base::PhiloxStream random(round, 9);
    std::map<uint64_t, SegmentPlace> unsynced;
    for (uint32_t left = random.NextBelow(20); left > 0; --left) {
      const uint32_t what = random.NextBelow(10);
      if (what < 6) {
        const uint64_t seed = next_seed++;
        unsynced[seed] = Append(seed);
      } else if (what < 8) {
        std::vector<SegmentPlace> places;
        for (const auto& [seed, place] : unsynced) places.push_back(place);
        ASSERT_TRUE(log_->MakeDurable(places).ok());
        records.merge(unsynced);
        unsynced.clear();
      } else if (!records.empty()) {
        const auto gone = std::next(records.begin(), random.NextBelow(records.size()));
        const LiveSegment segment{gone->second, SizeOf(gone->first)};
        records.erase(gone);
        ASSERT_TRUE(log_->Free(segment).ok());
        ++frees;
      }
    }
    ASSERT_TRUE(disk_->Crash().ok());
    Restart(records);
    for (const auto& [seed, place] : records) {
      const absl::Status status = Verify(*disk_, *log_, place, seed);
      ASSERT_TRUE(status.ok()) << "round " << round << " " << status.ToString();
      ++whole;
    }
    for (const auto& [seed, place] : unsynced) {
      if (!Verify(*disk_, *log_, place, seed).ok()) ++lost;
    }
    // No file holds a segment that no record names (a torn piece of one may be less than that).
    ASSERT_TRUE(disk_->SyncDirectory().ok());
    std::map<std::string, uint64_t> live;
    for (const auto& [seed, place] : records) {
      live["segments." + std::to_string(place.file)] += SizeOf(seed);
    }
    const std::vector<std::string> names = *below_->List();
    EXPECT_EQ(names.size(), live.size());
    for (const std::string& name : names) {
      ASSERT_LT(*(*below_->Open(name))->AllocatedBytes(), live[name] + 4 * kPageBytes)
          << name << ", round " << round;
    }
  }
  std::printf("%d found whole, %d freed, %d unsynced and gone\n", whole, frees, lost);
  EXPECT_GT(lost, 10);  // the control: the power did go
  EXPECT_GT(frees, 10);
}

TEST_F(SegmentLogTest, OneSyncServesAllThatWasAppendedBefore) {
  const SegmentPlace first = Append(1), second = Append(2);
  ASSERT_TRUE(log_->MakeDurable({{second}}).ok());
  disk_->Arm(DiskFault::kSyncError);
  EXPECT_TRUE(log_->MakeDurable({{first}}).ok());
  const auto syncs_that_failed = [&] {
    return disk_->FaultCounts()[static_cast<size_t>(DiskFault::kSyncError)];
  };
  EXPECT_EQ(syncs_that_failed(), 0u) << "synced again";
  EXPECT_FALSE(log_->MakeDurable({{Append(3)}}).ok());  // the control
  EXPECT_EQ(syncs_that_failed(), 1u);
}

TEST_F(SegmentLogTest, ManyThreadsAppendSyncAndFree) {
  constexpr uint64_t kThreads = 4, kEach = 15;
  std::mutex mutex;
  std::map<uint64_t, SegmentPlace> durable;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < kEach; ++i) {
        const uint64_t seed = t * kEach + i;
        const SegmentPlace place = Append(seed);
        EXPECT_TRUE(log_->MakeDurable({{place}}).ok());
        if (i % 3 == 0) {
          EXPECT_TRUE(log_->Free({place, SizeOf(seed)}).ok());
          continue;
        }
        const std::lock_guard lock(mutex);
        durable[seed] = place;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Restart(durable);  // as if killed
  EXPECT_EQ(durable.size(), kThreads * kEach * 2 / 3);
  for (const auto& [seed, place] : durable) EXPECT_TRUE(Verify(*disk_, *log_, place, seed).ok());
}

}  // namespace
}  // namespace sounder::kv_node
