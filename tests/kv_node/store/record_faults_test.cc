// What the record store makes of loss of power, failing disks and full ones.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <limits>
#include <optional>

#include "common/base/check.h"
#include "kv_node/store/record_store.h"
#include "kv_node/store/unsynced_files.h"
#include "tests/kv_node/store/record_values.h"
#include "tests/kv_node/store/recorded_bytes.h"
#include "tests/kv_node/store/scratch_folder.h"
#include "tests/kv_node/store/small_mount.h"

namespace sounder::kv_node {
namespace {

using absl::StatusCode;
using Records = RecordedBytes::Records;

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();
// So small that commits make tables, and tables are merged.
constexpr RecordStoreOptions kSmall{.buffer_bytes = 64 << 10};

RecordStoreOptions On(UnsyncedFiles* files) {
  RecordStoreOptions options = kSmall;
  options.files = files;
  return options;
}

std::unique_ptr<UnsyncedFiles> StartFiles(const std::string& folder, uint64_t seed,
                                          const std::array<double, kDiskFaults>& faults = {}) {
  auto files = UnsyncedFiles::Start(folder, seed, faults);
  CHECK(files.ok()) << files.status().ToString();
  return *std::move(files);
}

// Null: not all of it can be read.
std::optional<Records> Readable(RecordStore& store) {
  RecordedBytes bytes;
  const auto result = store.Visit(bytes);
  if (!result.ok() || !result->damaged.empty() || !result->unreadable.empty()) return std::nullopt;
  return bytes.records;
}

Records RecordsOf(RecordStore& store) {
  RecordedBytes bytes;
  const auto result = store.Visit(bytes);
  EXPECT_TRUE(result.ok()) << result.status().ToString();
  if (!result.ok()) return {};
  for (const auto& [id, why] : result->damaged) ADD_FAILURE() << why.ToString();
  for (const absl::Status& why : result->unreadable) ADD_FAILURE() << why.ToString();
  return bytes.records;
}

// A batch and what the records are after it.
class Change {
 public:
  explicit Change(Records before) : after(std::move(before)) {}

  void Put(const EncodedRecord& record) { after[record.key] = record.value; }
  // Keys from one on, of the session and kind (or all kinds).
  void RemoveFrom(const RecordKey& first, bool all_kinds) {
    std::erase_if(after, [&](const auto& record) {
      const RecordKey key = *ParseKey(record.first);
      if (key.session != first.session) return false;
      return all_kinds ||
             (key.kind == first.kind && key.layer == first.layer && key.kv_head == first.kv_head &&
              key.first_position >= first.first_position);
    });
  }

  RecordBatch batch;
  Records after;
};

// Some changes of one of three sessions.
Change RandomChange(const Records& before, base::PhiloxStream& random) {
  Change change(before);
  const base::SessionId id = TestId(1 + random.NextBelow(3));
  if (random.NextBelow(12) == 0) {
    change.batch.RemoveSession(id);
    change.RemoveFrom({id}, true);
    return change;
  }
  const uint64_t version = random.Next32();
  change.batch.PutSession(TestSession(id, version));
  change.Put(EncodeRecord(TestSession(id, version)));
  for (uint32_t i = 1 + random.NextBelow(4); i > 0; --i) {
    const uint32_t layer = random.NextBelow(2), head = random.NextBelow(2);
    const base::Position at = 1024 * random.NextBelow(8);
    switch (random.NextBelow(6)) {
      case 0: {
        const SegmentRecord segment = TestSegmentRecord(layer, head, at, version % 1000);
        change.batch.PutSegment(id, segment);
        change.Put(EncodeRecord(id, segment));
        break;
      }
      case 1:
        change.batch.RemoveSegment(id, layer, head, at);
        change.after.erase(EncodeKey({id, RecordKind::kSegment, layer, head, at}));
        break;
      case 2: {
        change.batch.PutTokens(id, TestTokens(at, 0, 1 + random.NextBelow(1000), 3));
        const TokenRecord tokens = TestTokens(at, 0, 1 + random.NextBelow(1000), 4);
        change.batch.PutTokens(id, tokens);
        change.Put(EncodeRecord(id, tokens));
        break;
      }
      case 3:
        change.batch.RemoveTokensFrom(id, at);
        change.RemoveFrom({id, RecordKind::kTokens, 0, 0, at}, false);
        break;
      case 4:
        change.batch.RemoveTails(id, layer, head, at);
        change.RemoveFrom({id, RecordKind::kTail, layer, head, at}, false);
        break;
      default: {
        const TestTail tail(layer, head, at, 1 + random.NextBelow(64), 64);
        change.batch.PutTail(id, tail.record);
        change.Put(EncodeRecord(id, tail.record));
      }
    }
  }
  return change;
}

// Says all of `records`, whatever was there of the sessions.
RecordBatch Anew(const Records& records) {
  RecordBatch batch;
  for (const uint64_t number : {1, 2, 3}) batch.RemoveSession(TestId(number));
  for (const auto& [bytes, value] : records) {
    const RecordKey key = *ParseKey(bytes);
    switch (key.kind) {
      case RecordKind::kSession:
        batch.PutSession(*ParseSession(key, value));
        break;
      case RecordKind::kSegment:
        batch.PutSegment(key.session, *ParseSegment(key, value));
        break;
      case RecordKind::kTail:
        batch.PutTail(key.session, *ParseTail(key, value));
        break;
      case RecordKind::kTokens:
        batch.PutTokens(key.session, *ParseTokens(key, value));
    }
  }
  return batch;
}

// The power goes at any change of the disk, while opening as well: what was acknowledged is there,
// and what was not, wholly or not at all.
TEST(RecordFaultsTest, LossOfPowerLosesNothingAcknowledged) {
  constexpr uint64_t kSeed = 71;
  constexpr int kRounds = 60;
  std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  base::PhiloxStream random(kSeed, 0);
  const ScratchFolder scratch;
  Records acknowledged, attempted;
  int opened = 0, commits = 0, kept = 0;
  for (int round = 0; round < kRounds; ++round) {
    const auto files = StartFiles(scratch.path(), kSeed + round);
    {
      // Undisturbed, for what there is.
      if (random.NextBelow(3) != 0) {
        const auto store = RecordStore::Open(scratch.path(), On(files.get()));
        ASSERT_TRUE(store.ok()) << "round " << round << ": " << store.status().ToString();
        const Records found = RecordsOf(**store);
        ASSERT_TRUE(found == acknowledged || found == attempted) << "round " << round;
        if (found != acknowledged) ++kept;
        acknowledged = attempted = found;
      }
      files->CrashAt(1 + random.NextBelow(120));
      const auto store = RecordStore::Open(scratch.path(), On(files.get()));
      if (!store.ok()) continue;  // acknowledged and attempted are still what may be there
      ++opened;
      // Null if the power is gone by now.
      const std::optional<Records> found = Readable(**store);
      if (found.has_value()) {
        ASSERT_TRUE(*found == acknowledged || *found == attempted) << "round " << round;
        acknowledged = attempted = *found;
        while (true) {
          Change change = RandomChange(acknowledged, random);
          attempted = change.after;
          if (!(*store)->Commit(change.batch).ok()) break;
          acknowledged = attempted;
          ++commits;
        }
      }
    }
    files->Crash();
  }
  std::printf("%d of %d opened, %d commits, %d kept though not acknowledged\n", opened, kRounds,
              commits, kept);
  EXPECT_GT(opened, kRounds / 2);
  EXPECT_GT(commits, kRounds);
}

// Of a disk that fails now and then: each commit says how it ended, and the store goes on.
TEST(RecordFaultsTest, FaultsAreReportedAndSurvived) {
  constexpr uint64_t kSeed = 72;
  std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  base::PhiloxStream random(kSeed, 0);
  const ScratchFolder scratch;
  std::array<double, kDiskFaults> faults{};
  for (const DiskFault fault :
       {DiskFault::kWriteError, DiskFault::kNoSpace, DiskFault::kShortWrite, DiskFault::kSyncError,
        DiskFault::kDirectorySyncError, DiskFault::kReadError}) {
    faults[static_cast<size_t>(fault)] = .01;
  }
  Records expected;
  for (uint64_t life = 0; life < 3; ++life) {
    const auto files = StartFiles(scratch.path(), kSeed + life, faults);
    auto store = RecordStore::Open(scratch.path(), On(files.get()));
    for (int tries = 0; !store.ok() && tries < 100; ++tries) {
      store = RecordStore::Open(scratch.path(), On(files.get()));
    }
    ASSERT_TRUE(store.ok()) << store.status().ToString();
    int failures = 0;
    for (int i = 0; i < 150; ++i) {
      Change change = RandomChange(expected, random);
      absl::Status status = (*store)->Commit(change.batch);
      for (int tries = 0; !status.ok(); ++tries) {
        ASSERT_LT(tries, 100) << status.ToString();
        EXPECT_TRUE(status.code() == StatusCode::kDataLoss ||
                    status.code() == StatusCode::kResourceExhausted)
            << status.ToString();
        EXPECT_EQ(status.message().find(scratch.path()), 0u) << status.ToString();
        ++failures;
        status = (*store)->Commit(Anew(change.after));
      }
      expected = change.after;
    }
    std::printf("%d failures, %lu opened anew\n", failures,
                static_cast<unsigned long>((*store)->counts().reopens));
    EXPECT_GT(failures, 0);
    store->reset();
    files->Crash();
    const auto well = StartFiles(scratch.path(), 1);
    const auto after = RecordStore::Open(scratch.path(), On(well.get()));
    ASSERT_TRUE(after.ok()) << after.status().ToString();
    EXPECT_TRUE(RecordsOf(**after) == expected);
  }
}

// Commits tails until one fails, and then another that fails too: how many were acknowledged.
int FillUp(RecordStore& store, Records* records) {
  int commits = 0, failures = 0;
  while (failures < 2) {
    const TestTail tail(0, 0, 64 * commits, 64, 64);
    RecordBatch batch;
    batch.PutSession(TestSession(TestId(1)));
    batch.PutTail(TestId(1), tail.record);
    const absl::Status status = store.Commit(batch);
    if (status.ok()) {
      for (const EncodedRecord& record :
           {EncodeRecord(TestSession(TestId(1))), EncodeRecord(TestId(1), tail.record)}) {
        (*records)[record.key] = record.value;
      }
      ++commits;
      if (commits > 10'000) return commits;
    } else {
      EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.ToString();
      ++failures;
    }
  }
  return commits;
}

TEST(RecordFaultsTest, AFullDiskIsSaidAndLeftBehindWithoutARestart) {
  // Room for no commit at all, for some, for several tables.
  for (const uint64_t room : {2'000, 100'000, 1'000'000}) {
    const ScratchFolder scratch;
    const auto files = StartFiles(scratch.path(), room);
    const auto store = RecordStore::Open(scratch.path(), On(files.get()));
    ASSERT_TRUE(store.ok()) << store.status().ToString();
    Records records;
    for (const bool quota : {false, true}) {
      files->SetCapacity(files->Bytes() + room, quota);
      const int commits = FillUp(**store, &records);
      if (room > 2000) {
        EXPECT_GT(commits, 0);
      }
      files->SetCapacity(kUnlimited);
      RecordBatch batch = Anew(records);
      const absl::Status status = (*store)->Commit(batch);
      ASSERT_TRUE(status.ok()) << room << ": " << status.ToString();
      EXPECT_TRUE(RecordsOf(**store) == records);
    }
    EXPECT_GT((*store)->counts().reopens, 0u);
    files->Crash();
  }
}

// In a process of its own: how that ended.
int FillASmallFileSystem() {
  const ScratchFolder scratch;
  if (!MountSmall(scratch.path(), "size=16m")) return kNoMount;
  {
    const auto store = RecordStore::Open(scratch.path() + "/records", kSmall);
    CHECK(store.ok()) << store.status().ToString();
    const std::string ballast = scratch.path() + "/ballast";
    {
      std::ofstream file(ballast, std::ios::binary);
      file << std::string(12 << 20, 'b');
      CHECK(file.flush().good());
    }
    Records records;
    const int commits = FillUp(**store, &records);
    EXPECT_GT(commits, 10);
    EXPECT_LT(commits, 10'000);
    CHECK(std::remove(ballast.c_str()) == 0);
    const absl::Status status = (*store)->Commit(Anew(records));
    EXPECT_TRUE(status.ok()) << status.ToString();
    EXPECT_TRUE(RecordsOf(**store) == records);
  }
  umount(scratch.path().c_str());
  return testing::Test::HasFailure() ? 1 : 0;
}

TEST(RecordFaultsTest, AFileSystemThatIsReallyFull) {
  // Executed anew: RocksDB's threads of this process would be missing in a fork of it.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  int code = -1;
  const auto ended = [&](int status) {
    code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return code == 0 || code == kNoMount;
  };
  EXPECT_EXIT(_exit(FillASmallFileSystem()), ended, "");
  if (code == kNoMount) GTEST_SKIP() << "no mount namespaces here";
}

}  // namespace
}  // namespace sounder::kv_node
