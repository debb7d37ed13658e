// The data server alone: on which thread it works, what it counts, and what it tells.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "common/base/limits.h"
#include "common/base/thread_executor.h"
#include "common/base/virtual_executor.h"
#include "tests/kv_node/server/server_driver.h"
#include "tests/kv_node/server/timed_executor.h"
#include "tests/kv_node/session/busy_executor.h"

namespace sounder::kv_node {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

class DataServerTest : public testing::Test {
 protected:
  void TearDown() override {  // sessions go before their map
    driver_.map.CloseAll(absl::UnavailableError("over"));
    RunFor(milliseconds(1));
  }
  void RunFor(base::Duration duration) { executor_.RunFor(duration); }

  base::VirtualExecutor executor_{1};
  ServerDriver driver_{&executor_};
  std::shared_ptr<Session> session_ = driver_.Open(SessionDriver::Spec(1));
};

TEST_F(DataServerTest, TheTransportsThreadTouchesNoSession) {
  driver_.Append({SessionDriver::Item(*session_, 1, 0, 0, 20)});
  driver_.Attend({SessionDriver::Query(*session_, 0, 0, {0, 0})});
  EXPECT_EQ(session_->Info().applied_sequence, 0u);
  EXPECT_TRUE(driver_.transport.Take().empty());
  RunFor(milliseconds(1));
  EXPECT_EQ(session_->Info().applied_sequence, 1u);
  EXPECT_EQ(driver_.transport.Take().size(), 2u);
}

TEST_F(DataServerTest, AnItemWithTooManyPartialOutputsIsRefusedAlone) {
  driver_.Append({SessionDriver::Item(*session_, 1, 0, 0, 16 * 260)});
  wire::AttendItem small = SessionDriver::Query(*session_, 1, 0, {0, 16 * 260});
  wire::AttendItem large = small;
  large.query_count = base::kMaxQueryBlock;
  RunFor(milliseconds(1));
  driver_.AppendReplies();
  driver_.Attend({small, large, small});
  RunFor(milliseconds(1));
  const std::vector<wire::AttendReply> replies = driver_.AttendReplies();
  ASSERT_EQ(replies.size(), 1u);
  ASSERT_EQ(replies[0].items.size(), 3u);
  EXPECT_TRUE(replies[0].items[0].status.ok()) << replies[0].items[0].status;
  EXPECT_EQ(replies[0].items[1].status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(replies[0].items[1].status.ToString(), HasSubstr("fewer queries"));
  EXPECT_TRUE(replies[0].items[2].status.ok()) << replies[0].items[2].status;
}

TEST_F(DataServerTest, NobodyWaitsLongerThanAMinute) {
  wire::Envelope patient;
  patient.deadline_us = UINT32_MAX;
  driver_.Append({SessionDriver::Item(*session_, 2, 0, 0, 16)}, patient);
  driver_.Append({SessionDriver::Item(*session_, 3, 0, 0, 16)});
  driver_.Attend({SessionDriver::Query(*session_, 1, 0, {0, 16})}, patient);
  driver_.Attend({SessionDriver::Query(*session_, 1, 0, {0, 16})});
  RunFor(std::chrono::seconds(59));
  EXPECT_TRUE(driver_.transport.Take().empty());
  RunFor(std::chrono::seconds(2));
  EXPECT_EQ(driver_.transport.Take().size(), 4u);
}

// As if it did not exist, word for word.
TEST_F(DataServerTest, SessionsOfOtherTenantsAreNotFound) {
  wire::SessionSpec spec = SessionDriver::Spec(2);
  spec.tenant = 7;
  const auto session = driver_.Open(spec);
  const auto ask = [&](uint32_t tenant) {
    wire::Envelope envelope;
    envelope.tenant = tenant;
    driver_.Append({SessionDriver::Item(*session, 1, 0, 0, 16)}, envelope);
    RunFor(milliseconds(1));
    std::vector<absl::Status> answers{driver_.AppendReplies().at(0).items.at(0).status};
    driver_.Attend({SessionDriver::Query(*session, 0, 0, {0, 0})}, envelope);
    RunFor(milliseconds(1));
    answers.push_back(driver_.AttendReplies().at(0).items.at(0).status);
    return answers;
  };
  const std::vector<absl::Status> stranger = ask(0);
  EXPECT_EQ(session->Info().applied_sequence, 0u);
  for (const absl::Status& status : ask(7)) EXPECT_TRUE(status.ok()) << status;
  driver_.map.Close({spec.session, 0, 7}, executor_.clock().Now(), [](const absl::Status&) {});
  EXPECT_EQ(stranger, ask(7));
  EXPECT_EQ(stranger[0].code(), absl::StatusCode::kNotFound);
}

TEST_F(DataServerTest, OnlyRowsThatWereTakenAreCounted) {
  const auto counted = [&](int rows) {
    RunFor(milliseconds(1));
    const std::string metrics = driver_.registry.Exposition();
    EXPECT_THAT(metrics, HasSubstr("appended_rows_total " + std::to_string(rows) + "\n"));
    EXPECT_THAT(metrics, HasSubstr("appended_bytes_total " + std::to_string(64 * rows) + "\n"));
  };
  driver_.Append({SessionDriver::Item(*session_, 1, 0, 0, 20)});
  counted(40);
  driver_.Append({SessionDriver::Item(*session_, 1, 0, 0, 20)});  // a copy
  driver_.Append({SessionDriver::Item(*session_, 2, 0, 5, 20)});  // overlaps
  counted(40);
  driver_.Append(
      {SessionDriver::Item(*session_, 2, 0, 20, 5), SessionDriver::Item(*session_, 3, 1, 0, 5)});
  counted(60);
}

TEST(DataServerStopTest, WhatWasTakenBeforeIsAnswered) {
  auto executor = std::make_unique<base::ThreadExecutor>(2, "stop");
  ServerDriver driver(executor.get());
  const auto session = driver.Open(SessionDriver::Spec(1));
  for (uint64_t sequence = 1; sequence <= 50; ++sequence) {
    const auto first = static_cast<base::Position>(20 * (sequence - 1));
    driver.Append({SessionDriver::Item(*session, sequence, 1, first, 20)});
    driver.Attend({SessionDriver::Query(*session, sequence, 1, {0, first}, true)});
  }
  driver.server.Stop();
  driver.Attend({SessionDriver::Query(*session, 0, 0, {0, 0})});  // too late
  driver.map.CloseAll(absl::UnavailableError("the node is shutting down"));
  executor.reset();
  std::vector<transport::Message> answers = driver.transport.Take();
  EXPECT_EQ(answers.size(), 101u);
  int refused = 0;
  for (transport::Message& answer : answers) {
    const absl::Status whole = wire::DecodeEnvelope(answer)->status;
    refused += whole == ShuttingDown() ? 1 : 0;
    EXPECT_TRUE(whole.ok() || whole == ShuttingDown()) << whole;
    if (wire::DecodeEnvelope(answer)->kind != wire::MessageKind::kAppendReply) continue;
    const absl::Status status = wire::DecodeAppendReply(std::move(answer))->items[0].status;
    EXPECT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
  }
  EXPECT_EQ(refused, 1) << "the one that came too late is told so at once";
}

// A block of a prompt's queries that came first holds nobody up until it is done: 520 units of a
// millisecond each here, and a decode step whose few units come in the next turn.
TEST(DataServerTurnsTest, ADecodeStepDoesNotWaitForAWholeBlock) {
  for (const int threads : {1, 2}) {
    SCOPED_TRACE(testing::Message() << threads << " threads");
    base::VirtualExecutor time(1);
    TimedExecutor executor(&time, threads, milliseconds(1));
    ServerDriver driver(&executor);
    const auto session = driver.Open(SessionDriver::Spec(1));
    constexpr base::Position kRows = 16 * 260;
    driver.Append({SessionDriver::Item(*session, 1, 0, 0, kRows)});
    const auto settle = [&time] { time.RunUntil([] { return false; }); };
    settle();
    driver.AppendReplies();
    const auto ask = [&](uint32_t queries, base::Position rows, uint64_t ticket) {
      wire::AttendItem item = SessionDriver::Query(*session, 1, 0, {0, rows});
      item.query_count = queries;
      wire::Envelope envelope;
      envelope.ticket = ticket;
      driver.Attend({item}, envelope, /*connection=*/ticket);
    };
    ask(8, kRows, 1);
    const base::Time begin = time.clock().Now();
    time.RunUntil([&] { return time.clock().Now() >= begin + milliseconds(5); });
    ask(1, 32, 2);
    std::vector<uint64_t> tickets;
    base::Duration step{};
    time.RunUntil([&] {
      for (const wire::AttendReply& reply : driver.AttendReplies()) {
        EXPECT_TRUE(reply.items.at(0).status.ok()) << reply.items.at(0).status;
        tickets.push_back(reply.envelope.ticket);
        if (reply.envelope.ticket == 2) step = time.clock().Now() - begin;
      }
      return tickets.size() == 2;
    });
    EXPECT_THAT(tickets, testing::ElementsAre(2, 1));
    EXPECT_LE(step, milliseconds(40));
    EXPECT_GE(time.clock().Now() - begin, milliseconds(500) / threads);
    driver.map.CloseAll(absl::UnavailableError("over"));
    settle();
  }
}

// On real threads: runners that yield while others end the job, and jobs that end while some wait.
TEST(DataServerStopTest, BlocksThatTakeTurnsAreAnswered) {
  auto executor = std::make_unique<base::ThreadExecutor>(2, "turns");
  ServerDriver driver(executor.get());
  const auto session = driver.Open(SessionDriver::Spec(1));
  constexpr base::Position kRows = 16 * 64;
  driver.Append({SessionDriver::Item(*session, 1, 0, 0, kRows)});
  wire::Envelope patient;
  patient.deadline_us = 60'000'000;
  for (uint64_t ticket = 1; ticket <= 12; ++ticket) {
    wire::AttendItem item = SessionDriver::Query(*session, 1, 0, {0, kRows});
    item.query_count = ticket % 3 == 0 ? 1 : 512;
    patient.ticket = ticket;
    driver.Attend({item}, patient, /*connection=*/1 + ticket % 3);
  }
  executor.reset();
  driver.map.CloseAll(absl::UnavailableError("over"));
  size_t answered = 0;
  for (transport::Message& message : driver.transport.Take()) {
    if (wire::DecodeEnvelope(message)->kind != wire::MessageKind::kAttendReply) continue;
    const auto reply = wire::DecodeAttendReply(std::move(message));
    EXPECT_TRUE(reply->envelope.status.ok()) << reply->envelope.status;
    EXPECT_TRUE(reply->items.at(0).status.ok()) << reply->items.at(0).status;
    ++answered;
  }
  EXPECT_EQ(answered, 12u);
}

// Index builds lag behind: appends are applied at once, but acknowledged when the backlog is small
// again, and in any case well before their deadline.
class BacklogTest : public testing::Test {
 protected:
  static wire::Envelope Envelope() {
    wire::Envelope envelope;
    envelope.deadline_us = 2'000'000;
    return envelope;
  }
  // 20 segments of 16 rows of two heads; the bound allows the rows of 10.
  void AppendPrompt() {
    driver_.Append({SessionDriver::Item(*session_, 1, 1, 0, 320)}, Envelope());
    executor_.Step();
    EXPECT_EQ(session_->Info().applied_sequence, 1u);
    EXPECT_TRUE(driver_.AppendReplies().empty());
  }
  void TearDown() override {  // sessions go before their map
    driver_.map.CloseAll(absl::UnavailableError("over"));
    executor_.GoOn();
  }
  void RunFor(base::Duration duration) { time_.RunFor(duration); }

  base::VirtualExecutor time_{1};
  BusyExecutor executor_{&time_};
  ServerDriver driver_{&executor_, {.index = {.builds = 1, .backlog_rows = 160}}};
  std::shared_ptr<Session> session_ = driver_.Open(SessionDriver::Spec(1));
};

TEST_F(BacklogTest, AcknowledgementsWaitForIndexes) {
  AppendPrompt();
  std::vector<wire::AppendReply> replies;
  const int builds =
      executor_.StepUntil([&] { return !(replies = driver_.AppendReplies()).empty(); });
  EXPECT_EQ(builds, 30) << "640 rows, until 160 are left";
  ASSERT_EQ(replies.size(), 1u);
  EXPECT_TRUE(replies[0].items[0].status.ok());
  // What waits for nothing itself does not wait for others.
  const auto other = driver_.Open(SessionDriver::Spec(2));
  driver_.Append({SessionDriver::Item(*session_, 2, 1, 320, 320)}, Envelope());
  driver_.Append({SessionDriver::Item(*other, 1, 1, 0, 10)}, Envelope());
  executor_.StepUntil([&] { return other->Info().applied_sequence == 1; });
  EXPECT_EQ(driver_.AppendReplies().size(), 1u);
}

// As proto/data.capnp says what the stages are.
TEST_F(BacklogTest, StagesOfAnAttend) {
  driver_.Attend({SessionDriver::Query(*session_, 1, 0, {0, 16})});
  RunFor(milliseconds(10));
  executor_.Step();  // asks the session, and waits for rows
  RunFor(milliseconds(20));
  driver_.Append({SessionDriver::Item(*session_, 1, 0, 0, 16)});
  executor_.Step();
  driver_.AppendReplies();
  RunFor(milliseconds(5));  // every thread is busy
  executor_.GoOn();
  const std::vector<wire::AttendReply> replies = driver_.AttendReplies();
  ASSERT_EQ(replies.size(), 1u);
  ASSERT_TRUE(replies[0].items[0].status.ok()) << replies[0].items[0].status;
  EXPECT_EQ(replies[0].envelope.timings.queue_us, 35000u);
  EXPECT_EQ(replies[0].envelope.timings.wait_us, 20000u);
  EXPECT_EQ(replies[0].envelope.timings.compute_us, 0u);
}

TEST_F(BacklogTest, AcknowledgementsComeInTimeWhateverIndexesDo) {
  AppendPrompt();
  RunFor(milliseconds(999));
  EXPECT_TRUE(driver_.AppendReplies().empty());
  RunFor(milliseconds(2));
  const std::vector<wire::AppendReply> replies = driver_.AppendReplies();
  ASSERT_EQ(replies.size(), 1u);
  EXPECT_TRUE(replies[0].items[0].status.ok()) << replies[0].items[0].status;
  EXPECT_EQ(replies[0].items[0].applied_sequence, 1u);
}

}  // namespace
}  // namespace sounder::kv_node
