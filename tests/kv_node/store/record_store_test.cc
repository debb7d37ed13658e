#include "kv_node/store/record_store.h"

#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "common/base/check.h"
#include "kv_node/store/unsynced_files.h"
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
      EXPECT_GT(batch.bytes(), 1000u);
      ASSERT_TRUE(store->Commit(batch).ok());
    }
    EXPECT_EQ(RecordsOf(*store), expected);
    EXPECT_EQ(store->Count()->sessions, 3u);
  }
  const auto store = OpenStore(folder);
  EXPECT_EQ(RecordsOf(*store), expected);
  const auto counts = store->Count();
  ASSERT_TRUE(counts.ok()) << counts.status().ToString();
  EXPECT_EQ(counts->sessions, 3u);
  EXPECT_GT(counts->bytes, 3000u);
  EXPECT_EQ(counts->reopens, 0u);
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
  EXPECT_EQ(store->Count()->sessions, 2u);
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

TEST(RecordStoreTest, AFolderThatCannotBeMadeIsNamed) {
  const ScratchFolder scratch;
  const absl::Status status = RecordStore::Open(scratch.path() + "/a/b").status();
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find(scratch.path() + "/a/b"), absl::string_view::npos)
      << status.ToString();
}

// Puts a value under a key, past the store.
void PutRaw(const std::string& folder, const std::string& key, const std::string& value) {
  rocksdb::Options options;
  options.create_if_missing = true;
  rocksdb::DB* db = nullptr;
  CHECK(rocksdb::DB::Open(options, folder, &db).ok());
  rocksdb::WriteOptions write;
  write.sync = true;
  CHECK(db->Put(write, key, value).ok());
  delete db;
}

TEST(RecordStoreTest, OtherVersionsAndDatabasesAreRefused) {
  const ScratchFolder scratch, other;
  OpenStore(scratch.path());
  PutRaw(scratch.path(), "V", "2");
  EXPECT_EQ(RecordStore::Open(scratch.path()).status().ToString(),
            "FAILED_PRECONDITION: " + scratch.path() +
                ": a store of format version 2; this program reads version 1");
  PutRaw(scratch.path(), "V", "1");
  OpenStore(scratch.path());
  PutRaw(other.path(), "something", "else");
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
  PutRaw(folder, tail.key, tail.value);
  std::string newer = EncodeRecord(TestSession(TestId(6), 1)).value;
  newer[0] = 9;
  PutRaw(folder, EncodeKey({TestId(6)}), newer);
  PutRaw(folder, EncodeKey({TestId(8), RecordKind::kTokens, 0, 0, 4096}) + "x", "stray");

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
  std::filesystem::path table;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".sst") continue;
    if (table.empty() || entry.file_size() > std::filesystem::file_size(table)) {
      table = entry.path();
    }
  }
  ASSERT_FALSE(table.empty());
  const auto flip = [&](uint64_t at) {
    std::fstream file(table, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(static_cast<std::streamoff>(at));
    file.put(byte);
    CHECK(file.flush().good());
  };
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
          EXPECT_TRUE(store->Count().ok());
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
