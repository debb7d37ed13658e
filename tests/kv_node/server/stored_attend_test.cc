// Attends and fetches whose rows are on disk: the same bits as with the rows in memory, reads in
// flight together and no thread that waits for them, and faults that stay where they are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/thread_executor.h"
#include "common/base/virtual_executor.h"
#include "common/kernels/simd_level.h"
#include "kv_node/server/shared_reading.h"
#include "kv_node/server/store_metrics.h"
#include "kv_node/server/stored_piece.h"
#include "tests/cluster/gated_executor.h"
#include "tests/kv_node/server/stored_rows.h"

namespace sounder::kv_node {
namespace {

using base::DType;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using testing::HasSubstr;
using wire::AttentionKind;
using Question = StoredRows::Question;

struct IndexKind {
  std::string name;
  AttentionKind index;
  bool int8 = false;
};

class StoredAttendTest : public testing::TestWithParam<IndexKind> {
 protected:
  ~StoredAttendTest() override { EXPECT_TRUE(kernels::ForceSimdLevel("best").ok()); }

  // A disk in virtual time.
  StoredRowsOptions Timed(base::Duration delay, uint64_t cache_bytes = 0) {
    StoredRowsOptions options;
    options.faults.executor = &executor_;
    options.faults.read_delay = delay;
    options.cache_bytes = cache_bytes;
    return options;
  }
  std::vector<wire::AttendReply> Replies(StoredRows& node) {
    executor_.RunFor(std::chrono::seconds(2));
    return node.driver.AttendReplies();
  }
  std::shared_ptr<Session> Open(StoredRows& node, const wire::SessionSpec& spec, uint32_t rows,
                                bool seal = false) {
    auto session = node.Open(spec, rows, seal);
    executor_.RunFor(milliseconds(10));
    for (const wire::AppendReply& reply : node.driver.AppendReplies()) {
      EXPECT_TRUE(reply.items.at(0).status.ok()) << reply.items[0].status;
    }
    return session;
  }
  wire::AttendReply Answer(StoredRows& node, std::vector<Question> questions,
                           uint32_t deadline_us = 0) {
    node.Send(questions, deadline_us);
    std::vector<wire::AttendReply> replies = Replies(node);
    CHECK(replies.size() == 1) << replies.size() << " answers";
    CHECK(replies[0].envelope.status.ok()) << replies[0].envelope.status.ToString();
    return std::move(replies[0]);
  }

  base::VirtualExecutor executor_{1};
};

// Everything an item can ask for, of a session of `rows` rows.
std::vector<Question> Questions(const Session& session, base::Position rows) {
  std::vector<Question> questions;
  const bool indexed = session.spec().index() != AttentionKind::kExact;
  for (const bool sampled : {false, true}) {
    if (sampled && !indexed) continue;
    // 2 query heads a kv head: 2 to 260 queries for a segment.
    for (const uint32_t count : {1u, 3u, 20u, 130u}) {
      for (const base::PositionRange range :
           std::vector<base::PositionRange>{{0, rows}, {17, rows - 123}, {333, 334}}) {
        questions.push_back(StoredRows::Ask(session, range, count, sampled, count));
        questions.back().item.want_error_terms = count != 3;
      }
    }
    for (const base::Position causal_from : {base::Position{310}, rows - 4}) {
      questions.push_back(StoredRows::Ask(session, {0, rows}, 4, sampled, 9));
      questions.back().item.causal_from = causal_from;
    }
    // A layout position in the past: what was sealed since is attended exactly.
    questions.push_back(StoredRows::Ask(session, {0, rows}, 2, sampled, 10));
    questions.back().item.layout_position = 400;
  }
  if (session.spec().index() != AttentionKind::kSketch) return questions;
  for (const float budget : {.01f, .2f, .9f}) {  // the last one touches most pages
    for (const float uniform : {0.f, .1f}) {
      Question& question = questions.emplace_back(StoredRows::Ask(session, {3, rows}, 2, true, 11));
      question.item.rows_budget = budget;
      question.item.want_error_terms = true;
      question.lse_hints.assign(question.item.query_count * question.item.query_heads(), 7.f);
      question.head_hints.assign(question.item.kv_head_count, {.002f, uniform});
    }
  }
  questions.back().item.rows_cap = 5;
  return questions;
}

TEST_P(StoredAttendTest, TheSameBitsAsWithTheRowsInMemory) {
  uint64_t number = 0;
  std::vector<std::string> levels = kernels::SimdLevels();
#ifdef __SANITIZE_ADDRESS__
  levels = {levels.front(), levels.back()};  // all of them take a minute here
#endif
  for (const std::string& level : levels) {
    ASSERT_TRUE(kernels::ForceSimdLevel(level).ok());
    for (const auto& [dim, dtype] :
         std::vector<std::pair<uint32_t, DType>>{{40, DType::kBF16}, {64, DType::kF32}}) {
      if (dtype == DType::kF32 && level != levels.front()) continue;
      StoredRows node(&executor_, Timed(microseconds(0), 300'000));
      // Of each head three segments of 300 rows and one that is too short for an index.
      const auto session =
          Open(node, StoredRows::Spec(++number, dim, dtype, 300, GetParam().index, GetParam().int8),
               940, /*seal=*/true);
      const std::vector<Question> questions = Questions(*session, 940);
      const wire::AttendReply hot = Answer(node, questions);
      const auto segments = StoredRows::Segments(*session, {0, 940});
      ASSERT_EQ(segments.size(), 8u);
      const auto expect_same = [&](const std::string& state) {
        const wire::AttendReply warm = Answer(node, questions);
        for (size_t i = 0; i < questions.size(); ++i) {
          ASSERT_TRUE(hot.items[i].status.ok()) << hot.items[i].status;
          EXPECT_TRUE(warm.items[i].status.ok()) << warm.items[i].status;
          EXPECT_TRUE(StoredRows::SameAnswer(hot.items[i], warm.items[i]))
              << level << ", dim " << dim << ", item " << i << ", " << state;
        }
      };
      EXPECT_EQ(node.watched.batches(), 0u);
      for (const size_t segment : {1, 3, 5, 7}) node.MakeWarm(segments[segment]);
      expect_same("some segments stored");
      for (const size_t segment : {0, 2, 4, 6}) node.MakeWarm(segments[segment]);
      expect_same("all segments stored");
      expect_same("rows in the cache");
      const RowSourceCounts counts = node.source.counts();
      EXPECT_GT(counts.rows, 0u);
      const bool reads_samples = GetParam().index != AttentionKind::kExact && !GetParam().int8;
      EXPECT_EQ(counts.cached > 0, reads_samples);
      EXPECT_EQ(counts.failed, 0u);
    }
  }
}

// Negative control: what is on the disk is what is attended.
TEST_P(StoredAttendTest, OtherRowsGiveAnotherAnswer) {
  StoredRows node(&executor_, Timed(microseconds(0)));
  const auto session = Open(
      node, StoredRows::Spec(1, 32, DType::kBF16, 300, GetParam().index, GetParam().int8), 600);
  const bool sampled = GetParam().index != AttentionKind::kExact;
  const std::vector<Question> exact{StoredRows::Ask(*session, {0, 600}, 3, false)};
  const std::vector<Question> sample{StoredRows::Ask(*session, {0, 600}, 3, sampled)};
  const wire::AttendReply hot = Answer(node, exact), hot_sample = Answer(node, sample);
  const auto segments = StoredRows::Segments(*session, {0, 600});
  ASSERT_EQ(segments.size(), 4u);
  // The rows of the heads' first segments change places before they are written.
  const auto rows_of = [&](size_t i) -> Segment& {
    return const_cast<Segment&>(*segments[i]->View().segment);
  };
  std::shared_ptr<const SegmentRows> first = rows_of(0).rows(), second = rows_of(2).rows();
  rows_of(0).SetRows(std::move(second));
  rows_of(2).SetRows(std::move(first));
  node.MakeWarm(*session, {0, 600});
  EXPECT_FALSE(StoredRows::SameAnswer(hot.items[0], Answer(node, exact).items[0]));
  EXPECT_EQ(StoredRows::SameAnswer(hot_sample.items[0], Answer(node, sample).items[0]),
            GetParam().int8)
      << "copies in eight bits are in memory";
}

INSTANTIATE_TEST_SUITE_P(Indexes, StoredAttendTest,
                         testing::Values(IndexKind{"None", AttentionKind::kExact},
                                         IndexKind{"Tables", AttentionKind::kLshTables},
                                         IndexKind{"Sketches", AttentionKind::kSketch},
                                         IndexKind{"SketchesInt8", AttentionKind::kSketch, true}),
                         [](const auto& test) { return test.param.name; });

class StoredReadsTest : public StoredAttendTest {
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
  // 40 segments of 2 heads.
  const auto session = Open(node, Sketched(1), 4000);
  std::vector<Question> questions{StoredRows::Ask(*session, {0, 4000}, 1, true),
                                  StoredRows::Ask(*session, {0, 4000}, 1, false)};
  const wire::AttendReply hot = Answer(node, questions);
  node.MakeWarm(*session, {0, 4000});
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
  EXPECT_GE(node.watched.batches(), 4u) << "what is read first need not wait for all";
  EXPECT_LE(node.watched.batches(), 10u) << "80 units, and as many that want some of the same rows";
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
  const auto stored = Open(node, Sketched(1), 1000);
  const auto in_memory = Open(node, Sketched(2), 1000);
  node.MakeWarm(*stored, {0, 1000});
  const base::Time begin = executor_.clock().Now();
  for (int i = 0; i < 10; ++i) {
    std::vector<Question> questions{StoredRows::Ask(*stored, {0, 1000}, 1, i % 2 == 0)};
    node.Send(questions);
  }
  executor_.RunFor(milliseconds(1));
  EXPECT_EQ(node.watched.in_flight(), node.watched.batches());
  EXPECT_GE(node.watched.in_flight(), 1u);
  EXPECT_GT(node.source.counts().rows, 5 * 2 * 900u) << "all ten wait, for much the same rows";
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

TEST(StoredAttendThreads, SharedByThreadsOfTheNodeAndOfTheDisk) {
  base::ThreadExecutor threads(3, "node");
  tests::GatedExecutor executor(&threads);
  StoredRows node(&executor, {.cache_bytes = 100'000});
  const auto far = [&] { return executor.clock().Now() + std::chrono::seconds(50); };
  std::vector<std::shared_ptr<Session>> sessions;
  for (const uint64_t number : {1, 2}) {
    sessions.push_back(
        node.Open(StoredRows::Spec(number, 32, DType::kBF16, 100, AttentionKind::kSketch), 1000));
  }
  ASSERT_TRUE(node.driver.server.WaitAnswered(far()));
  node.driver.transport.Take();
  std::vector<std::vector<Question>> asked;
  std::vector<wire::AttendReply> hot;
  for (int i = 0; i < 6; ++i) {
    asked.push_back({StoredRows::Ask(*sessions[i % 2], {0, 1000}, 1 + i, i % 3 != 0, i),
                     StoredRows::Ask(*sessions[0], {50, 900}, 2, true, i)});
    node.Send(asked.back());
    ASSERT_TRUE(node.driver.server.WaitAnswered(far()));
    hot.push_back(std::move(node.driver.AttendReplies().at(0)));
  }
  for (const auto& session : sessions) node.MakeWarm(*session, {0, 1000});
  for (int round = 0; round < 5; ++round) {
    for (size_t i = 0; i < asked.size(); ++i) node.Send(asked[i], 0, 1 + i);
    node.SendFetch(*sessions[0], {0, 1000});
    ASSERT_TRUE(node.driver.server.WaitAnswered(far()));
    size_t same = 0;
    for (transport::Message& message : node.driver.transport.Take()) {
      if (wire::DecodeEnvelope(message)->kind == wire::MessageKind::kFetchReply) continue;
      const wire::AttendReply reply = *wire::DecodeAttendReply(std::move(message));
      for (const wire::AttendReply& expected : hot) {
        if (StoredRows::SameAnswer(expected.items[0], reply.items[0]) &&
            StoredRows::SameAnswer(expected.items[1], reply.items[1])) {
          ++same;
          break;
        }
      }
    }
    EXPECT_EQ(same, asked.size());
  }
  EXPECT_GT(node.source.counts().cached, 0u);
  executor.Stop();
}

}  // namespace
}  // namespace sounder::kv_node
