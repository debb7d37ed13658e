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
#include "common/kernels/simd_level.h"
#include "tests/cluster/gated_executor.h"
#include "tests/kv_node/server/stored_rows_test.h"

namespace sounder::kv_node {
namespace {

using base::DType;
using std::chrono::microseconds;
using wire::AttentionKind;
using Question = StoredRows::Question;

struct IndexKind {
  std::string name;
  AttentionKind index;
  bool int8 = false;
};

class StoredAttendTest : public StoredRowsTest, public testing::WithParamInterface<IndexKind> {
 protected:
  ~StoredAttendTest() override { EXPECT_TRUE(kernels::ForceSimdLevel("best").ok()); }
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
