// What attends and fetches read of a disk: together, in flight without a thread that waits for
// them, within bounds, each row once; and faults that stay where they are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv_node/server/shared_reading.h"
#include "kv_node/server/store_metrics.h"
#include "kv_node/server/stored_piece.h"
#include "tests/kv_node/server/stored_rows_test.h"

namespace sounder::kv_node {
namespace {

using base::DType;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using testing::HasSubstr;
using wire::AttentionKind;

class StoredReadsTest : public StoredRowsTest {
 protected:
  static wire::SessionSpec Sketched(uint64_t number) {
    return StoredRows::Spec(number, 32, DType::kBF16, 100, AttentionKind::kSketch);
  }
  std::string Metric(StoredRows& node, const std::string& name) {
    const std::string all = node.driver.registry.Exposition();
    const size_t at = all.find("\n" + name + " ");
    return all.substr(at + 1, all.find('\n', at + 1) - at - 1);
  }
};

TEST_F(StoredReadsTest, ReadsAreInFlightTogether) {
  StoredRows node(&executor_, Timed(milliseconds(5)));
  // 40 segments of 2 heads each.
  const auto session = Open(node, Sketched(1), 4000), other = Open(node, Sketched(2), 4000);
  std::vector<Question> questions{StoredRows::Ask(*session, {0, 4000}, 1, true),
                                  StoredRows::Ask(*other, {0, 4000}, 1, false)};
  const wire::AttendReply hot = Answer(node, questions);
  for (const auto& one : {session, other}) node.MakeWarm(*one, {0, 4000});
  const base::Time begin = executor_.clock().Now();
  node.Send(questions);
  std::vector<wire::AttendReply> replies;
  executor_.RunUntil([&] {
    replies = node.driver.AttendReplies();
    return !replies.empty();
  });
  ASSERT_EQ(replies.size(), 1u);
  for (size_t i : {0, 1}) EXPECT_TRUE(StoredRows::SameAnswer(hot.items[i], replies[0].items[i]));
  EXPECT_EQ(executor_.clock().Now() - begin, milliseconds(5)) << "the time of one read";
  EXPECT_EQ(node.watched.most_in_flight(), node.watched.batches());
  EXPECT_GE(node.watched.batches(), 8u) << "what is read first need not wait for all";
  EXPECT_LE(node.watched.batches(), 20u) << "160 units";
  executor_.RunFor(milliseconds(1));
}

// Two workers, one document: what the first asks for is on its way when the second comes.
TEST_F(StoredReadsTest, WhatTwoWantAtOnceIsReadOnce) {
  for (const bool sampled : {true, false}) {
    StoredRows node(&executor_, Timed(milliseconds(5)));
    const auto session = Open(node, Sketched(1), 4000);
    const std::vector<Question> questions{StoredRows::Ask(*session, {0, 4000}, 1, sampled)};
    const wire::AttendReply hot = Answer(node, questions);
    node.MakeWarm(*session, {0, 4000});
    const wire::AttendReply alone = Answer(node, questions);
    const RowSourceCounts one = node.source.counts();
    std::vector<Question> first = questions, second = questions;
    node.Send(first, 0, 1);
    node.Send(second, 0, 2);
    const std::vector<wire::AttendReply> replies = Replies(node);
    ASSERT_EQ(replies.size(), 2u);
    for (const wire::AttendReply* reply : {&alone, &replies[0], &replies[1]}) {
      EXPECT_TRUE(StoredRows::SameAnswer(hot.items[0], reply->items.at(0)));
    }
    EXPECT_EQ(node.source.counts().pages, 2 * one.pages);
    EXPECT_EQ(node.source.counts().rows, 3 * one.rows);
    EXPECT_EQ(node.source.counts().joined, one.rows);
  }
}

// However many attends and fetches there are: together they have the room of one.
TEST_F(StoredReadsTest, WhatAllReadTogetherIsBounded) {
  constexpr size_t kMiB = size_t{1} << 20;
  StoredRowsOptions options = Timed(milliseconds(1));
  options.memory_bytes = 100 * kMiB;  // of which 8 MiB beside it are for reads
  StoredRows node(&executor_, options);
  // 4 segments of 2 heads, a MiB of rows and as much of pages each.
  const auto session =
      Open(node, StoredRows::Spec(1, 256, DType::kBF16, 1024, AttentionKind::kSketch), 4096);
  std::vector<Question> exact{StoredRows::Ask(*session, {0, 4096}, 1, false)};
  std::vector<Question> sampled{StoredRows::Ask(*session, {0, 4096}, 1, true)};
  std::vector<Question> block{StoredRows::Ask(*session, {0, 4096}, 130, true)};  // all rows
  std::vector<std::vector<Question>*> kinds{&exact, &sampled, &block};
  std::vector<wire::AttendReply> hot;
  for (const std::vector<Question>* kind : kinds) hot.push_back(Answer(node, *kind));
  node.MakeWarm(*session, {0, 4096});
  for (int i = 0; i < 15; ++i) node.Send(*kinds[i % 3], 0, 1 + i);
  for (int i = 0; i < 3; ++i) node.SendFetch(*session, {0, 4096});
  executor_.RunFor(std::chrono::seconds(5));
  EXPECT_LE(node.watched.most_bytes(), 8 * kMiB);
  EXPECT_GE(node.watched.most_bytes(), 2 * kMiB) << "several at the same time";
  int answers = 0, fetched = 0;
  for (transport::Message& message : node.driver.transport.Take()) {
    if (wire::DecodeEnvelope(message)->kind == wire::MessageKind::kFetchReply) {
      const wire::FetchReply reply = *wire::DecodeFetchReply(std::move(message));
      fetched += reply.items.at(0).status.ok() ? 1 : 0;
      continue;
    }
    const wire::AttendReply reply = *wire::DecodeAttendReply(std::move(message));
    for (const wire::AttendReply& expected : hot) {
      if (expected.items[0].query_count != reply.items.at(0).query_count ||
          expected.items[0].rows_read != reply.items[0].rows_read) {
        continue;
      }
      EXPECT_TRUE(StoredRows::SameAnswer(expected.items[0], reply.items[0]));
      ++answers;
    }
  }
  EXPECT_EQ(answers, 15);
  EXPECT_EQ(fetched, 3);
}

// A disk that has more to read than it can in time says so before it reads.
TEST_F(StoredReadsTest, WhatTheDiskCannotReadInTimeIsRefused) {
  StoredRowsOptions options = Timed(milliseconds(1));
  options.memory_bytes = uint64_t{100} << 20;
  StoredRows node(&executor_, options);
  const auto session =
      Open(node, StoredRows::Spec(1, 256, DType::kBF16, 1024, AttentionKind::kSketch), 4096);
  std::vector<Question> exact{StoredRows::Ask(*session, {0, 4096}, 1, false)};
  std::vector<Question> sampled{StoredRows::Ask(*session, {0, 4096}, 1, true)};
  const wire::AttendReply hot = Answer(node, exact), hot_sample = Answer(node, sampled);
  node.MakeWarm(*session, {0, 4096});
  for (int i = 0; i < 100; ++i) node.Send(exact, 10'000'000, 1);
  executor_.RunFor(milliseconds(100));  // its pace is known now
  size_t good = node.driver.AttendReplies().size();
  EXPECT_LT(good, 100u);
  node.Send(exact, 20'000, 2);
  executor_.RunFor(milliseconds(1));
  std::vector<wire::AttendReply> refused;
  for (wire::AttendReply& reply : node.driver.AttendReplies()) {
    if (reply.envelope.status.ok()) {
      ++good;
    } else {
      refused.push_back(std::move(reply));
    }
  }
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].envelope.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused[0].envelope.status.ToString(),
              HasSubstr("us of reading from the disk lie before its own"));
  EXPECT_GT(refused[0].envelope.retry_after_us, 0u);
  EXPECT_EQ(Metric(node, "sounder_node_refused_requests_total{reason=\"disk\"}"),
            "sounder_node_refused_requests_total{reason=\"disk\"} 1");
  // Who has the time waits, and what reads little needs little of it.
  node.Send(exact, 0, 2);
  node.Send(sampled, 1'000'000, 3);
  for (const wire::AttendReply& reply : Replies(node)) {
    ASSERT_TRUE(reply.envelope.status.ok()) << reply.envelope.status;
    EXPECT_TRUE(StoredRows::SameAnswer(reply.items.at(0), hot.items[0]) ||
                StoredRows::SameAnswer(reply.items.at(0), hot_sample.items[0]));
    ++good;
  }
  EXPECT_EQ(good, 102u);
  EXPECT_EQ(Metric(node, "sounder_node_pending_read_bytes"), "sounder_node_pending_read_bytes 0");
}

// Attends that have begun keep their partial outputs while they wait for the disk.
TEST_F(StoredReadsTest, AttendsBeginWithRoomForTheirPartialOutputs) {
  StoredRowsOptions options = Timed(milliseconds(5));
  options.memory_bytes = uint64_t{100} << 20;  // of which 64 MiB beside it are for partial outputs
  StoredRows node(&executor_, options);
  // 32 units of 1,900 x 2 queries: 30 MiB.
  const auto session =
      Open(node, StoredRows::Spec(1, 64, DType::kBF16, 256, AttentionKind::kExact), 4096);
  node.MakeWarm(*session, {0, 4096});
  std::vector<Question> block{StoredRows::Ask(*session, {0, 4096}, 1900, false)};
  for (int i = 0; i < 6; ++i) node.Send(block, 0, 1 + i);
  executor_.RunFor(milliseconds(1));
  const RowSourceCounts counts = node.source.counts();
  EXPECT_EQ(counts.rows - counts.joined, 2 * 4096u) << "what one reads is not read by another";
  EXPECT_GT(counts.rows, 2 * 4096u);
  EXPECT_LE(counts.rows, 2 * 2 * 4096u) << "two of them have begun";
  std::vector<wire::AttendReply> replies = Replies(node);
  ASSERT_EQ(replies.size(), 6u);
  for (const wire::AttendReply& reply : replies) {
    EXPECT_TRUE(StoredRows::SameAnswer(reply.items.at(0), replies[0].items[0]));
  }
}

TEST_F(StoredReadsTest, APieceSaysWhatItTakes) {
  StoredRows node(&executor_, Timed(microseconds(0)));
  const auto session =
      Open(node, StoredRows::Spec(1, 64, DType::kF32, 1000, AttentionKind::kSketch), 1000);
  node.MakeWarm(*session, {0, 1000});
  Piece piece;
  wire::AttendItem item = SessionDriver::Query(*session, 1, 0, {0, 1000}, true);
  session->Plan(item, base::kNever, [&](absl::StatusOr<AttendPlan> plan) {
    ASSERT_TRUE(plan.ok()) << plan.status();
    piece = plan->pieces[0].at(0);
  });
  ASSERT_FALSE(piece.in_memory());
  piece.row_end = 10;
  StoredPiece all(piece);
  const uint64_t most = all.bytes_of_all();
  all.TakeAll();
  EXPECT_EQ(all.bytes(), most);
  // Too many queries to select for: the rows lie where they do in the segment.
  StoredPiece whole(piece);
  Scratch scratch;
  whole.TakeSampled(*session->sampler(), {.group = 300}, scratch);
  EXPECT_GE(whole.bytes(), 1000u * 2 * 64 * 4 + 10 * kPageBytes / 8);
}

// The end of a node whose start failed: before its executor's.
TEST_F(StoredReadsTest, WaitIdleWaitsForReadsInFlight) {
  StoredRows node(&executor_, Timed(milliseconds(5)));
  const auto session = Open(node, Sketched(1), 1000), other = Open(node, Sketched(2), 1000);
  node.MakeWarm(*session, {0, 1000});
  node.MakeWarm(*other, {0, 1000});
  std::vector<Question> questions{StoredRows::Ask(*session, {0, 1000}, 1, true)};
  node.Send(questions);
  node.SendFetch(*other, {0, 1000});
  node.driver.transport.Block(1);  // whether answers go does not matter
  executor_.RunFor(milliseconds(1));
  EXPECT_GE(node.watched.in_flight(), 2u);
  node.driver.server.Stop();
  node.driver.server.WaitIdle();
  EXPECT_EQ(node.watched.in_flight(), 0u);
  EXPECT_EQ(node.driver.transport.Take().size(), 2u);
  EXPECT_FALSE(node.driver.server.WaitAnswered(executor_.clock().Now()));
  node.driver.transport.Unblock();
  EXPECT_TRUE(node.driver.server.WaitAnswered(executor_.clock().Now()));
  executor_.RunFor(milliseconds(1));  // a runner that finds nothing to do
}

TEST_F(StoredReadsTest, NoThreadWaitsForTheDisk) {
  StoredRows node(&executor_, Timed(milliseconds(5)));
  const auto in_memory = Open(node, Sketched(2), 1000);
  std::vector<std::shared_ptr<Session>> stored;  // one each: the rows of one would be read once
  for (uint64_t i = 0; i < 10; ++i) {
    stored.push_back(Open(node, Sketched(10 + i), 1000));
    node.MakeWarm(*stored.back(), {0, 1000});
  }
  const base::Time begin = executor_.clock().Now();
  for (size_t i = 0; i < stored.size(); ++i) {
    std::vector<Question> questions{StoredRows::Ask(*stored[i], {0, 1000}, 1, i % 2 == 0)};
    node.Send(questions);
  }
  executor_.RunFor(milliseconds(1));
  EXPECT_EQ(node.watched.in_flight(), node.watched.batches());
  EXPECT_GE(node.watched.in_flight(), 10u);
  std::vector<Question> questions{StoredRows::Ask(*in_memory, {0, 1000}, 1, true)};
  node.Send(questions, 0, 2);
  executor_.RunFor(milliseconds(1));
  EXPECT_EQ(node.driver.AttendReplies().size(), 1u) << "two threads, ten attends that wait";
  size_t answers = 0;
  executor_.RunUntil([&] {
    answers += node.driver.AttendReplies().size();
    return answers == 10;
  });
  EXPECT_EQ(answers, 10u);
  EXPECT_EQ(executor_.clock().Now() - begin, milliseconds(5));
  executor_.RunFor(milliseconds(1));
}

TEST_F(StoredReadsTest, WhatIsInMemoryIsAttendedMeanwhile) {
  StoredRows node(&executor_, Timed(milliseconds(5)));
  const auto session = Open(node, Sketched(1), 1000);
  node.MakeWarm(*session, {0, 500});
  std::vector<Question> questions{StoredRows::Ask(*session, {0, 1000}, 1, true)};
  node.Send(questions);
  executor_.RunFor(milliseconds(1));
  EXPECT_EQ(node.driver.AttendReplies().size(), 0u);
  EXPECT_EQ(Metric(node, "sounder_node_admitted_attend_requests"),
            "sounder_node_admitted_attend_requests 1");
  executor_.RunFor(milliseconds(10));
  EXPECT_EQ(node.driver.AttendReplies().size(), 1u);
  EXPECT_EQ(Metric(node, "sounder_node_admitted_attend_requests"),
            "sounder_node_admitted_attend_requests 0");
}

TEST_F(StoredReadsTest, ADeadlineThatPassesDuringTheReadEndsTheAttendOnce) {
  StoredRows node(&executor_, Timed(milliseconds(50)));
  const auto session = Open(node, Sketched(1), 1000);
  node.MakeWarm(*session, {0, 1000});
  for (int i = 0; i < 3; ++i) {
    std::vector<Question> questions{StoredRows::Ask(*session, {0, 1000}, 1, i > 0)};
    node.Send(questions, /*deadline_us=*/10'000);
  }
  EXPECT_EQ(Replies(node).size(), 3u);
  EXPECT_EQ(node.watched.in_flight(), 0u);
  EXPECT_EQ(Metric(node, "sounder_node_admitted_attend_requests"),
            "sounder_node_admitted_attend_requests 0");
}

TEST_F(StoredReadsTest, AFaultFailsItsItemAndNoOther) {
  StoredRows node(&executor_, Timed(microseconds(100)));
  const auto first = Open(node, Sketched(1), 250);
  const auto second = Open(node, Sketched(2), 250);
  const std::vector<Question> questions{StoredRows::Ask(*first, {0, 250}, 1, true),
                                        StoredRows::Ask(*second, {0, 250}, 1, true)};
  const wire::AttendReply hot = Answer(node, questions);
  node.MakeWarm(*first, {0, 250});
  for (const DiskFault fault : {DiskFault::kReadFlip, DiskFault::kReadError}) {
    SCOPED_TRACE(NameOf(fault));
    node.disk->Arm(fault);
    const wire::AttendReply faulty = Answer(node, questions);
    EXPECT_EQ(faulty.items[0].status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(faulty.items[0].status.ToString(), HasSubstr("segment at"));
    EXPECT_TRUE(faulty.items[0].outputs.empty());
    EXPECT_TRUE(StoredRows::SameAnswer(hot.items[1], faulty.items[1]));
    const wire::AttendReply again = Answer(node, questions);
    for (size_t i : {0, 1}) EXPECT_TRUE(StoredRows::SameAnswer(hot.items[i], again.items[i]));
  }
  EXPECT_GT(node.source.counts().failed, 0u);
}

TEST_F(StoredReadsTest, UnderManyFaultsAnswersAreRightOrErrors) {
  constexpr uint64_t kSeed = 12;
  std::printf("seed %llu\n", static_cast<unsigned long long>(kSeed));
  StoredRowsOptions options = Timed(microseconds(100));
  options.seed = kSeed;
  options.cache_bytes = 50'000;
  options.faults.probability[static_cast<size_t>(DiskFault::kReadFlip)] = .02;
  options.faults.probability[static_cast<size_t>(DiskFault::kReadError)] = .02;
  StoredRows node(&executor_, options);
  const auto session = Open(node, Sketched(1), 1000);
  std::vector<Question> questions;
  for (const bool sampled : {true, false}) {
    for (base::Position at = 0; at < 1000; at += 100) {
      questions.push_back(StoredRows::Ask(*session, {at, at + 100}, 1, sampled));
    }
  }
  const wire::AttendReply hot = Answer(node, questions);
  node.MakeWarm(*session, {0, 1000});
  int failed = 0;
  for (int round = 0; round < 20; ++round) {
    const wire::AttendReply reply = Answer(node, questions);
    for (size_t i = 0; i < questions.size(); ++i) {
      if (reply.items[i].status.ok()) {
        EXPECT_TRUE(StoredRows::SameAnswer(hot.items[i], reply.items[i])) << i;
      } else {
        EXPECT_EQ(reply.items[i].status.code(), absl::StatusCode::kDataLoss);
        ++failed;
      }
    }
  }
  EXPECT_GT(failed, 5);
  EXPECT_LT(failed, 300);
  // Whatever became of them, nothing counts as still to be read.
  EXPECT_EQ(Metric(node, "sounder_node_pending_read_bytes"), "sounder_node_pending_read_bytes 0");
}

TEST_F(StoredReadsTest, FetchedRowsAreTheSame) {
  StoredRows node(&executor_, Timed(microseconds(100)));
  const auto session = Open(node, Sketched(1), 1000);
  const auto fetch = [&](base::PositionRange range) {
    node.SendFetch(*session, range);
    executor_.RunFor(milliseconds(10));
    std::vector<transport::Message> messages = node.driver.transport.Take();
    CHECK(messages.size() == 1) << messages.size();
    return *wire::DecodeFetchReply(std::move(messages[0]));
  };
  for (const base::PositionRange range :
       std::vector<base::PositionRange>{{0, 1000}, {5, 993}, {450, 451}, {10, 10}}) {
    if (range.empty()) continue;
    const wire::FetchReply hot = fetch(range);
    for (const auto& segment : StoredRows::Segments(*session, range)) {
      if (segment->View().rows != nullptr) node.MakeWarm(segment);
    }
    for (int i = 0; i < 2; ++i) {
      const wire::FetchReply warm = fetch(range);
      ASSERT_TRUE(warm.items.at(0).status.ok()) << warm.items[0].status;
      EXPECT_FALSE(hot.items[0].keys.empty());
      EXPECT_TRUE(StoredRows::SameBits(hot.items[0].keys, warm.items[0].keys));
      EXPECT_TRUE(StoredRows::SameBits(hot.items[0].values, warm.items[0].values));
    }
  }
  node.disk->Arm(DiskFault::kReadFlip);
  const wire::FetchReply faulty = fetch({0, 1000});
  EXPECT_EQ(faulty.items[0].status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(faulty.items[0].status.ToString(), HasSubstr("segment at"));
  EXPECT_TRUE(faulty.items[0].keys.empty());
}

TEST_F(StoredReadsTest, MetricsTellWhatTheDiskDid) {
  StoredRows node(&executor_, Timed(microseconds(0), 1 << 20));
  AddRowSourceMetrics(node.driver.registry, node.source);
  const auto session =
      Open(node, StoredRows::Spec(1, 256, DType::kBF16, 500, AttentionKind::kSketch), 1000);
  node.MakeWarm(*session, {0, 1000});
  const std::vector<Question> questions{StoredRows::Ask(*session, {0, 1000}, 1, true)};
  Answer(node, questions);
  const RowSourceCounts counts = node.source.counts();
  EXPECT_GT(counts.rows, 0u);
  EXPECT_EQ(Metric(node, "sounder_store_asked_rows_total"),
            absl::StrCat("sounder_store_asked_rows_total ", counts.rows));
  EXPECT_EQ(Metric(node, "sounder_store_read_bytes_total"),
            absl::StrCat("sounder_store_read_bytes_total ", counts.bytes()));
  Answer(node, questions);
  EXPECT_EQ(Metric(node, "sounder_store_cached_rows_total"),
            absl::StrCat("sounder_store_cached_rows_total ", counts.rows));
  EXPECT_EQ(node.source.counts().bytes(), counts.bytes()) << "all of it was in the cache";
}

TEST_F(StoredReadsTest, MetricsOfTheStoreAreThere) {
  StoredRows node(&executor_, Timed(microseconds(0)));
  ServerDriver driver(&executor_, {}, {}, &node.source, {&node.store, nullptr});
  AddStoreMetrics(driver.registry, driver.map, node.source);
  const std::string all = driver.registry.Exposition();
  for (const char* name :
       {"hot_segments", "failed_freed_segments_total", "live_bytes", "commit_errors_total"}) {
    EXPECT_THAT(all, HasSubstr(absl::StrCat("\nsounder_store_", name, " 0\n")));
  }
}

TEST(SharedReadingTest, IsReadOnceForAllFields) {
  int readings = 0;
  SharedReading<TierCensus> counts([&] {
    ++readings;
    TierCensus read;
    read.hot_segments = static_cast<uint64_t>(readings);
    read.cold_segments = 10;
    return read;
  });
  EXPECT_EQ(counts.Of(&TierCensus::hot_segments), 1);
  EXPECT_EQ(counts.Of(&TierCensus::cold_segments), 10);
  EXPECT_EQ(readings, 1);
  EXPECT_EQ(counts.Of(&TierCensus::cold_segments), 10);
  EXPECT_EQ(counts.Of(&TierCensus::hot_segments), 2);
  EXPECT_EQ(readings, 2);
}

}  // namespace
}  // namespace sounder::kv_node
