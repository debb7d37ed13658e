// What the client does when a node has no room or no time for a request, and how much it asks at
// once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/base/thread_executor.h"
#include "common/base/virtual_executor.h"
#include "common/wire/data_client.h"
#include "tests/common/wire/data_world.h"

namespace sounder::wire {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr auto kUnavailable = absl::StatusCode::kUnavailable;

class DataClientRetryTest : public DataWorldTest {};
INSTANTIATE_TEST_SUITE_P(Executors, DataClientRetryTest, testing::Bool(), ExecutorName);

// A refusal, as a node without room or time gives it.
Messages Refusal(const transport::Message& message, base::Duration retry_after,
                 absl::StatusCode code = absl::StatusCode::kResourceExhausted) {
  Envelope envelope = *DecodeEnvelope(message);
  envelope.kind =
      envelope.kind == MessageKind::kAttend ? MessageKind::kAttendReply : MessageKind::kAppendReply;
  envelope.status = absl::Status(code, "too much to do");
  envelope.retry_after_us = static_cast<uint32_t>(retry_after.count() / 1000);
  return One(EncodeBare(envelope));
}

TEST_P(DataClientRetryTest, RefusedRequestsAreSentAgainAsAdvised) {
  DataNode node(&world_.fabric, "a:1");
  std::atomic<int> asked{0};
  node.SetAnswer([&](const transport::Message& message) {
    return ++asked % 3 == 0 ? RightAnswer(message) : Refusal(message, milliseconds(2));
  });
  const auto a = world_.client->AddNode("a:1");
  const base::Time begin = world_.executor->clock().Now();
  world_.client->Attend(a, AttendOf(7), seconds(20), ends_.OfAttend("attend"));
  ASSERT_TRUE(ends_.WaitFor(1));
  EXPECT_GE(world_.executor->clock().Now() - begin, milliseconds(2 + 2));
  world_.client->Append(a, AppendOf(8), seconds(20), ends_.OfAppend("append"));
  ASSERT_TRUE(ends_.WaitFor(2));
  EXPECT_TRUE(ends_.StatusOf("attend").ok()) << ends_.StatusOf("attend");
  EXPECT_EQ(ends_.ValueOf("attend"), 7u);
  EXPECT_EQ(ends_.ValueOf("append"), 8u);
  const DataClientCounters counters = world_.client->counters();
  EXPECT_EQ(counters.requests, 2u);
  EXPECT_EQ(counters.refusals, 4u);
  EXPECT_EQ(counters.retries, 4u);
  EXPECT_EQ(counters.failures, 0u);
  const std::vector<Envelope> sent = node.envelopes();
  ASSERT_EQ(sent.size(), 6u);
  EXPECT_EQ(sent[0].ticket, sent[2].ticket);
  EXPECT_LE(sent[1].deadline_us, 20'000'000u - 2'000u) << "what is left of it";
  EXPECT_LT(sent[2].deadline_us, sent[1].deadline_us);
}

TEST_P(DataClientRetryTest, ARefusalIsTheAnswerWhereTheDeadlineAllowsNoMore) {
  DataNode node(&world_.fabric, "a:1");
  node.SetAnswer([](const transport::Message& message) { return Refusal(message, seconds(1)); });
  const auto a = world_.client->AddNode("a:1");
  const base::Time begin = world_.executor->clock().Now();
  world_.client->Attend(a, AttendOf(7), milliseconds(900), ends_.OfAttend("attend"));
  ASSERT_TRUE(ends_.WaitFor(1));
  EXPECT_LT(world_.executor->clock().Now() - begin, milliseconds(800)) << "at once";
  EXPECT_EQ(ends_.StatusOf("attend").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(world_.client->counters().retries, 0u);
}

TEST_P(DataClientRetryTest, OnlyAdviceIsFollowed) {
  DataNode node(&world_.fabric, "a:1");
  const auto a = world_.client->AddNode("a:1");
  node.SetAnswer([](const transport::Message& message) { return Refusal(message, {}); });
  world_.client->Attend(a, AttendOf(7), seconds(20), ends_.OfAttend("none"));
  ASSERT_TRUE(ends_.WaitFor(1));
  node.SetAnswer([](const transport::Message& message) {
    return Refusal(message, milliseconds(1), absl::StatusCode::kInvalidArgument);
  });
  world_.client->Attend(a, AttendOf(7), seconds(20), ends_.OfAttend("other"));
  ASSERT_TRUE(ends_.WaitFor(2));
  EXPECT_EQ(ends_.StatusOf("none").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ends_.StatusOf("other").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(world_.client->counters().retries, 0u);
}

TEST(DataClientRetriesTest, End) {  // after more than a second
  DataWorld world(std::make_unique<base::VirtualExecutor>(5));
  DataNode node(&world.fabric, "a:1");
  node.SetAnswer([](const transport::Message& message) {
    // Two copies of it are one refusal.
    Messages twice = Refusal(message, std::chrono::microseconds(1));
    twice.push_back(std::move(Refusal(message, std::chrono::microseconds(1)).front()));
    return twice;
  });
  const auto a = world.client->AddNode("a:1");
  world.client->Attend(a, AttendOf(7), seconds(20), world.ends.OfAttend("attend"));
  ASSERT_TRUE(world.ends.WaitFor(1));
  EXPECT_EQ(world.ends.StatusOf("attend").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(node.envelopes().size(), 11u);
  EXPECT_EQ(world.client->counters().retries, 10u);
}

// A connection that breaks while a request waits to be sent again fails it, as any other.
TEST_P(DataClientRetryTest, ABrokenConnectionEndsWhatWaitsToBeSentAgain) {
  auto node = std::make_unique<DataNode>(&world_.fabric, "a:1");
  node->SetAnswer([](const transport::Message& message) { return Refusal(message, seconds(1)); });
  const auto a = world_.client->AddNode("a:1");
  world_.client->Attend(a, AttendOf(7), seconds(20), ends_.OfAttend("attend"));
  const auto refused = world_.executor->NewCondition();
  std::mutex mutex;
  std::unique_lock lock(mutex);
  while (world_.client->counters().refusals == 0) {
    refused->WaitFor(lock, milliseconds(1), [] { return false; });
  }
  lock.unlock();
  node = nullptr;
  ASSERT_TRUE(ends_.WaitFor(1));
  EXPECT_EQ(ends_.StatusOf("attend").code(), kUnavailable);
  EXPECT_EQ(world_.client->counters().retries, 0u);
}

TEST_P(DataClientRetryTest, RequestsWithoutAnAnswerAreBounded) {
  DataNode node(&world_.fabric, "a:1");
  node.SetAnswer(Silence);
  const auto a = world_.client->AddNode("a:1");
  for (int i = 0; i < 4100; ++i) {
    world_.client->Ping(a, milliseconds(300), ends_.Of("ping" + std::to_string(i)));
  }
  ASSERT_TRUE(ends_.WaitFor(4100));
  EXPECT_NE(ends_.StatusOf("ping4095").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ends_.StatusOf("ping4096").code(), absl::StatusCode::kResourceExhausted);
  ExpectStatus(ends_.StatusOf("ping4099"), absl::StatusCode::kResourceExhausted, "a:1");
}

}  // namespace
}  // namespace sounder::wire
