#include "common/transport/faulty_transport.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "common/base/virtual_executor.h"
#include "common/transport/loopback_transport.h"
#include "tests/conformance/transport/world.h"

namespace sounder::transport {
namespace {

constexpr size_t kMessages = 400;

struct Outcome {
  std::vector<Message> arrived;
  std::vector<FaultRecord> faults;
  std::array<uint64_t, kFaultKinds> counts{};
  int64_t done = 0, done_ok = 0;
  absl::Status close_reason;
  bool closed = false;
};

uint32_t NumberOf(const Message& message) {
  return static_cast<uint32_t>(message.header[0]) | static_cast<uint32_t>(message.header[1]) << 8;
}

Message NumberedMessage(uint32_t number) {
  Message message = PatternMessage(8, 50, 7);
  message.header[0] = static_cast<std::byte>(number & 0xFF);
  message.header[1] = static_cast<std::byte>(number >> 8);
  return message;
}

// Sends numbered messages through a faulty transport in virtual time.
Outcome Simulate(const FaultOptions& options, uint64_t seed, size_t messages = kMessages) {
  Outcome outcome;
  Pulse pulse;
  base::VirtualExecutor executor(/*seed=*/5);
  LoopbackFabric fabric(&executor);
  Recorder receiver_events(&pulse), sender_events(&pulse);
  LoopbackTransport receiver(&fabric);
  FaultyTransport sender(std::make_unique<LoopbackTransport>(&fabric), &executor, options, seed);
  EXPECT_TRUE(receiver.Start(&receiver_events).ok() && sender.Start(&sender_events).ok());
  EXPECT_TRUE(receiver.Listen("r:1").ok());
  const ConnectionId connection = *sender.Connect("r:1");
  for (uint32_t i = 0; i < messages; ++i) {
    sender.Send(connection, NumberedMessage(i), SendMode::kAuto, sender_events.Done());
  }
  while (executor.Step()) continue;
  outcome.done = sender_events.done_count();
  outcome.done_ok = sender_events.done_ok_count();
  outcome.closed = sender_events.IsClosed(connection);
  outcome.close_reason = sender_events.CloseReason(connection);
  for (auto& [id, message] : receiver_events.TakeMessages()) {
    outcome.arrived.push_back(std::move(message));
  }
  outcome.faults = sender.Faults();
  outcome.counts = sender.FaultCounts();
  EXPECT_EQ(sender.seed(), seed);
  EXPECT_EQ(sender_events.Violations(), "");
  return outcome;
}

uint64_t CountOf(const Outcome& outcome, Fault fault) {
  return outcome.counts[static_cast<size_t>(fault)];
}

// About p * kMessages faults, all of one kind, and every SendDone.
void ExpectCount(const Outcome& outcome, Fault fault, double p) {
  const auto count = static_cast<double>(CountOf(outcome, fault));
  // Five standard deviations of the binomial distribution.
  EXPECT_NEAR(count, p * kMessages, 5 * std::sqrt(kMessages * p * (1 - p))) << NameOf(fault);
  EXPECT_EQ(outcome.faults.size(), CountOf(outcome, fault)) << "another kind of fault";
  EXPECT_EQ(outcome.done, static_cast<int64_t>(kMessages));
}

TEST(FaultyTransportTest, WithoutFaultsNothingHappens) {
  const Outcome outcome = Simulate({}, 1);
  ExpectCount(outcome, Fault::kDrop, 0);
  ASSERT_EQ(outcome.arrived.size(), kMessages);
  for (uint32_t i = 0; i < kMessages; ++i) EXPECT_EQ(NumberOf(outcome.arrived[i]), i);
}

// Also those that a user sends when he hears of the end of a connection, which then get no faults:
// while the transport lives, and while it is being destroyed.
TEST(FaultyTransportTest, SendsOnAConnectionThatIsGoneEndAtOnce) {
  Pulse pulse;
  base::VirtualExecutor executor(/*seed=*/5);
  LoopbackFabric fabric(&executor);
  Recorder receiver_events(&pulse), sender_events(&pulse);
  LoopbackTransport receiver(&fabric);
  auto sender = std::make_unique<FaultyTransport>(std::make_unique<LoopbackTransport>(&fabric),
                                                  &executor, FaultOptions{.reorder = 1}, 1);
  const auto send = [&, sender = sender.get()](ConnectionId connection) {
    sender->Send(connection, NumberedMessage(1), SendMode::kAuto, sender_events.Done());
  };
  sender_events.on_closed = send;
  ASSERT_TRUE(receiver.Start(&receiver_events).ok() && sender->Start(&sender_events).ok());
  ASSERT_TRUE(receiver.Listen("r:1").ok());
  const ConnectionId first = *sender->Connect("r:1");
  const ConnectionId second = *sender->Connect("r:1");
  const base::Time start = executor.clock().Now();
  sender->Close(first);
  while (executor.Step()) continue;
  EXPECT_TRUE(sender_events.IsClosed(first));
  EXPECT_EQ(executor.clock().Now(), start) << "a message for nobody was held back";
  EXPECT_EQ(sender_events.done_count(), 1);
  EXPECT_TRUE(sender->Faults().empty());
  send(second);
  sender.reset();
  EXPECT_TRUE(sender_events.IsClosed(second));
  EXPECT_EQ(sender_events.done_count(), 3);
  EXPECT_EQ(sender_events.done_ok_count(), 0);
  while (executor.Step()) continue;
  EXPECT_EQ(sender_events.done_count(), 3);
  EXPECT_EQ(sender_events.Violations(), "");
}

TEST(FaultyTransportTest, DropsExactlyTheListedMessages) {
  const Outcome outcome = Simulate({.drop = 0.25}, 2);
  ExpectCount(outcome, Fault::kDrop, 0.25);
  EXPECT_EQ(outcome.done_ok, static_cast<int64_t>(kMessages));
  ASSERT_EQ(outcome.arrived.size(), kMessages - outcome.faults.size());
  for (const Message& message : outcome.arrived) {
    for (const FaultRecord& record : outcome.faults) {
      EXPECT_NE(NumberOf(message), record.message);
    }
  }
}

TEST(FaultyTransportTest, Duplicates) {
  const Outcome outcome = Simulate({.duplicate = 0.25}, 3);
  ExpectCount(outcome, Fault::kDuplicate, 0.25);
  std::vector<uint32_t> expected;
  for (uint32_t i = 0; i < kMessages; ++i) {
    expected.push_back(i);
    for (const FaultRecord& record : outcome.faults) {
      if (record.message == i) expected.push_back(i);
    }
  }
  std::vector<uint32_t> arrived;
  for (const Message& message : outcome.arrived) arrived.push_back(NumberOf(message));
  EXPECT_EQ(arrived, expected);
}

TEST(FaultyTransportTest, ReordersAndLosesNothing) {
  const Outcome outcome = Simulate({.reorder = 0.25}, 4);
  ExpectCount(outcome, Fault::kReorder, 0.25);
  std::vector<uint32_t> arrived;
  for (const Message& message : outcome.arrived) arrived.push_back(NumberOf(message));
  EXPECT_FALSE(std::is_sorted(arrived.begin(), arrived.end()));
  std::sort(arrived.begin(), arrived.end());
  ASSERT_EQ(arrived.size(), kMessages);
  for (uint32_t i = 0; i < kMessages; ++i) EXPECT_EQ(arrived[i], i);
}

TEST(FaultyTransportTest, DelaysKeepTheOrder) {
  const Outcome outcome = Simulate({.delay = 0.25}, 5);
  ExpectCount(outcome, Fault::kDelay, 0.25);
  ASSERT_EQ(outcome.arrived.size(), kMessages);
  for (uint32_t i = 0; i < kMessages; ++i) EXPECT_EQ(NumberOf(outcome.arrived[i]), i);
}

TEST(FaultyTransportTest, TruncatesExactlyTheListedMessages) {
  const Outcome outcome = Simulate({.truncate = 0.25}, 6);
  ExpectCount(outcome, Fault::kTruncate, 0.25);
  ASSERT_EQ(outcome.arrived.size(), kMessages);
  size_t next = 0;
  for (uint32_t i = 0; i < kMessages; ++i) {
    const bool hit = next < outcome.faults.size() && outcome.faults[next].message == i;
    next += hit ? 1 : 0;
    if (hit) {
      EXPECT_LT(outcome.arrived[i].payload.size(), 50u);
    } else {
      EXPECT_EQ(outcome.arrived[i].payload.size(), 50u);
    }
  }
}

TEST(FaultyTransportTest, FlipsOneBitOfTheListedMessages) {
  const Outcome outcome = Simulate({.flip = 0.25}, 7);
  ExpectCount(outcome, Fault::kFlip, 0.25);
  ASSERT_EQ(outcome.arrived.size(), kMessages);
  size_t next = 0;
  for (uint32_t i = 0; i < kMessages; ++i) {
    const bool hit = next < outcome.faults.size() && outcome.faults[next].message == i;
    next += hit ? 1 : 0;
    const Message& arrived = outcome.arrived[i];
    const Message sent = NumberedMessage(i);
    int bits = 0;
    for (size_t b = 0; b < sent.header.size(); ++b) {
      bits += __builtin_popcount(static_cast<unsigned>(sent.header[b] ^ arrived.header[b]));
    }
    for (size_t b = 0; b < sent.payload.size(); ++b) {
      bits += __builtin_popcount(
          static_cast<unsigned>(sent.payload.data()[b] ^ arrived.payload.data()[b]));
    }
    EXPECT_EQ(bits, hit ? 1 : 0) << i;
  }
}

TEST(FaultyTransportTest, ResetBreaksTheConnection) {
  const Outcome outcome = Simulate({.reset = 0.05}, 8);
  ASSERT_GE(CountOf(outcome, Fault::kReset), 1u);
  EXPECT_TRUE(outcome.closed);
  EXPECT_EQ(outcome.close_reason.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(outcome.arrived.size(), outcome.faults[0].message);
  EXPECT_EQ(outcome.done, static_cast<int64_t>(kMessages));
}

TEST(FaultyTransportTest, FaultsAreAFunctionOfTheSeed) {
  const FaultOptions options{
      .delay = 0.1, .drop = 0.1, .duplicate = 0.1, .reorder = 0.1, .truncate = 0.1, .flip = 0.1};
  const Outcome first = Simulate(options, 9), again = Simulate(options, 9),
                other = Simulate(options, 10);
  const auto numbers = [](const Outcome& outcome) {
    std::vector<std::pair<Fault, uint64_t>> list;
    for (const FaultRecord& record : outcome.faults)
      list.emplace_back(record.fault, record.message);
    return list;
  };
  EXPECT_EQ(numbers(first), numbers(again));
  EXPECT_NE(numbers(first), numbers(other));
  EXPECT_GT(first.faults.size(), 100u);
}

TEST(FaultyTransportTest, UnsentMessagesAreAnsweredWhenItIsDestroyed) {
  Pulse pulse;
  base::VirtualExecutor executor(/*seed=*/5);
  LoopbackFabric fabric(&executor);
  Recorder receiver_events(&pulse), sender_events(&pulse);
  LoopbackTransport receiver(&fabric);
  ASSERT_TRUE(receiver.Start(&receiver_events).ok());
  ASSERT_TRUE(receiver.Listen("r:1").ok());
  {
    FaultyTransport sender(std::make_unique<LoopbackTransport>(&fabric), &executor,
                           {.delay = 1, .reorder = 0.5}, /*seed=*/11);
    ASSERT_TRUE(sender.Start(&sender_events).ok());
    const ConnectionId connection = *sender.Connect("r:1");
    for (uint32_t i = 0; i < 20; ++i) {
      sender.Send(connection, NumberedMessage(i), SendMode::kAuto, sender_events.Done());
    }
  }
  EXPECT_EQ(sender_events.done_count(), 20);
  EXPECT_EQ(sender_events.closed_count(), 1u);
  while (executor.Step()) continue;
}

}  // namespace
}  // namespace sounder::transport
