// What a node does with more than it can do: credit, queues, deadlines and peers that do not take
// their answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "common/base/absl_text.h"
#include "common/config/logging.h"
#include "common/policy/append_credit.h"
#include "tests/kv_node/server/server_driver.h"
#include "tests/kv_node/session/busy_executor.h"
#include "tests/kv_node/session/tier_driver.h"

namespace sounder::kv_node {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

// Work waits until it is told to go on; time passes as the test wants.
class FlowTest : public testing::Test {
 protected:
  FlowTest() { Start({}); }
  ~FlowTest() override { End(); }

  void Start(const SessionMapOptions& sessions, const DataServerOptions& server = {}) {
    End();
    driver_ = std::make_unique<ServerDriver>(&executor_, sessions, server);
    session_ = driver_->Open(SessionDriver::Spec(1));
  }
  void End() {
    if (driver_ == nullptr) return;
    driver_->map.CloseAll(absl::UnavailableError("over"));
    executor_.GoOn();
    session_ = nullptr;
    driver_ = nullptr;
  }
  void RunFor(base::Duration duration) { time_.RunFor(duration); }
  static wire::Envelope Within(base::Duration deadline) {
    wire::Envelope envelope;
    envelope.deadline_us = static_cast<uint32_t>(deadline.count() / 1000);
    return envelope;
  }
  wire::AttendItem Query(int64_t end) { return SessionDriver::Query(*session_, 0, 0, {0, end}); }
  double Metric(const std::string& name) {
    const std::string text = driver_->registry.Exposition();
    const size_t at = text.find("\n" + name + " ");
    EXPECT_NE(at, std::string::npos) << name;
    return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size() + 2));
  }
  double Refused(const std::string& reason) {
    return Metric("sounder_node_refused_requests_total{reason=\"" + reason + "\"}");
  }

  base::VirtualExecutor time_{1};
  BusyExecutor executor_{&time_};
  std::unique_ptr<ServerDriver> driver_;
  std::shared_ptr<Session> session_;
};

TEST_F(FlowTest, WhatExpiresInTheQueueIsDroppedBeforeWorkStarts) {
  driver_->Append({SessionDriver::Item(*session_, 1, 0, 0, 64)});
  executor_.GoOn();
  driver_->transport.Take();
  driver_->Attend({Query(64)}, Within(milliseconds(100)));
  driver_->Attend({Query(64)}, Within(milliseconds(300)));
  RunFor(milliseconds(200));
  executor_.GoOn();
  const std::vector<wire::AttendReply> replies = driver_->AttendReplies();
  ASSERT_EQ(replies.size(), 2u);
  const bool first = replies[0].envelope.status.ok();
  const wire::AttendReply& late = replies[first ? 1 : 0];
  EXPECT_EQ(late.envelope.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(base::MessageOf(late.envelope.status), HasSubstr("waited 200000 us for its turn"));
  EXPECT_TRUE(replies[first ? 0 : 1].items.at(0).status.ok());
  EXPECT_EQ(Refused("expired"), 1);
  EXPECT_EQ(Metric("sounder_node_attend_requests_total"), 1);
  EXPECT_EQ(Metric("sounder_node_loaded_rows_total"), 2 * 64) << "of one of them";
  EXPECT_EQ(Metric("sounder_node_admitted_attend_requests"), 0);
}

TEST_F(FlowTest, AFullQueueRefusesWithAdviceAndLeavesRoomForOthers) {
  Start({}, {.max_attends = 8});
  for (int i = 0; i < 6; ++i) driver_->Attend({Query(0)});
  std::vector<wire::AttendReply> refusals = driver_->AttendReplies();
  ASSERT_EQ(refusals.size(), 2u) << "a connection may have half";
  for (const wire::AttendReply& refusal : refusals) {
    EXPECT_EQ(refusal.envelope.status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_GE(refusal.envelope.retry_after_us, 1000u);
  }
  EXPECT_EQ(Refused("queue"), 2);
  EXPECT_EQ(Metric("sounder_node_admitted_attend_requests"), 4);
  driver_->Attend({Query(0)}, {}, /*connection=*/2);
  EXPECT_TRUE(driver_->transport.Take().empty()) << "taken on";
  executor_.GoOn();
  EXPECT_EQ(driver_->AttendReplies().size(), 5u);
}

// Whatever it says: it is not looked at.
TEST_F(FlowTest, WhatIsRefusedInAnyCaseIsNotRead) {
  Start({}, {.max_attends = 8});
  for (int i = 0; i < 4; ++i) driver_->Attend({Query(0)});
  wire::AttendRequest request;
  request.envelope.kind = wire::MessageKind::kAttend;
  transport::Message damaged = wire::Encode(request);
  ASSERT_FALSE(damaged.payload.empty());
  damaged.payload.data()[0] ^= std::byte{1};
  driver_->server.OnMessage(1, wire::CopyOf(damaged));
  EXPECT_EQ(driver_->AttendReplies().at(0).envelope.status.code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Metric("sounder_node_refused_messages_total"), 0);
  driver_->server.OnMessage(2, std::move(damaged));  // it has room
  EXPECT_EQ(driver_->AttendReplies().at(0).envelope.status.code(), absl::StatusCode::kDataLoss);
}

// Messages wait for the executor under a bound of their own.
TEST_F(FlowTest, MessagesQueuedOnTheExecutorAreBounded) {
  Start({}, {.intake = {.message_bytes = kMiB}});
  uint64_t sequence = 0;
  base::Position first = 0;
  const auto append = [&](transport::ConnectionId connection) {
    driver_->Append({SessionDriver::Item(*session_, ++sequence, 0, first, 400)}, {}, connection);
    first += 400;  // 51,200 bytes
  };
  for (int i = 0; i < 100; ++i) append(1);
  EXPECT_LE(Metric("sounder_node_message_bytes"), kMiB / 2);
  EXPECT_GE(Metric("sounder_node_message_bytes"), kMiB / 2 - 60000);
  const std::vector<wire::AppendReply> refusals = driver_->AppendReplies();
  ASSERT_GT(refusals.size(), 85u);
  EXPECT_EQ(Refused("memory"), static_cast<double>(refusals.size()));
  EXPECT_EQ(refusals[0].envelope.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(base::MessageOf(refusals[0].envelope.status), HasSubstr("--message-memory"));
  EXPECT_EQ(refusals[0].envelope.retry_after_us, 10000u);
  driver_->Append({SessionDriver::Item(*session_, 1, 0, 0, 400)}, {}, 2);
  EXPECT_TRUE(driver_->transport.Take().empty()) << "another connection has room";
  executor_.GoOn();
  EXPECT_EQ(Metric("sounder_node_message_bytes"), 0);
}

// Where the store makes room the writer may come again; and the request is over.
TEST_F(FlowTest, AppendsThatFindNoRoomAreRefusedWithAdvice) {
  End();
  TierDisk disk;
  const SessionStores stores = disk.Start(&time_);
  ServerDriver driver(&time_, {.memory_bytes = kMiB}, {}, nullptr, stores);
  const auto session = driver.Open(SessionDriver::Spec(1));
  driver.Append({SessionDriver::Item(*session, 1, 0, 0, 16384)});  // 2 MiB
  time_.RunFor(std::chrono::seconds(2));
  const std::vector<wire::AppendReply> replies = driver.AppendReplies();
  ASSERT_EQ(replies.size(), 1u);
  EXPECT_EQ(replies[0].envelope.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(replies[0].envelope.retry_after_us, 20000u);
  const std::string metrics = driver.registry.Exposition();
  EXPECT_THAT(metrics, HasSubstr("\nsounder_node_refused_requests_total{reason=\"room\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("\nsounder_node_append_requests_total 0\n"));
  EXPECT_TRUE(driver.server.WaitAnswered(time_.clock().Now()));
  driver.map.CloseAll(absl::UnavailableError("over"));
}

TEST_F(FlowTest, WhatCouldNeverBeHeldGetsNoAdvice) {
  Start({}, {.intake = {.message_bytes = 50000}});
  driver_->Append({SessionDriver::Item(*session_, 1, 0, 0, 400)});
  const std::vector<wire::AppendReply> refusals = driver_->AppendReplies();
  ASSERT_EQ(refusals.size(), 1u);
  EXPECT_EQ(refusals[0].envelope.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refusals[0].envelope.retry_after_us, 0u);
}

// A peer that does not take its answers: its requests are refused once they fill its share, and its
// connection is closed when it takes not even that. Others notice nothing.
TEST_F(FlowTest, ASlowReaderIsBoundedAndHarmsNobody) {
  Start({}, {.intake = {.message_bytes = kMiB, .bare_answers = 100}});
  driver_->server.OnAccept(1, "slow:1");
  driver_->server.OnAccept(2, "quick:1");
  driver_->Append({SessionDriver::Item(*session_, 1, 0, 0, 64)}, {}, 2);
  executor_.GoOn();
  driver_->transport.Take();
  driver_->transport.Block(1);
  config::SetLogLevel(config::LogLevel::kWarning);
  testing::internal::CaptureStderr();
  double most = 0;
  int asked = 0;
  for (; driver_->transport.closed().empty() && asked < 5000; ++asked) {
    driver_->Attend({Query(64)}, {}, 1);
    driver_->Attend({Query(64)}, {}, 2);
    executor_.GoOn();
    most = std::max(most, Metric("sounder_node_message_bytes"));
    int answered = 0;
    for (transport::Message& message : driver_->transport.Take()) {
      const auto reply = wire::DecodeAttendReply(std::move(message));
      ASSERT_TRUE(reply.ok());
      answered += reply->envelope.status.ok() ? 1 : 0;
    }
    ASSERT_GE(answered, 1) << "the other one is served, whatever the slow one does";
  }
  EXPECT_EQ(driver_->transport.closed(), std::vector<transport::ConnectionId>{1});
  EXPECT_LE(most, kMiB / 2 + 20000) << "its share, and one request of the other";
  EXPECT_EQ(Refused("memory"), 101);
  EXPECT_EQ(Metric("sounder_node_slow_reader_connections_total"), 1);
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("data port: slow:1: it sends requests and does not take its answers"));
  // Nothing is taken from it any more, and one line was logged.
  testing::internal::CaptureStderr();
  for (int i = 0; i < 10; ++i) driver_->Attend({Query(64)}, {}, 1);
  EXPECT_EQ(Refused("memory"), 101);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  config::SetLogLevel(config::LogLevel::kError);  // as where clusters are made
  // Its end gives everything back.
  EXPECT_EQ(driver_->transport.Unblock(), static_cast<size_t>(asked - 1));
  driver_->server.OnClosed(1, absl::OkStatus());
  EXPECT_EQ(Metric("sounder_node_message_bytes"), 0);
}

// The same for one that asks what costs nothing.
TEST_F(FlowTest, AFloodOfPingsIsBoundedToo) {
  Start({}, {.intake = {.bare_answers = 100}});
  driver_->server.OnAccept(1, "pings:1");
  driver_->transport.Block(1);
  testing::internal::CaptureStderr();
  wire::Envelope ping;
  ping.kind = wire::MessageKind::kPing;
  for (int i = 0; i < 200; ++i) driver_->server.OnMessage(1, wire::EncodeBare(ping));
  testing::internal::GetCapturedStderr();
  EXPECT_EQ(driver_->transport.closed().size(), 1u);
  EXPECT_EQ(driver_->transport.Unblock(), 100u);
}

TEST_F(FlowTest, CreditShrinksWithTheBacklogAndGrowsAgain) {
  Start({.index = {.builds = 1, .backlog_rows = 1600}});
  const auto credit_of = [&](uint64_t sequence, base::Position first, uint32_t rows) {
    driver_->Append({SessionDriver::Item(*session_, sequence, 1, first, rows)});
    std::vector<wire::AppendReply> replies;
    executor_.StepUntil([&] { return !(replies = driver_->AppendReplies()).empty(); });
    EXPECT_TRUE(replies.at(0).items.at(0).status.ok());
    return replies[0].items[0].credit_bytes;
  };
  EXPECT_EQ(credit_of(1, 0, 8), policy::kMaxAppendCredit);
  const uint32_t half = credit_of(2, 8, 400);  // 25 segments of 16 rows of two heads wait
  EXPECT_EQ(half, policy::kMaxAppendCredit / 2);
  const uint32_t least = credit_of(3, 408, 1600);  // acknowledged once it is at the bound
  EXPECT_EQ(least, policy::kMinAppendCredit);
  executor_.GoOn();
  EXPECT_EQ(Metric("sounder_node_index_backlog_rows"), 0);
  EXPECT_EQ(credit_of(4, 2008, 1), policy::kMaxAppendCredit);
  EXPECT_EQ(Metric("sounder_node_append_credit_bytes"), policy::kMaxAppendCredit);
}

TEST_F(FlowTest, CreditIsSharedByThoseWhoWriteMuch) {
  const auto append = [&](Session& session, uint64_t sequence, uint32_t rows) {
    driver_->Append({SessionDriver::Item(session, sequence, 0, 0, rows)});
    executor_.GoOn();
    return driver_->AppendReplies().at(0).items.at(0).credit_bytes;
  };
  std::vector<std::shared_ptr<Session>> sessions;
  for (uint64_t number = 10; number < 26; ++number) {
    sessions.push_back(driver_->Open(SessionDriver::Spec(number)));
    append(*sessions.back(), 1, 8192);  // a MiB
  }
  // Of 512 MiB of messages half, over 16 writers.
  const auto decoding = driver_->Open(SessionDriver::Spec(99));
  EXPECT_EQ(append(*decoding, 1, 1), 16 * kMiB) << "a row is no writer";
  RunFor(std::chrono::seconds(3));
  EXPECT_EQ(append(*decoding, 1, 1), 64 * kMiB);
}

TEST_F(FlowTest, CreditFollowsTheFreeMemory) {
  Start({.memory_bytes = 8 * kMiB});
  const auto append = [&](uint64_t sequence, base::Position first, uint32_t rows) {
    driver_->Append({SessionDriver::Item(*session_, sequence, 0, first, rows)});
    executor_.GoOn();
    return driver_->AppendReplies().at(0).items.at(0).credit_bytes;
  };
  const uint32_t empty = append(1, 0, 16);
  EXPECT_LT(empty, 4 * kMiB);
  EXPECT_GT(empty, 3 * kMiB);
  const uint32_t used = append(2, 16, 16384);  // 2 MiB
  EXPECT_LT(used, 3 * kMiB);
  EXPECT_GT(used, 2 * kMiB);
  EXPECT_EQ(append(3, 16400, 32768), kMiB) << "the least";
}

}  // namespace
}  // namespace sounder::kv_node
