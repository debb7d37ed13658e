// Sessions that are cut, forked, read back and handed on: what is there afterwards, in which order
// it happens, who is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/kv_node/session/branch_driver.h"

namespace sounder::kv_node {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

class BranchTest : public testing::Test {
 protected:
  std::shared_ptr<Session> Open(uint64_t number, uint32_t tenant = 0) {
    wire::SessionSpec spec = BranchDriver::Spec(number);
    spec.tenant = tenant;
    return driver_.Open(spec);
  }
  // Appends to both layers and expects it to be applied.
  void Append(Session& session, base::Position first, uint32_t rows, int generation,
              bool seal = false) {
    for (uint32_t layer = 0; layer < 2; ++layer) {
      const AppendResult result = driver_.Append(
          session, driver_.Item(session, ++sequence_[&session], layer, first, rows, seal),
          generation);
      ASSERT_TRUE(result.status.ok()) << result.status;
    }
  }
  AppendResult Truncate(Session& session, base::Position position) {
    const auto answer = driver_.Truncate(session, ++sequence_[&session], position);
    EXPECT_TRUE(answer->has_value()) << "not answered at once";
    return answer->value_or(AppendResult{absl::UnknownError("no answer"), 0, 0});
  }
  std::string Rows(Session& session) { return driver_.RowsText(session); }
  absl::StatusOr<std::shared_ptr<Session>> Fork(Session& parent, base::Position position,
                                                uint64_t child) {
    return driver_.Fork(parent, sequence_[&parent], position, child);
  }

  BranchDriver driver_;
  std::map<const Session*, uint64_t> sequence_;
};

TEST_F(BranchTest, TruncatesTheTailASegmentAndEverything) {
  const auto session = Open(1);
  Append(*session, 0, 40, 1);
  EXPECT_EQ(Rows(*session), "[0,16)s [16,32)s [32,40) = 1:40");
  EXPECT_TRUE(Truncate(*session, 40).status.ok()) << "at the end: nothing";
  EXPECT_EQ(Rows(*session), "[0,16)s [16,32)s [32,40) = 1:40");
  EXPECT_TRUE(Truncate(*session, 37).status.ok());
  EXPECT_EQ(Rows(*session), "[0,16)s [16,32)s [32,37) = 1:37");
  Append(*session, 37, 5, 2);
  EXPECT_EQ(Rows(*session), "[0,16)s [16,32)s [32,42) = 1:37 2:5");
  EXPECT_TRUE(Truncate(*session, 32).status.ok()) << "at a seal mark";
  EXPECT_EQ(Rows(*session), "[0,16)s [16,32)s = 1:32");
  EXPECT_TRUE(Truncate(*session, 23).status.ok()) << "within a segment";
  EXPECT_EQ(Rows(*session), "[0,16)s [16,23) = 1:23");
  EXPECT_EQ(session->Info().segments, 4u);
  EXPECT_TRUE(Truncate(*session, 20).status.ok()) << "within the rest of it";
  EXPECT_EQ(Rows(*session), "[0,16)s [16,20) = 1:20");
  Append(*session, 20, 15, 3);
  EXPECT_EQ(Rows(*session), "[0,16)s [16,32)s [32,35) = 1:20 3:15");
  EXPECT_TRUE(Truncate(*session, 7).status.ok());
  EXPECT_EQ(Rows(*session), "[0,7) = 1:7");
  const AppendResult all = Truncate(*session, 0);
  EXPECT_TRUE(all.status.ok());
  EXPECT_EQ(all.applied_sequence, sequence_[session.get()]);
  EXPECT_EQ(Rows(*session), "= ");
  EXPECT_EQ(session->Info().tokens, 0u);
  EXPECT_EQ(driver_.map.budget().used(), Session::FixedBytes(session->spec()));
  Append(*session, 0, 3, 4);
  EXPECT_EQ(Rows(*session), "[0,3) = 4:3");
}

// As if only the rows before had been appended: also their explicit seal mark at the very end.
TEST_F(BranchTest, SealMarksBehindThePositionAreForgotten) {
  const auto session = Open(1);
  Append(*session, 0, 10, 1, /*seal=*/true);
  Append(*session, 10, 3, 1, /*seal=*/true);
  Append(*session, 13, 20, 1);
  EXPECT_EQ(Rows(*session), "[0,16)s [16,32)s [32,33) = 1:33") << "merged";
  EXPECT_TRUE(Truncate(*session, 13).status.ok());
  EXPECT_EQ(Rows(*session), "[0,10)s [10,13)s = 1:13") << "the mark is the end of what stays";
  EXPECT_TRUE(Truncate(*session, 12).status.ok());
  Append(*session, 12, 8, 2);
  EXPECT_EQ(Rows(*session), "[0,16)s [16,20) = 1:12 2:8");
}

// A segment that was cut may be sealed as it is.
TEST_F(BranchTest, ASealMarkAtTheCut) {
  const auto session = Open(1);
  Append(*session, 0, 16, 1);
  EXPECT_TRUE(Truncate(*session, 9).status.ok());
  Append(*session, 9, 0, 1, /*seal=*/true);
  EXPECT_EQ(Rows(*session), "[0,9)s = 1:9");
  driver_.RunFor(milliseconds(1));
  EXPECT_EQ(driver_.map.budget().used(), session->Counts().reserved_bytes);
}

TEST_F(BranchTest, BeyondTheEndIsRefusedAndLosesNothing) {
  const auto session = Open(1);
  Append(*session, 0, 40, 1);
  const auto refused = driver_.Truncate(*session, 3, 41);
  ASSERT_TRUE(refused->has_value());
  EXPECT_EQ((*refused)->status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT((*refused)->status.ToString(), HasSubstr("ends at position 40; position 41"));
  EXPECT_EQ((*refused)->applied_sequence, 2u);
  EXPECT_EQ(Rows(*session), "[0,16)s [16,32)s [32,40) = 1:40");
  EXPECT_EQ((*driver_.Truncate(*session, 3, -1))->status.code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*driver_.Truncate(*session, 0, 5))->status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Fork(*session, 41, 2).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Fork(*session, -1, 2).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(driver_.map.size(), 1u);
  // The number is still to be used.
  Append(*session, 40, 2, 2);
  EXPECT_EQ(Rows(*session), "[0,16)s [16,32)s [32,42) = 1:40 2:2");
}

// One layer is ahead of the other: what only one has is no end.
TEST_F(BranchTest, LayersThatEndApartAreCutWhereBothAre) {
  const auto session = Open(1);
  Append(*session, 0, 20, 1);
  ASSERT_TRUE(driver_.Append(*session, driver_.Item(*session, 3, 0, 20, 12), 1).status.ok());
  EXPECT_EQ(session->Info().end_position, 20);
  EXPECT_THAT(session->Info().head_ends, testing::ElementsAre(20, 20));
  EXPECT_EQ((*driver_.Truncate(*session, 4, 32))->status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ((*driver_.Truncate(*session, 4, 21))->status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE((*driver_.Truncate(*session, 4, 20))->status.ok());
  EXPECT_EQ(Rows(*session), "[0,16)s [16,20) = 1:20");
}

// A node with shards: [0,32) and [64,80) here, the rest elsewhere.
TEST_F(BranchTest, GapsAndShardBoundaries) {
  const auto session = Open(1);
  Append(*session, 0, 32, 1);
  Append(*session, 64, 16, 1);
  const auto kept = Fork(*session, 72, 2);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(driver_.EndsText(**kept), "72 72");
  EXPECT_TRUE(Truncate(*session, 100).status.ok()) << "a later shard may be elsewhere";
  EXPECT_TRUE(Truncate(*session, 64).status.ok());
  EXPECT_EQ(driver_.EndsText(*session), "32 32");
  EXPECT_TRUE(Truncate(*session, 50).status.ok()) << "in the gap";
  EXPECT_TRUE(Truncate(*session, 32).status.ok());
  Append(*session, 64, 8, 2);
  EXPECT_TRUE(Truncate(*session, 40).status.ok());
  EXPECT_EQ(driver_.EndsText(*session), "32 32");
  EXPECT_TRUE(Truncate(*session, 20).status.ok());
  EXPECT_EQ(Rows(*session), "[0,16)s [16,20) = 1:20");
  // Its rows lie behind the position in one layer, and the other has none.
  const auto other = Open(3);
  ASSERT_TRUE(driver_.Append(*other, driver_.Item(*other, 1, 0, 64, 20), 1).status.ok());
  EXPECT_TRUE((*driver_.Truncate(*other, 2, 50))->status.ok());
  EXPECT_EQ(Rows(*other), "= ");
}

TEST_F(BranchTest, OneOrderWithAppends) {
  const auto session = Open(1);
  // Arrive as 4, 3, 2, 1.
  const auto fourth = driver_.Send(*session, driver_.Item(*session, 4, 0, 5, 20), 2);
  const auto third = driver_.Truncate(*session, 3, 5);
  const auto second = driver_.Send(*session, driver_.Item(*session, 2, 1, 0, 30), 1);
  const auto again = driver_.Truncate(*session, 3, 5);
  const auto other = driver_.Truncate(*session, 3, 6);
  ASSERT_TRUE(other->has_value()) << "another operation of that number";
  EXPECT_EQ((*other)->status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(fourth->has_value() || third->has_value() || second->has_value());
  ASSERT_TRUE(driver_.Append(*session, driver_.Item(*session, 1, 0, 0, 10), 1).status.ok());
  for (const auto& answer : {fourth, third, second, again}) {
    ASSERT_TRUE(answer->has_value());
    EXPECT_TRUE((*answer)->status.ok()) << (*answer)->status;
  }
  EXPECT_EQ(driver_.RowsText(*session, 0), "[0,16)s [16,25) = 1:5 2:20");
  // Replayed, they change nothing.
  for (const uint64_t sequence : {uint64_t{3}, uint64_t{1}, uint64_t{3}, uint64_t{4}}) {
    const auto replay = driver_.Truncate(*session, sequence, 5);
    ASSERT_TRUE(replay->has_value());
    EXPECT_TRUE((*replay)->status.ok());
    EXPECT_EQ((*replay)->applied_sequence, 4u);
  }
  EXPECT_EQ(driver_.RowsText(*session, 0), "[0,16)s [16,25) = 1:5 2:20");
}

TEST_F(BranchTest, ATruncateWaitsByItsDeadline) {
  const auto session = Open(1);
  const auto late = driver_.Truncate(*session, 2, 0, milliseconds(300));
  driver_.RunFor(milliseconds(299));
  EXPECT_FALSE(late->has_value());
  driver_.RunFor(milliseconds(2));
  ASSERT_TRUE(late->has_value());
  EXPECT_EQ((*late)->status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT((*late)->status.ToString(), HasSubstr("operation 1 of session"));
}

// Asked before the cut of rows that are gone, answered after: not with the rows that came instead.
TEST_F(BranchTest, RequestsFromBeforeACutAreRefusedWhereItMatters) {
  const auto session = Open(1);
  Append(*session, 0, 40, 1);  // operations 1 and 2
  Truncate(*session, 20);      // 3
  Append(*session, 20, 20, 2);
  Truncate(*session, 30);  // 6
  Append(*session, 30, 10, 3);
  const auto code = [&](uint64_t sequence, base::PositionRange range) {
    const auto plan = driver_.Plan(*session, driver_.Query(*session, sequence, 0, range));
    return plan->has_value() ? (*plan)->status().code() : absl::StatusCode::kUnknown;
  };
  EXPECT_EQ(code(2, {0, 20}), absl::StatusCode::kOk);
  EXPECT_EQ(code(2, {0, 21}), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(code(5, {0, 30}), absl::StatusCode::kOk);
  EXPECT_EQ(code(5, {25, 31}), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(code(6, {0, 40}), absl::StatusCode::kOk);
  EXPECT_EQ(driver_.Fetch(*session, 2, 0, {10, 21}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(driver_.Fork(*session, 5, 31, 9).status().code(),
            absl::StatusCode::kFailedPrecondition);
  // However many there were.
  for (int i = 0; i < 200; ++i) {
    Truncate(*session, 40);
    Append(*session, 40, 1, 4);
    Truncate(*session, 41);
    Append(*session, 41, 1, 4);
    Truncate(*session, 40);
  }
  EXPECT_EQ(code(2, {0, 21}), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(code(2, {0, 20}), absl::StatusCode::kOk);
}

TEST_F(BranchTest, ForksGoTheirOwnWays) {
  const auto parent = Open(1);
  Append(*parent, 0, 40, 1);
  const auto first = *Fork(*parent, 37, 2);
  const auto second = *Fork(*parent, 37, 3);
  const auto third = *Fork(*parent, 23, 4);
  Append(*parent, 40, 3, 2);
  Append(*first, 37, 4, 3);
  Append(*second, 37, 20, 4);
  Append(*third, 23, 2, 5);
  Truncate(*parent, 12);
  Append(*parent, 12, 1, 6);
  EXPECT_EQ(Rows(*parent), "[0,13) = 1:12 6:1");
  EXPECT_EQ(Rows(*first), "[0,16)s [16,32)s [32,41) = 1:37 3:4");
  EXPECT_EQ(Rows(*second), "[0,16)s [16,32)s [32,48)s [48,57) = 1:37 4:20");
  EXPECT_EQ(Rows(*third), "[0,16)s [16,25) = 1:23 5:2");
  const wire::SessionInfo info = first->Info();
  EXPECT_EQ(info.parent, parent->spec().session.id);
  EXPECT_EQ(info.fork_position, 37);
  EXPECT_EQ(info.applied_sequence, 2u) << "a child counts from one";
  EXPECT_EQ(info.tokens, 41u);
  EXPECT_EQ(parent->Info().fork_position, -1);
  // A fork of a fork, when its parents have gone.
  driver_.map.Close({parent->spec().session, 0}, {}, [](const absl::Status&) {});
  const auto grandchild = *Fork(*second, 50, 5);
  driver_.map.Close({second->spec().session, 0}, {}, [](const absl::Status&) {});
  EXPECT_EQ(Rows(*grandchild), "[0,16)s [16,32)s [32,48)s [48,50) = 1:37 4:13");
  driver_.map.CloseAll(absl::UnavailableError("over"));
  driver_.RunFor(milliseconds(1));
  EXPECT_EQ(driver_.map.budget().used(), 0u);
}

// What a plan holds stays as it was, whatever becomes of the session: also where a tail is written
// anew after a cut.
TEST_F(BranchTest, ReadersSeeWhatWasThereWhenTheyAsked) {
  const auto session = Open(1);
  Append(*session, 0, 26, 1);
  const auto fork = *Fork(*session, 25, 2);
  const auto before = driver_.Fetch(*session, 2, 0, {0, 26});
  const auto of_fork = driver_.Fetch(*fork, 0, 0, {0, 25});
  Truncate(*session, 18);
  Append(*session, 18, 30, 2);
  Append(*fork, 25, 30, 3);
  ASSERT_TRUE(before.ok() && of_fork.ok());
  EXPECT_EQ(driver_.TextOf(*session, *before), "1:26");
  EXPECT_EQ(driver_.TextOf(*fork, *of_fork), "1:25");
  EXPECT_EQ(Rows(*session), "[0,16)s [16,32)s [32,48)s = 1:18 2:30");
  EXPECT_EQ(Rows(*fork), "[0,16)s [16,32)s [32,48)s [48,55) = 1:25 3:30");
}

TEST_F(BranchTest, TheSameForkAgainIsTheSameFork) {
  const auto parent = Open(1);
  Append(*parent, 0, 20, 1);
  const auto child = *Fork(*parent, 15, 2);
  Append(*child, 15, 3, 2);
  const auto again = Fork(*parent, 15, 2);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, child);
  const absl::Status elsewhere = Fork(*parent, 14, 2).status();
  EXPECT_EQ(elsewhere.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(elsewhere.ToString(), HasSubstr(child->spec().session.id.ToString() + " exists"));
  EXPECT_THAT(elsewhere.ToString(), HasSubstr(parent->spec().session.id.ToString()));
  const auto other = Open(3);
  Append(*other, 0, 20, 1);
  EXPECT_EQ(Fork(*other, 15, 2).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Fork(*other, 15, 1).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Fork(*other, 15, 3).status().code(), absl::StatusCode::kAlreadyExists) << "itself";
  // Another place of that parent: it was truncated in between.
  Truncate(*parent, 10);
  Append(*parent, 10, 10, 5);
  EXPECT_EQ(Fork(*parent, 15, 2).status().code(), absl::StatusCode::kAlreadyExists);
  // A late copy of the call, when the parent has gone.
  const uint64_t at = 2;
  driver_.map.Close({parent->spec().session, 0}, {}, [](const absl::Status&) {});
  EXPECT_TRUE(driver_.Fork(*parent, at, 15, 2).ok());
  EXPECT_EQ(driver_.Fork(*parent, at, 15, 7).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(BranchTest, AForkWaitsForOperationsInFlight) {
  const auto parent = Open(1);
  wire::ForkCall call;
  call.op.session = parent->spec().session;
  call.op.sequence = 2;
  call.position = 18;
  call.child = {{1, 2}, 6};
  call.ttl_seconds = 9;
  std::optional<absl::Status> forked;
  driver_.map.Fork(call, driver_.executor.clock().Now() + seconds(1),
                   [&](absl::Status status) { forked = std::move(status); });
  EXPECT_FALSE(forked.has_value());
  Append(*parent, 0, 20, 1);
  ASSERT_TRUE(forked.has_value());
  ASSERT_TRUE(forked->ok()) << *forked;
  const auto child = *driver_.map.Find({1, 2});
  EXPECT_EQ(driver_.RowsText(*child, 0, 6), "[0,16)s [16,18) = 1:18");
  EXPECT_EQ(child->spec().ttl_seconds, 9u);
  EXPECT_EQ(child->epoch(), 6u);
  EXPECT_EQ(child->Info().ttl_remaining_seconds, 9u);
  call.op.sequence = 9;
  call.child.id = {1, 3};
  forked.reset();
  driver_.map.Fork(call, driver_.executor.clock().Now() + seconds(1),
                   [&](absl::Status status) { forked = std::move(status); });
  driver_.RunFor(seconds(2));
  ASSERT_TRUE(forked.has_value());
  EXPECT_EQ(forked->code(), absl::StatusCode::kDeadlineExceeded);
  call.child = {};
  driver_.map.Fork(call, {}, [&](absl::Status status) { forked = std::move(status); });
  EXPECT_EQ(forked->code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(BranchTest, TokensGoWithTheRows) {
  const auto session = Open(1);
  Append(*session, 0, 9000, 1);
  const auto fork = *Fork(*session, 5000, 2);
  Truncate(*session, 4097);
  Append(*session, 4097, 100, 2);
  Append(*fork, 5000, 5, 3);
  const auto tokens = [&](Session& of, base::PositionRange range) {
    const auto fetched = driver_.Fetch(of, sequence_[&of], 0, range);
    return fetched.ok() ? fetched->tokens : std::vector<int32_t>();
  };
  for (const auto& [position, generation] :
       std::vector<std::pair<base::Position, int>>{{0, 1}, {4095, 1}, {4096, 1}, {4097, 2}}) {
    EXPECT_EQ(tokens(*session, {position, position + 1}),
              std::vector{BranchDriver::Token(position, generation)});
  }
  const std::vector<int32_t> of_fork = tokens(*fork, {0, 5005});
  ASSERT_EQ(of_fork.size(), 5005u);
  EXPECT_EQ(of_fork[4999], BranchDriver::Token(4999, 1));
  EXPECT_EQ(of_fork[5000], BranchDriver::Token(5000, 3));
  const absl::Status beyond = driver_.Fetch(*session, 0, 0, {4190, 4198}).status();
  EXPECT_EQ(beyond.code(), absl::StatusCode::kFailedPrecondition) << beyond;
  // A position has one id.
  wire::AppendItem item = driver_.Item(*fork, ++sequence_[fork.get()], 1, 5005, 0);
  item.first_position = 5004;
  const std::vector<int32_t> other{7};
  item.tokens = other;
  const AppendResult refused = driver_.Append(*fork, item);
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kAlreadyExists) << refused.status;
}

TEST_F(BranchTest, FetchGivesRowsAsAppended) {
  const auto session = Open(1);
  Append(*session, 0, 40, 1);
  Truncate(*session, 21);
  const auto fetched = driver_.Fetch(*session, 3, 1, {3, 21});
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(driver_.TextOf(*session, *fetched), "1:18");
  EXPECT_EQ(fetched->tokens.size(), 18u);
  const auto refusal = [&](const std::function<void(wire::FetchItem&)>& change) {
    wire::FetchItem item = driver_.FetchItem(*session, 3, 1, {0, 21});
    change(item);
    return driver_.Fetch(*session, item).status();
  };
  EXPECT_TRUE(refusal([](auto&) {}).ok());
  using absl::StatusCode;
  EXPECT_EQ(refusal([](auto& item) { item.layer = 2; }).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal([](auto& item) { item.head_dim = 24; }).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal([](auto& item) { item.dtype = base::DType::kF16; }).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal([](auto& item) { item.kv_head_count = 3; }).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal([](auto& item) { item.session.epoch = 1; }).code(),
            StatusCode::kFailedPrecondition);
  EXPECT_THAT(refusal([](auto& item) { item.range.end = 22; }).ToString(),
              HasSubstr("position 21 is not held"));
  // Waits for what was issued before it.
  EXPECT_EQ(refusal([](auto& item) { item.sequence = 4; }).code(), StatusCode::kDeadlineExceeded);
}

TEST_F(BranchTest, ANewWriterFencesTheOldOne) {
  const auto session = Open(1);
  Append(*session, 0, 20, 1);
  const wire::SessionRef old = session->spec().session;
  const auto queued = driver_.Send(*session, driver_.Item(*session, 4, 0, 30, 5), 1);
  const auto plan = driver_.Plan(*session, driver_.Query(*session, 5, 0, {0, 20}));
  std::optional<absl::Status> closed;
  driver_.map.Close({old, 9}, driver_.executor.clock().Now() + seconds(9),
                    [&](absl::Status status) { closed = std::move(status); });
  EXPECT_FALSE(queued->has_value() || plan->has_value() || closed.has_value());

  const auto adopt = [&](uint64_t epoch, uint64_t holder) {
    return driver_.map.Adopt({{old.id, epoch}, 0, holder});
  };
  const auto info = adopt(3, 77);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->spec.session.epoch, 3u);
  EXPECT_EQ(info->applied_sequence, 2u);
  EXPECT_EQ(info->first_position, 0);
  EXPECT_EQ(info->end_position, 20);
  EXPECT_EQ(info->tokens, 20u);
  // What waited of the old writer is refused, its close included.
  ASSERT_TRUE(queued->has_value() && plan->has_value() && closed.has_value());
  for (const absl::Status& refused : {(*queued)->status, (*plan)->status(), *closed}) {
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(refused.ToString(), HasSubstr("is at epoch 3, the request at epoch 0"));
  }
  // And all it asks from now on.
  const auto stale = [&](const wire::SessionRef& ref) {
    std::vector<absl::Status> all;
    wire::AppendItem item = driver_.Item(*session, 3, 0, 20, 5);
    item.session = ref;
    all.push_back(driver_.Append(*session, item, 1).status);
    wire::AttendItem query = driver_.Query(*session, 0, 0, {0, 20});
    query.session = ref;
    all.push_back((*driver_.Plan(*session, query))->status());
    wire::FetchItem fetch = driver_.FetchItem(*session, 0, 0, {0, 20});
    fetch.session = ref;
    all.push_back(driver_.Fetch(*session, fetch).status());
    session->Truncate(ref, 3, 10, {}, [&](const AppendResult& r) { all.push_back(r.status); });
    driver_.map.Fork({{ref, 0, 0}, 5, {1, 9}, 0}, {}, [&](absl::Status s) { all.push_back(s); });
    driver_.map.Close({ref, 0, 0}, {}, [&](absl::Status s) { all.push_back(s); });
    all.push_back(session->CheckEpoch(ref));
    return all;
  };
  for (const uint64_t epoch : {uint64_t{0}, uint64_t{2}, uint64_t{4}}) {
    const std::vector<absl::Status> all = stale({old.id, epoch});
    EXPECT_EQ(all.size(), 7u);
    for (const absl::Status& refused : all) {
      EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
      EXPECT_THAT(refused.ToString(), HasSubstr("is at epoch 3"));
      EXPECT_THAT(refused.ToString(), HasSubstr("epoch " + std::to_string(epoch)));
    }
  }
  EXPECT_EQ(driver_.RowsText(*session, 0, 3), "[0,16)s [16,20) = 1:20");
  EXPECT_THAT(driver_.map.Open(session->spec()).status().ToString(),
              HasSubstr("epoch 3, the request 0"));

  EXPECT_TRUE(adopt(3, 77).ok()) << "the same again";
  EXPECT_THAT(adopt(3, 78).status().ToString(), HasSubstr("at epoch 3 of another holder"));
  EXPECT_THAT(adopt(2, 77).status().ToString(), HasSubstr("at epoch 3, the adoption at epoch 2"));
  EXPECT_EQ(driver_.map.Adopt({{old.id, 9}, 5, 1}).status().code(), absl::StatusCode::kNotFound)
      << "another tenant";
  // The new writer goes on where the order stands.
  wire::AppendItem next = driver_.Item(*session, 3, 0, 20, 5);
  next.session.epoch = 3;
  EXPECT_TRUE(driver_.Append(*session, next, 2).status.ok());
  EXPECT_TRUE(adopt(4, 78).ok());
}

// Half an operation of the old writer, refused for memory, is not continued by the new one.
TEST_F(BranchTest, WhatWasHalfDoneIsCutOff) {
  BranchDriver driver(60000);
  const auto session = driver.Open(BranchDriver::Spec(1));
  ASSERT_TRUE(driver.Append(*session, driver.Item(*session, 1, 0, 0, 16), 1).status.ok());
  ASSERT_TRUE(driver.Append(*session, driver.Item(*session, 2, 1, 0, 16), 1).status.ok());
  const AppendResult full = driver.Append(*session, driver.Item(*session, 3, 0, 16, 600), 1);
  ASSERT_EQ(full.status.code(), absl::StatusCode::kResourceExhausted) << full.status;
  ASSERT_GT(full.rows, 0u) << "this test wants a failure half way";
  const auto info = driver.map.Adopt({{session->spec().session.id, 1}, 0, 5});
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->end_position, 16);
  const auto cut = driver.Truncate(*session, 3, 16, seconds(1), 1);
  ASSERT_TRUE(cut->has_value());
  EXPECT_TRUE((*cut)->status.ok()) << (*cut)->status;
  EXPECT_EQ(driver.RowsText(*session, 0, 1), "[0,16)s = 1:16");
}

TEST_F(BranchTest, OtherTenantsSeeNothing) {
  const auto session = Open(1, /*tenant=*/5);
  Append(*session, 0, 20, 1);
  const wire::SessionRef ref = session->spec().session;
  EXPECT_EQ(driver_.map.Find(ref.id, 6).status().code(), absl::StatusCode::kNotFound);
  std::vector<absl::Status> all;
  driver_.map.Close({ref, 0, 6}, {}, [&](absl::Status s) { all.push_back(s); });
  driver_.map.Fork({{ref, 0, 6}, 5, {1, 9}, 0}, {}, [&](absl::Status s) { all.push_back(s); });
  all.push_back(driver_.map.Adopt({{ref.id, 1}, 6, 1}).status());
  EXPECT_EQ(all.size(), 3u);
  for (const absl::Status& status : all) {
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
    EXPECT_THAT(status.ToString(), HasSubstr("is not open on this node"));
  }
  // A child that would be named like another tenant's session.
  const auto mine = Open(2, /*tenant=*/6);
  Append(*mine, 0, 20, 1);
  absl::Status taken;
  driver_.map.Fork({{mine->spec().session, 2, 6}, 5, ref.id, 0}, {},
                   [&](absl::Status s) { taken = std::move(s); });
  EXPECT_EQ(taken.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(driver_.map.size(), 2u);
}

TEST(BranchLimitTest, TooManySessions) {
  BranchDriver driver(uint64_t{1} << 30, /*max_sessions=*/2);
  const auto parent = driver.Open(BranchDriver::Spec(1));
  ASSERT_TRUE(driver.Append(*parent, driver.Item(*parent, 1, 0, 0, 20), 1).status.ok());
  ASSERT_TRUE(driver.Append(*parent, driver.Item(*parent, 2, 1, 0, 20), 1).status.ok());
  ASSERT_TRUE(driver.Fork(*parent, 2, 7, 2).ok());
  const absl::Status full = driver.Fork(*parent, 2, 7, 3).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(full.ToString(), HasSubstr("2 sessions"));
  EXPECT_TRUE(driver.Fork(*parent, 2, 7, 2).ok()) << "that one is there";
}

}  // namespace
}  // namespace sounder::kv_node
