#include "kv_node/store/faulty_disk.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <set>

#include "common/base/virtual_executor.h"
#include "kv_node/store/linux_disk.h"
#include "tests/kv_node/store/scratch_folder.h"

namespace sounder::kv_node {
namespace {

using absl::StatusCode;

class FaultyDiskTest : public testing::Test {
 protected:
  FaultyDiskTest() : folder_("/dev/shm"), below_(*LinuxDisk::Start(folder_.path())) { Restart(1); }

  void Restart(uint64_t seed, DiskFaultOptions options = {}) {
    disk_.reset();
    disk_ = *FaultyDisk::Start(below_.get(), options, seed);
  }

  ScratchFolder folder_;
  std::unique_ptr<LinuxDisk> below_;
  std::unique_ptr<FaultyDisk> disk_;
};

TEST_F(FaultyDiskTest, ArmedFaultsHitTheNthOperation) {
  auto file = *disk_->Create("a");
  PageBuffer pages = RandomPages(1, 8);
  disk_->Arm(DiskFault::kWriteError, 2);
  EXPECT_TRUE(file->Append(pages.bytes()).ok());
  EXPECT_EQ(file->Append(pages.bytes()).status().code(), StatusCode::kDataLoss);
  disk_->Arm(DiskFault::kNoSpace);
  EXPECT_EQ(file->Append(pages.bytes()).status().code(), StatusCode::kResourceExhausted);
  disk_->Arm(DiskFault::kShortWrite);
  EXPECT_EQ(file->Append(pages.bytes()).status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(file->size(), pages.size());
  EXPECT_EQ(*file->Append(pages.bytes()), pages.size());  // at the place of those that failed
  disk_->Arm(DiskFault::kReadError, 2);
  PageBuffer into(2 * kPageBytes);
  auto statuses = ReadAndWait(*disk_, {{file, 0, into.bytes().first(kPageBytes)},
                                       {file, 0, into.bytes().last(kPageBytes)}});
  EXPECT_TRUE(statuses[0].ok());
  EXPECT_EQ(statuses[1].code(), StatusCode::kDataLoss);
  disk_->Arm(DiskFault::kReadFlip);
  statuses = ReadAndWait(*disk_, {{file, 0, into.bytes()}});
  EXPECT_TRUE(statuses[0].ok());
  size_t differing = 0;
  for (size_t i = 0; i < into.size(); ++i) differing += into.data()[i] != pages.data()[i];
  EXPECT_EQ(differing, 1u);
  disk_->Arm(DiskFault::kDirectorySyncError);
  EXPECT_EQ(disk_->SyncDirectory().code(), StatusCode::kDataLoss);
  EXPECT_TRUE(disk_->SyncDirectory().ok());
  disk_->Arm(DiskFault::kSyncError);
  EXPECT_EQ(file->Sync().code(), StatusCode::kDataLoss);
  EXPECT_EQ(file->Sync().code(), StatusCode::kDataLoss);  // for good
  EXPECT_EQ(file->Append(pages.bytes()).status().code(), StatusCode::kDataLoss);
  EXPECT_TRUE(SameBytes(ReadFile(*disk_, file).bytes().first(pages.size()), pages.bytes()));
  for (const uint64_t count : disk_->FaultCounts()) EXPECT_EQ(count, 1u);
}

TEST_F(FaultyDiskTest, ProbabilitiesAreKeptAndFollowTheSeed) {
  DiskFaultOptions options;
  options.probability[static_cast<size_t>(DiskFault::kWriteError)] = .25;
  std::vector<std::vector<bool>> outcomes;
  for (const uint64_t seed : {7, 7, 8}) {
    Restart(seed, options);
    auto file = *disk_->Create("a");
    PageBuffer page = RandomPages(1, 1);
    outcomes.emplace_back();
    for (int i = 0; i < 400; ++i) outcomes.back().push_back(file->Append(page.bytes()).ok());
    const auto failed = std::count(outcomes.back().begin(), outcomes.back().end(), false);
    EXPECT_NEAR(static_cast<double>(failed), 100, 40);  // 4.6 standard deviations
  }
  EXPECT_EQ(outcomes[0], outcomes[1]);
  EXPECT_NE(outcomes[0], outcomes[2]);
}

TEST_F(FaultyDiskTest, CapacityIsADiskThatFillsAndEmpties) {
  disk_->SetCapacity(10 * kPageBytes);
  auto file = *disk_->Create("a");
  ASSERT_TRUE((*disk_->Create("b"))->Append(RandomPages(1, 6).bytes()).ok());
  EXPECT_EQ(*disk_->FreeBytes(), 4 * kPageBytes);
  PageBuffer five = RandomPages(2, 5);
  EXPECT_EQ(file->Append(five.bytes()).status().code(), StatusCode::kResourceExhausted);
  ASSERT_TRUE(disk_->Remove("b").ok());
  EXPECT_TRUE(file->Append(five.bytes()).ok());
  EXPECT_EQ(file->Append(RandomPages(2, 6).bytes()).status().code(),
            StatusCode::kResourceExhausted);
  disk_->SetCapacity(20 * kPageBytes);
  EXPECT_TRUE(file->Append(RandomPages(2, 6).bytes()).ok());
}

TEST_F(FaultyDiskTest, ReadsCompleteOnTheExecutorInVirtualTime) {
  base::VirtualExecutor executor(1);
  Restart(1, {.executor = &executor, .read_delay = std::chrono::milliseconds(3)});
  auto file = *disk_->Create("a");
  ASSERT_TRUE(file->Append(RandomPages(1, 1).bytes()).ok());
  PageBuffer into(kPageBytes);
  const base::Time start = executor.clock().Now();
  bool done = false;
  disk_->Read({{file, 0, into.bytes()}}, [&](auto statuses) { done = statuses[0].ok(); });
  EXPECT_FALSE(done);
  while (executor.Step()) continue;
  EXPECT_TRUE(done);
  EXPECT_EQ(executor.clock().Now() - start, std::chrono::milliseconds(3));
  EXPECT_TRUE(SameBytes(into.bytes(), RandomPages(1, 1).bytes()));
}

TEST_F(FaultyDiskTest, WithoutPowerEverythingIsUnavailable) {
  auto file = *disk_->Create("a");
  ASSERT_TRUE(file->Append(RandomPages(1, 1).bytes()).ok());
  ASSERT_TRUE(disk_->Crash().ok());
  PageBuffer page(kPageBytes);
  const auto unavailable = [](const absl::Status& status) {
    EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.ToString();
  };
  unavailable(file->Append(page.bytes()).status());
  unavailable(file->Sync());
  unavailable(file->Free(0, kPageBytes));
  unavailable(file->AllocatedBytes().status());
  unavailable(ReadAndWait(*disk_, {{file, 0, page.bytes()}})[0]);
  unavailable(disk_->Create("b").status());
  unavailable(disk_->Open("a").status());
  unavailable(disk_->Remove("a"));
  unavailable(disk_->List().status());
  unavailable(disk_->SyncDirectory());
  unavailable(disk_->FreeBytes().status());
}

// A killed process: the object goes without Crash().
TEST_F(FaultyDiskTest, WhatIsNotSyncedIsNotOnTheDiskBelow) {
  auto file = *disk_->Create("a");
  ASSERT_TRUE(file->Append(RandomPages(1, 2).bytes()).ok());
  ASSERT_TRUE(file->Sync().ok());
  EXPECT_TRUE(below_->List()->empty());  // its name is not durable
  ASSERT_TRUE(disk_->SyncDirectory().ok());
  EXPECT_TRUE(SameBytes(ReadFile(*below_, *below_->Open("a")).bytes(), RandomPages(1, 2).bytes()));
  ASSERT_TRUE(file->Append(RandomPages(2, 2).bytes()).ok());
  ASSERT_TRUE(disk_->Remove("a").ok());
  EXPECT_EQ((*below_->Open("a"))->size(), 2 * kPageBytes);
  Restart(2);
  EXPECT_EQ(*disk_->List(), std::vector<std::string>{"a"});
  EXPECT_TRUE(SameBytes(ReadFile(*disk_, *disk_->Open("a")).bytes(), RandomPages(1, 2).bytes()));
}

// Over many crashes: what was synced is always there, and of the rest every outcome is seen.
TEST_F(FaultyDiskTest, ACrashKeepsWhatWasSyncedAndAnyPartOfTheRest) {
  std::map<std::string, int> seen;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::vector<std::string> old = *below_->List();
    for (const std::string& name : old) ASSERT_TRUE(below_->Remove(name).ok());
    Restart(seed);
    auto durable = *disk_->Create("durable");
    ASSERT_TRUE(durable->Append(RandomPages(1, 4).bytes()).ok());
    ASSERT_TRUE((*disk_->Create("removed"))->Append(RandomPages(3, 1).bytes()).ok());
    ASSERT_TRUE((*disk_->Create("replaced"))->Append(RandomPages(4, 1).bytes()).ok());
    for (const char* name : {"durable", "removed", "replaced"}) {
      ASSERT_TRUE((*disk_->Open(name))->Sync().ok());
    }
    ASSERT_TRUE(disk_->SyncDirectory().ok());
    // Now what has no promise.
    ASSERT_TRUE(durable->Append(RandomPages(2, 4).bytes()).ok());
    ASSERT_TRUE(disk_->Remove("removed").ok());
    auto fresh = *disk_->Create("fresh");
    ASSERT_TRUE(fresh->Append(RandomPages(5, 2).bytes()).ok());
    ASSERT_TRUE(fresh->Sync().ok());
    ASSERT_TRUE(disk_->Remove("replaced").ok());
    auto next = *disk_->Create("replaced");
    ASSERT_TRUE(next->Append(RandomPages(6, 1).bytes()).ok());
    ASSERT_TRUE(next->Sync().ok());
    ASSERT_TRUE(disk_->Crash().ok());

    PageBuffer content = ReadFile(*below_, *below_->Open("durable"));
    ASSERT_GE(content.size(), 4 * kPageBytes) << "seed " << seed;
    ASSERT_TRUE(SameBytes(content.bytes().first(4 * kPageBytes), RandomPages(1, 4).bytes()))
        << "seed " << seed;
    PageBuffer all_of_it = RandomPages(2, 4);
    const auto rest = content.bytes().subspan(4 * kPageBytes);
    if (rest.empty()) {
      ++seen["lost"];
    } else if (SameBytes(rest, all_of_it.bytes())) {
      ++seen["kept"];
    } else if (SameBytes(rest, all_of_it.bytes().first(rest.size()))) {
      ++seen["cut"];
    } else {
      ++seen["torn"];
    }
    const std::vector<std::string> list = *below_->List();
    const std::set<std::string> names(list.begin(), list.end());
    ++seen[names.contains("removed") ? "removal lost" : "removal kept"];
    ++seen[names.contains("fresh") ? "creation kept" : "creation lost"];
    if (!names.contains("replaced")) {
      ++seen["neither"];
    } else {
      PageBuffer replaced = ReadFile(*below_, *below_->Open("replaced"));
      const bool is_new = SameBytes(replaced.bytes(), RandomPages(6, 1).bytes());
      ASSERT_TRUE(is_new || SameBytes(replaced.bytes(), RandomPages(4, 1).bytes()));
      ++seen[is_new ? "the new one" : "the old one"];
    }
    if (!names.contains("fresh")) continue;
    // Its data were synced: they come with the name.
    EXPECT_TRUE(
        SameBytes(ReadFile(*below_, *below_->Open("fresh")).bytes(), RandomPages(5, 2).bytes()));
  }
  for (const char* outcome :
       {"lost", "kept", "cut", "torn", "removal lost", "removal kept", "creation kept",
        "creation lost", "neither", "the new one", "the old one"}) {
    EXPECT_GE(seen[outcome], 5) << outcome;
    std::printf("%s: %d of 200\n", outcome, seen[outcome]);
  }
}

}  // namespace
}  // namespace sounder::kv_node
