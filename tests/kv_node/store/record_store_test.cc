#include "kv_node/store/record_store.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "common/base/check.h"
#include "kv_node/store/unsynced_files.h"
#include "tests/kv_node/store/raw_record.h"
#include "tests/kv_node/store/record_values.h"
#include "tests/kv_node/store/recorded_bytes.h"
#include "tests/kv_node/store/scratch_folder.h"

namespace sounder::kv_node {
namespace {

using absl::StatusCode;
using Records = RecordedBytes::Records;

std::unique_ptr<RecordStore> OpenStore(const std::string& folder, RecordStoreOptions options = {}) {
  auto store = RecordStore::Open(folder, options);
  CHECK(store.ok()) << store.status().ToString();
  return *std::move(store);
}

Records RecordsOf(RecordStore& store) {
  RecordedBytes bytes;
  const auto result = store.Visit(bytes);
  EXPECT_TRUE(result.ok()) << result.status().ToString();
  EXPECT_TRUE(result.ok() && result->damaged.empty() && result->unreadable.empty());
  return bytes.records;
}

void Add(Records* records, const EncodedRecord& record) { (*records)[record.key] = record.value; }

// Everything of a session of two streams, as a batch and as what a visit tells.
void PutAll(RecordBatch* batch, Records* records, const base::SessionId& id, uint64_t version) {
  batch->PutSession(TestSession(id, version));
  Add(records, EncodeRecord(TestSession(id, version)));
  for (const uint32_t head : {0, 1}) {
    for (const base::Position first : {0, 4096}) {
      batch->PutSegment(id, TestSegmentRecord(3, head, first, version));
      Add(records, EncodeRecord(id, TestSegmentRecord(3, head, first, version)));
    }
    for (const base::Position first : {8192, 8200}) {
      const TestTail tail(3, head, first, 8);
      batch->PutTail(id, tail.record);
      Add(records, EncodeRecord(id, tail.record));
    }
  }
  for (const base::Position first : {0, 1024, 2048}) {
    batch->PutTokens(id, TestTokens(first, 0, 1000, 1));
    Add(records, EncodeRecord(id, TestTokens(first, 0, 1000, 1)));
  }
}

TEST(RecordStoreTest, WhatWasCommittedIsThereAfterAReopen) {
  const ScratchFolder scratch;
  const std::string folder = scratch.path() + "/records";
  Records expected;
  {
    const auto store = OpenStore(folder);
    EXPECT_TRUE(RecordsOf(*store).empty());
    EXPECT_TRUE(store->Commit(RecordBatch()).ok());
    for (const uint64_t number : {5, 2, 9}) {
      RecordBatch batch;
      PutAll(&batch, &expected, TestId(number), 1);
      ASSERT_TRUE(store->Commit(batch).ok());
    }
    EXPECT_EQ(RecordsOf(*store), expected);
  }
  const auto store = OpenStore(folder);
  EXPECT_EQ(RecordsOf(*store), expected);
  EXPECT_EQ(store->counts().reopens, 0u);
}

TEST(RecordStoreTest, RemovesWhatItIsTold) {
  const ScratchFolder scratch;
  const auto store = OpenStore(scratch.path());
  const base::SessionId id = TestId(5);
  Records expected;
  RecordBatch batch;
  for (const uint64_t number : {4, 5, 6}) PutAll(&batch, &expected, TestId(number), 1);
  ASSERT_TRUE(store->Commit(batch).ok());

  batch = RecordBatch();
  batch.RemoveSegment(id, 3, 1, 4096);
  batch.RemoveTails(id, 3, 0, 8193);
  batch.RemoveTokensFrom(id, 1024);
  batch.PutTokens(id, TestTokens(1024, 0, 5, 2));
  batch.PutSession(TestSession(id, 2));
  ASSERT_TRUE(store->Commit(batch).ok());
  expected.erase(EncodeKey({id, RecordKind::kSegment, 3, 1, 4096}));
  expected.erase(EncodeKey({id, RecordKind::kTail, 3, 0, 8200}));
  expected.erase(EncodeKey({id, RecordKind::kTokens, 0, 0, 2048}));
  Add(&expected, EncodeRecord(id, TestTokens(1024, 0, 5, 2)));
  Add(&expected, EncodeRecord(TestSession(id, 2)));
  EXPECT_EQ(RecordsOf(*store), expected);

  // In the order of the calls: what comes after the removal stays.
  batch = RecordBatch();
  batch.RemoveSession(id);
  batch.PutSession(TestSession(id, 3));
  ASSERT_TRUE(store->Commit(batch).ok());
  std::erase_if(expected,
                [&](const auto& record) { return ParseKey(record.first)->session == id; });
  Add(&expected, EncodeRecord(TestSession(id, 3)));
  EXPECT_EQ(RecordsOf(*store), expected);
  batch = RecordBatch();
  batch.RemoveSession(id);
  ASSERT_TRUE(store->Commit(batch).ok());
  expected.erase(EncodeKey({id}));
  EXPECT_EQ(RecordsOf(*store), expected);
}

TEST(RecordStoreTest, OneStoreOfAFolderAtATime) {
  const ScratchFolder scratch;
  const auto store = OpenStore(scratch.path());
  const absl::Status second = RecordStore::Open(scratch.path()).status();
  EXPECT_EQ(second.code(), StatusCode::kFailedPrecondition) << second.ToString();
  EXPECT_EQ(second.message().find(scratch.path() + ": in use by another process"), 0u)
      << second.ToString();
  // The first one is none the worse.
  RecordBatch batch;
  batch.PutSession(TestSession(TestId(1)));
  EXPECT_TRUE(store->Commit(batch).ok());
}

TEST(RecordStoreTest, AFolderThatCannotBeLockedIsNotSaidToBeInUse) {
  const ScratchFolder scratch;
  std::filesystem::create_directory(scratch.path() + "/LOCK");  // cannot be opened for writing
  const absl::Status status = RecordStore::Open(scratch.path()).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition) << status.ToString();
  EXPECT_EQ(status.message().find(scratch.path() + ": cannot be locked (IO error"), 0u)
      << status.ToString();
  EXPECT_NE(status.message().find("Is a directory"), absl::string_view::npos) << status.ToString();
}

TEST(RecordStoreTest, AFolderThatCannotBeMadeIsNamed) {
  const ScratchFolder scratch;
  const absl::Status status = RecordStore::Open(scratch.path() + "/a/b").status();
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find(scratch.path() + "/a/b"), absl::string_view::npos)
      << status.ToString();
}

// Of those with this extension.
std::filesystem::path LargestFile(const std::string& folder, const std::string& extension) {
  std::filesystem::path largest;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != extension) continue;
    if (largest.empty() || entry.file_size() > std::filesystem::file_size(largest)) {
      largest = entry.path();
    }
  }
  CHECK(!largest.empty()) << folder;
  return largest;
}

void FlipBit(const std::filesystem::path& path, uint64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(at));
  const char byte = static_cast<char>(file.get() ^ 1);
  file.seekp(static_cast<std::streamoff>(at));
  file.put(byte);
  CHECK(file.flush().good());
}

TEST(RecordStoreTest, OtherVersionsAndDatabasesAreRefused) {
  const ScratchFolder scratch, other;
  OpenStore(scratch.path());
  PutRawRecord(scratch.path(), "V", "2");
  EXPECT_EQ(RecordStore::Open(scratch.path()).status().ToString(),
            "FAILED_PRECONDITION: " + scratch.path() +
                ": a store of format version 2; this program reads version 1");
  PutRawRecord(scratch.path(), "V", "1");
  OpenStore(scratch.path());
  PutRawRecord(other.path(), "something", "else");
  EXPECT_EQ(RecordStore::Open(other.path()).status().ToString(),
            "FAILED_PRECONDITION: " + other.path() +
                ": a database, but not one of records: it names no version");
}

TEST(RecordStoreTest, DamageOfASessionHidesNoOther) {
  const ScratchFolder scratch;
  const std::string folder = scratch.path();
  Records expected;
  {
    const auto store = OpenStore(folder);
    Records gone;
    for (const uint64_t number : {1, 2, 3, 4, 5, 6, 7, 8}) {
      RecordBatch batch;
      PutAll(&batch, number % 2 == 0 ? &gone : &expected, TestId(number), 1);
      ASSERT_TRUE(store->Commit(batch).ok());
    }
    RecordBatch batch;  // 4 without a record of its own
    batch.RemoveSession(TestId(4));
    batch.PutTail(TestId(4), TestTail(3, 0, 0, 1).record);
    ASSERT_TRUE(store->Commit(batch).ok());
  }
  EncodedRecord tail = EncodeRecord(TestId(2), TestTail(3, 1, 8192, 8).record);
  tail.value[20] = static_cast<char>(tail.value[20] ^ 1);
  PutRawRecord(folder, tail.key, tail.value);
  std::string newer = EncodeRecord(TestSession(TestId(6), 1)).value;
  newer[0] = 9;
  PutRawRecord(folder, EncodeKey({TestId(6)}), newer);
  PutRawRecord(folder, EncodeKey({TestId(8), RecordKind::kTokens, 0, 0, 4096}) + "x", "stray");

  const auto store = OpenStore(folder);
  RecordedBytes bytes;
  const auto result = store->Visit(bytes);
  ASSERT_TRUE(result.ok()) << result.status().ToString();
  EXPECT_EQ(bytes.records, expected);
  EXPECT_EQ(result->sessions, 4u);
  EXPECT_TRUE(result->unreadable.empty());
  std::vector<std::string> texts;
  for (const auto& [id, why] : result->damaged) {
    texts.push_back(std::to_string(id.high >> 32) + " " + why.ToString());
  }
  EXPECT_EQ(texts, (std::vector<std::string>{
                       "2 DATA_LOSS: tail of layer 3, kv head 1 from 8192: the record does not "
                       "match its checksum",
                       "4 DATA_LOSS: records of a session without the session's own",
                       "6 FAILED_PRECONDITION: session: a record of format version 9; this program "
                       "reads version 1",
                       "8 DATA_LOSS: a key that no record has"}));
  // Such a session can be removed, and put anew.
  RecordBatch batch;
  for (const uint64_t number : {2, 4, 6, 8}) batch.RemoveSession(TestId(number));
  PutAll(&batch, &expected, TestId(6), 2);
  ASSERT_TRUE(store->Commit(batch).ok());
  EXPECT_EQ(RecordsOf(*store), expected);
}

// Keys of no record, before all others of a session and behind them.
TEST(RecordStoreTest, StrayKeysOfASessionAreItsAndGoWithIt) {
  constexpr uint64_t kAll = ~uint64_t{0};
  for (const base::SessionId& id : {base::SessionId{5, 6}, {5, kAll}, {kAll, kAll}}) {
    for (const std::string& rest :
         {std::string(), std::string("\xff"), std::string("\xff\xff z")}) {
      const ScratchFolder scratch;
      Records expected;
      {
        RecordBatch batch;
        Records gone;
        PutAll(&batch, &expected, {5, 5}, 1);
        PutAll(&batch, &gone, id, 1);
        if (id.high < kAll) PutAll(&batch, &expected, {6, 0}, 1);
        ASSERT_TRUE(OpenStore(scratch.path())->Commit(batch).ok());
      }
      PutRawRecord(scratch.path(), EncodeKey({id}).substr(0, 17) + rest, "stray");
      const auto store = OpenStore(scratch.path());
      RecordedBytes bytes;
      const auto result = store->Visit(bytes);
      ASSERT_TRUE(result.ok()) << result.status().ToString();
      EXPECT_EQ(bytes.records, expected);
      ASSERT_EQ(result->damaged.size(), 1u);
      EXPECT_EQ(result->damaged[0].first, id);
      EXPECT_TRUE(result->unreadable.empty());
      RecordBatch batch;
      batch.RemoveSession(id);
      ASSERT_TRUE(store->Commit(batch).ok());
      EXPECT_EQ(RecordsOf(*store), expected);
    }
  }
}

// A block of a table that RocksDB itself cannot read: sessions before and behind it are told.
TEST(RecordStoreTest, ABadBlockHidesNoSessionBehindIt) {
  const ScratchFolder scratch;
  const std::string folder = scratch.path();
  Records all;
  constexpr uint64_t kSessions = 64;
  {
    const auto store = OpenStore(folder);
    for (uint64_t number = 1; number <= kSessions; ++number) {
      RecordBatch batch;
      PutAll(&batch, &all, TestId(number * 0x123457), 1);
      ASSERT_TRUE(store->Commit(batch).ok());
    }
  }
  OpenStore(folder);  // sorts what it finds in the log into a table
  const std::filesystem::path table = LargestFile(folder, ".sst");
  const auto flip = [&](uint64_t at) { FlipBit(table, at); };
  const uint64_t size = std::filesystem::file_size(table);
  ASSERT_GT(size, 200'000u);
  // The first block, one in the middle, and both.
  for (const std::vector<uint64_t>& places :
       {std::vector<uint64_t>{100}, {size / 2}, {100, size / 2}}) {
    for (const uint64_t at : places) flip(at);
    const auto store = OpenStore(folder);
    RecordedBytes bytes;
    const auto result = store->Visit(bytes);
    ASSERT_TRUE(result.ok()) << result.status().ToString();
    EXPECT_EQ(result->unreadable.size(), places.size());
    for (const absl::Status& status : result->unreadable) {
      EXPECT_NE(status.message().find("cannot be read"), absl::string_view::npos)
          << status.ToString();
    }
    // A block is some 4 KiB and a session 9: of two sessions a record may lie in it.
    EXPECT_GE(result->sessions, kSessions - 2 * places.size());
    EXPECT_LT(result->sessions, kSessions);
    for (const auto& [key, value] : bytes.records) {
      ASSERT_TRUE(all.contains(key));
      EXPECT_EQ(all[key], value);
    }
    for (const uint64_t at : places) flip(at);
  }
  EXPECT_EQ(RecordsOf(*OpenStore(folder)), all);
}

// Whatever is damaged, after the store is written anew what was whole is there, and nothing else.
TEST(RecordStoreTest, RewrittenItHoldsWhatWasWhole) {
  const ScratchFolder scratch;
  const std::string folder = scratch.path() + "/records";
  Records all;
  {
    const auto store = OpenStore(folder);
    for (uint64_t number = 1; number <= 64; ++number) {
      RecordBatch batch;
      PutAll(&batch, &all, TestId(number * 0x123457), 1);
      ASSERT_TRUE(store->Commit(batch).ok());
    }
    RecordBatch batch;  // without a record of its own
    batch.PutTail(TestId(1), TestTail(3, 0, 0, 1).record);
    ASSERT_TRUE(store->Commit(batch).ok());
  }
  PutRawRecord(folder, "Stray", "of no session");
  const std::filesystem::path table = LargestFile(folder, ".sst");
  FlipBit(table, std::filesystem::file_size(table) / 2);

  Records whole;
  {
    const auto store = OpenStore(folder + "/");
    RecordedBytes bytes;
    const auto before = store->Visit(bytes);
    ASSERT_TRUE(before.ok()) << before.status().ToString();
    EXPECT_EQ(before->unreadable.size(), 2u);
    EXPECT_GE(before->damaged.size(), 1u);
    EXPECT_GE(before->sessions, 62u);
    whole = bytes.records;
    const auto left_out = store->Rewrite();
    ASSERT_TRUE(left_out.ok()) << left_out.status().ToString();
    EXPECT_EQ(left_out->sessions, before->sessions);
    EXPECT_EQ(left_out->damaged, before->damaged);
    EXPECT_EQ(left_out->unreadable, before->unreadable);
    EXPECT_EQ(RecordsOf(*store), whole);
    EXPECT_EQ(RecordStore::Open(folder).status().code(), StatusCode::kFailedPrecondition);
    RecordBatch batch;
    PutAll(&batch, &whole, TestId(7), 3);
    ASSERT_TRUE(store->Commit(batch).ok());
  }
  EXPECT_EQ(RecordsOf(*OpenStore(folder)), whole);
  const std::filesystem::directory_iterator left(scratch.path());
  EXPECT_EQ(std::distance(begin(left), end(left)), 1) << "the copy and the original are gone";
}

// Before the names are swapped a crash leaves a copy, perhaps a part of one; after it, the
// original.
TEST(RecordStoreTest, WhatACrashLeavesOfARewriteIsForgotten) {
  const ScratchFolder scratch;
  const std::string folder = scratch.path() + "/records", other = folder + ".new";
  Records expected;
  RecordBatch batch;
  PutAll(&batch, &expected, TestId(1), 1);
  ASSERT_TRUE(OpenStore(folder)->Commit(batch).ok());
  for (const bool whole : {false, true}) {
    Records others;
    batch = RecordBatch();
    PutAll(&batch, &others, TestId(2), 1);
    ASSERT_TRUE(OpenStore(other)->Commit(batch).ok());
    if (!whole) std::filesystem::remove(other + "/CURRENT");
    const auto store = OpenStore(folder);
    EXPECT_FALSE(std::filesystem::exists(other));
    EXPECT_EQ(RecordsOf(*store), expected);
    ASSERT_TRUE(store->Rewrite().ok());
    EXPECT_EQ(RecordsOf(*store), expected);
  }
}

// What DESIGN.md says of it: RocksDB takes it for the end of its log, which a loss of power tears.
TEST(RecordStoreTest, AFlippedBitInTheLogCostsWhatWasCommittedBehindIt) {
  const ScratchFolder scratch;
  {
    const auto store = OpenStore(scratch.path());
    Records records;
    for (uint64_t number = 1; number <= 20; ++number) {
      RecordBatch batch;
      PutAll(&batch, &records, TestId(number), 1);
      ASSERT_TRUE(store->Commit(batch).ok());
    }
  }
  const std::filesystem::path log = LargestFile(scratch.path(), ".log");
  FlipBit(log, std::filesystem::file_size(log) / 2);
  const auto store = OpenStore(scratch.path());
  RecordedBytes bytes;
  const auto result = store->Visit(bytes);
  ASSERT_TRUE(result.ok()) << result.status().ToString();
  EXPECT_TRUE(result->damaged.empty() && result->unreadable.empty());
  EXPECT_GE(result->sessions, 8u);
  EXPECT_LE(result->sessions, 12u);
}

TEST(RecordStoreTest, CommitsOfManyThreadsAreAllThere) {
  const ScratchFolder scratch;
  const auto store = OpenStore(scratch.path(), {.buffer_bytes = 64 << 10});
  constexpr uint64_t kThreads = 4, kCommits = 25;
  std::vector<Records> expected(kThreads);
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t i = 0; i < kCommits; ++i) {
        RecordBatch batch;
        PutAll(&batch, &expected[thread], TestId(1 + thread), i);
        EXPECT_TRUE(store->Commit(batch).ok());
        if (i % 8 == 0) {
          RecordedBytes bytes;
          EXPECT_TRUE(store->Visit(bytes).ok());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Records all;
  for (Records& records : expected) all.merge(records);
  EXPECT_EQ(RecordsOf(*store), all);
}

class Refuses final : public RecordVisitor {
 public:
  absl::Status OnSession(const SessionRecord&) override { return absl::OkStatus(); }
  absl::Status OnSegment(const SegmentRecord&) override {
    return absl::CancelledError("that is enough");
  }
  absl::Status OnTail(const TailRecord&) override { return absl::OkStatus(); }
  absl::Status OnTokens(const TokenRecord&) override { return absl::OkStatus(); }
  absl::Status OnEnd(const base::SessionId&) override { return absl::OkStatus(); }
  absl::Status OnDamaged(const base::SessionId&, const absl::Status&) override {
    ADD_FAILURE() << "a visitor's refusal is no damage";
    return absl::OkStatus();
  }
};

TEST(RecordStoreTest, AVisitorEndsTheVisit) {
  const ScratchFolder scratch;
  const auto store = OpenStore(scratch.path());
  Records records;
  RecordBatch batch;
  PutAll(&batch, &records, TestId(1), 1);
  ASSERT_TRUE(store->Commit(batch).ok());
  Refuses visitor;
  EXPECT_EQ(store->Visit(visitor).status().ToString(), "CANCELLED: that is enough");
}

}  // namespace
}  // namespace sounder::kv_node
