// What every disk keeps to (disk.h), the one with faults included.
#include "kv_node/store/disk.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>

#include "kv_node/store/faulty_disk.h"
#include "kv_node/store/linux_disk.h"
#include "tests/kv_node/store/scratch_folder.h"

namespace sounder::kv_node {
namespace {

enum class Kind { kUring, kThreads, kBuffered, kMemory, kFaultless };

class DiskTest : public testing::TestWithParam<Kind> {
 protected:
  DiskTest() : folder_(GetParam() == Kind::kMemory ? "/dev/shm" : testing::TempDir()) {
    LinuxDiskOptions options;
    options.queue_depth = 16;  // fewer than the reads of some tests
    options.threads = 4;
    options.uring = GetParam() != Kind::kThreads;
    options.direct = GetParam() != Kind::kBuffered;
    auto disk = LinuxDisk::Start(folder_.path() + "/disk", options);
    CHECK(disk.ok()) << disk.status().ToString();
    linux_ = *std::move(disk);
    disk_ = linux_.get();
    const DiskProperties& properties = linux_->properties();
    std::printf("%s, %s (%s), direct %d (%s)\n", properties.file_system.c_str(),
                properties.reads.c_str(), properties.reads_why.c_str(), properties.direct,
                properties.direct_why.c_str());
    if (GetParam() == Kind::kFaultless) {
      faulty_ = *FaultyDisk::Start(linux_.get(), {}, 1);
      disk_ = faulty_.get();
    }
  }

  std::shared_ptr<DiskFile> MakeFile(const std::string& name, uint64_t seed, size_t pages) {
    auto file = disk_->Create(name);
    EXPECT_TRUE(file.ok()) << file.status().ToString();
    EXPECT_TRUE((*file)->Append(RandomPages(seed, pages).bytes()).ok());
    return *file;
  }

  ScratchFolder folder_;
  std::unique_ptr<LinuxDisk> linux_;
  std::unique_ptr<FaultyDisk> faulty_;
  Disk* disk_ = nullptr;
};

TEST_P(DiskTest, AppendsAreReadBackFromWhereTheyWent) {
  auto file = *disk_->Create("a");
  EXPECT_EQ(file->size(), 0u);
  PageBuffer first = RandomPages(1, 3), second = RandomPages(2, 500);
  EXPECT_EQ(*file->Append(first.bytes()), 0u);
  EXPECT_EQ(*file->Append(second.bytes()), 3 * kPageBytes);
  EXPECT_EQ(file->size(), 503 * kPageBytes);
  // Synced, unsynced, and across the border of the two.
  for (const bool synced : {false, true}) {
    if (synced) {
      ASSERT_TRUE(file->Sync().ok());
      ASSERT_TRUE(disk_->SyncDirectory().ok());
    }
    PageBuffer all = ReadFile(*disk_, file);
    EXPECT_TRUE(SameBytes(all.bytes().first(first.size()), first.bytes()));
    EXPECT_TRUE(SameBytes(all.bytes().subspan(first.size()), second.bytes()));
  }
  EXPECT_EQ(*file->Append(first.bytes()), 503 * kPageBytes);
  PageBuffer border(2 * kPageBytes);
  ASSERT_TRUE(ReadAndWait(*disk_, {{file, 502 * kPageBytes, border.bytes()}})[0].ok());
  EXPECT_TRUE(SameBytes(border.bytes().first(kPageBytes), second.bytes().last(kPageBytes)));
  EXPECT_TRUE(SameBytes(border.bytes().last(kPageBytes), first.bytes().first(kPageBytes)));
}

TEST_P(DiskTest, AnOpenedFileGoesOnWhereItEnded) {
  MakeFile("a", 5, 2);
  auto file = *disk_->Open("a");
  EXPECT_EQ(file->size(), 2 * kPageBytes);
  EXPECT_EQ(*file->Append(RandomPages(6, 1).bytes()), 2 * kPageBytes);
  EXPECT_TRUE(
      SameBytes(ReadFile(*disk_, file).bytes().last(kPageBytes), RandomPages(6, 1).bytes()));
}

TEST_P(DiskTest, NamesComeAndGo) {
  MakeFile("a", 1, 1);
  auto b = MakeFile("b", 2, 2);
  EXPECT_EQ(*disk_->List(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(disk_->Create("a").status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(disk_->Open("c").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(disk_->Remove("c").code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(disk_->Remove("b").ok());
  EXPECT_EQ(*disk_->List(), (std::vector<std::string>{"a"}));
  // A name that is free can be given again, synced or not.
  for (const bool synced : {false, true}) {
    if (synced) {
      ASSERT_TRUE(disk_->SyncDirectory().ok());
    }
    ASSERT_TRUE(disk_->Remove("a").ok());
    MakeFile("a", 3, 1);
  }
  ASSERT_TRUE(disk_->SyncDirectory().ok());
  EXPECT_TRUE(SameBytes(ReadFile(*disk_, *disk_->Open("a")).bytes(), RandomPages(3, 1).bytes()));
  // The file that lost its name is still there for whoever holds it.
  EXPECT_TRUE(SameBytes(ReadFile(*disk_, b).bytes(), RandomPages(2, 2).bytes()));
  EXPECT_GT(*disk_->FreeBytes(), 0u);
}

TEST_P(DiskTest, ManyReadsAtOnceEachWithItsStatus) {
  constexpr size_t kPages = 300;
  auto file = MakeFile("a", 9, kPages);
  PageBuffer expected = RandomPages(9, kPages);
  base::PhiloxStream random(3, 0);
  std::vector<size_t> pages;
  PageBuffer into(1000 * kPageBytes);
  std::vector<DiskRead> reads;
  for (size_t i = 0; i < 1000; ++i) {
    pages.push_back(random.NextBelow(kPages + 20));  // some beyond the end
    reads.push_back(
        {file, pages[i] * kPageBytes, into.bytes().subspan(i * kPageBytes, kPageBytes)});
  }
  const std::vector<absl::Status> statuses = ReadAndWait(*disk_, std::move(reads));
  ASSERT_EQ(statuses.size(), 1000u);
  for (size_t i = 0; i < 1000; ++i) {
    if (pages[i] >= kPages) {
      EXPECT_EQ(statuses[i].code(), absl::StatusCode::kDataLoss) << statuses[i].ToString();
      EXPECT_NE(statuses[i].message().find("the file ends before"), absl::string_view::npos);
      continue;
    }
    ASSERT_TRUE(statuses[i].ok()) << statuses[i].ToString();
    EXPECT_TRUE(SameBytes(into.bytes().subspan(i * kPageBytes, kPageBytes),
                          expected.bytes().subspan(pages[i] * kPageBytes, kPageBytes)));
  }
  EXPECT_TRUE(ReadAndWait(*disk_, {}).empty());
}

TEST_P(DiskTest, ThreadsReadAndAppendTogetherAndCallbacksMayRead) {
  auto file = MakeFile("a", 9, 64);
  PageBuffer expected = RandomPages(9, 64);
  constexpr size_t kThreads = 4, kRounds = 20;
  std::atomic<size_t> good{0};
  std::mutex mutex;
  std::condition_variable changed;
  size_t finished = 0;
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      auto own = *disk_->Create("own" + std::to_string(t));
      for (size_t round = 0; round < kRounds; ++round) {
        const uint64_t page = (7 * t + round) % 64;
        auto buffer = std::make_shared<PageBuffer>(2 * kPageBytes);
        disk_->Read({{file, page * kPageBytes, buffer->bytes().first(kPageBytes)}},
                    [&, page, buffer](std::span<const absl::Status> first) {
                      const bool ok = first[0].ok();
                      const uint64_t next = 63 - page;
                      disk_->Read({{file, next * kPageBytes, buffer->bytes().last(kPageBytes)}},
                                  [&, page, next, ok, buffer](auto second) {
                                    const auto at = [&](uint64_t p) {
                                      return expected.bytes().subspan(p * kPageBytes, kPageBytes);
                                    };
                                    if (ok && second[0].ok() &&
                                        SameBytes(buffer->bytes().first(kPageBytes), at(page)) &&
                                        SameBytes(buffer->bytes().last(kPageBytes), at(next))) {
                                      ++good;
                                    }
                                    const std::lock_guard lock(mutex);
                                    ++finished;
                                    changed.notify_all();
                                  });
                    });
        EXPECT_TRUE(own->Append(RandomPages(t, 1).bytes()).ok());
      }
      // The thread ends with reads of its in flight: those are not lost.
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return finished == kThreads * kRounds; });
  EXPECT_EQ(good.load(), kThreads * kRounds);
  for (size_t t = 0; t < kThreads; ++t) {
    EXPECT_EQ((*disk_->Open("own" + std::to_string(t)))->size(), kRounds * kPageBytes);
  }
}

TEST_P(DiskTest, FreedPagesGiveTheirSpaceBackAndReadAsZeros) {
  auto file = MakeFile("a", 4, 256);
  ASSERT_TRUE(file->Sync().ok());
  ASSERT_TRUE(disk_->SyncDirectory().ok());
  const uint64_t before = *file->AllocatedBytes();
  EXPECT_GE(before, 256 * kPageBytes);
  const absl::Status status = file->Free(64 * kPageBytes, 128 * kPageBytes);
  if (absl::IsUnimplemented(status)) GTEST_SKIP() << status.ToString();
  ASSERT_TRUE(status.ok()) << status.ToString();
  EXPECT_LE(*file->AllocatedBytes(), before - 128 * kPageBytes);
  EXPECT_EQ(file->size(), 256 * kPageBytes);
  PageBuffer expected = RandomPages(4, 256);
  std::fill_n(expected.bytes().begin() + 64 * kPageBytes, 128 * kPageBytes, std::byte{0});
  EXPECT_TRUE(SameBytes(ReadFile(*disk_, file).bytes(), expected.bytes()));
}

std::string KindName(const testing::TestParamInfo<Kind>& kind) {
  constexpr const char* kNames[] = {"Uring", "Threads", "Buffered", "Memory", "Faultless"};
  return kNames[static_cast<int>(kind.param)];
}

INSTANTIATE_TEST_SUITE_P(All, DiskTest,
                         testing::Values(Kind::kUring, Kind::kThreads, Kind::kBuffered,
                                         Kind::kMemory, Kind::kFaultless),
                         KindName);

}  // namespace
}  // namespace sounder::kv_node
