// What only the loopback can do: virtual time, killing and freezing machines.
#include "common/transport/loopback_transport.h"

#include <gtest/gtest.h>

#include "common/base/virtual_executor.h"
#include "tests/conformance/transport/world.h"

namespace sounder::transport {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

class LoopbackTest : public testing::Test {
 protected:
  // Two machines, one connected to the other.
  void Build(LoopbackOptions options) {
    fabric_ = std::make_unique<LoopbackFabric>(&executor_, options);
    server_ = std::make_unique<LoopbackTransport>(fabric_.get());
    client_ = std::make_unique<LoopbackTransport>(fabric_.get(), "client:9");
    ASSERT_TRUE(server_->Start(&server_events_).ok());
    ASSERT_TRUE(client_->Start(&client_events_).ok());
    ASSERT_TRUE(server_->Listen("server:7401").ok());
    connection_ = *client_->Connect("server:7401");
    ASSERT_TRUE(executor_.RunUntil([&] { return server_events_.accepted().size() == 1; }));
    accepted_ = server_events_.accepted()[0];
  }
  void TearDown() override {
    client_.reset();
    server_.reset();
    EXPECT_EQ(client_events_.Violations(), "");
    EXPECT_EQ(server_events_.Violations(), "");
    EXPECT_EQ(client_events_.done_count(), client_events_.done_asked());
    EXPECT_EQ(client_events_.closed_count(), client_connections_);
    EXPECT_EQ(server_events_.closed_count(), server_events_.accepted().size());
  }
  void Send(size_t bytes) {
    client_->Send(connection_, {{}, memory::AlignedBuffer::Zeroed(bytes)}, SendMode::kAuto,
                  client_events_.Done());
  }
  void RunDry() {
    while (executor_.Step()) continue;
  }
  base::Time Now() { return executor_.clock().Now(); }

  Pulse pulse_;
  base::VirtualExecutor executor_{/*seed=*/3};
  Recorder server_events_{&pulse_}, client_events_{&pulse_};
  std::unique_ptr<LoopbackFabric> fabric_;
  std::unique_ptr<LoopbackTransport> server_, client_;
  ConnectionId connection_ = 0, accepted_ = 0;
  size_t client_connections_ = 1;
};

TEST_F(LoopbackTest, LatencyAndBandwidthTakeVirtualTime) {
  Build({.latency = milliseconds(3), .bytes_per_second = 1e6});
  EXPECT_EQ(Now().time_since_epoch(), milliseconds(3));
  const base::Time start = Now();
  Send(5000);  // 5 ms on the line
  Send(2000);  // 2 ms, behind the first
  ASSERT_TRUE(executor_.RunUntil([&] { return server_events_.message_count() == 1; }));
  EXPECT_EQ(Now() - start, milliseconds(8));
  ASSERT_TRUE(executor_.RunUntil([&] { return server_events_.message_count() == 2; }));
  EXPECT_EQ(Now() - start, milliseconds(10));
  EXPECT_EQ(server_events_.TakeMessages()[0].second.payload.size(), 5000u);
}

TEST_F(LoopbackTest, MessagesOfOneMomentStayInOrderWhateverTheSeed) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    base::VirtualExecutor executor(seed);
    LoopbackFabric fabric(&executor, {.latency = milliseconds(1)});
    Recorder receiver_events(&pulse_), sender_events(&pulse_);
    LoopbackTransport receiver(&fabric), sender(&fabric);
    ASSERT_TRUE(receiver.Start(&receiver_events).ok() && sender.Start(&sender_events).ok());
    ASSERT_TRUE(receiver.Listen("r:1").ok());
    const ConnectionId connection = *sender.Connect("r:1");
    for (uint32_t i = 0; i < 20; ++i) {
      sender.Send(connection, PatternMessage(4, 10 + i, i), SendMode::kAuto, nullptr);
    }
    ASSERT_TRUE(executor.RunUntil([&] { return receiver_events.message_count() == 20; }));
    const auto messages = receiver_events.TakeMessages();
    for (uint32_t i = 0; i < 20; ++i) {
      EXPECT_EQ(ComparePattern(messages[i].second, 4, 10 + i, i), "") << "seed " << seed;
    }
  }
  Build({});  // what TearDown looks at
}

TEST_F(LoopbackTest, AKilledMachineIsReportedToItsPeersOnly) {
  Build({.latency = microseconds(50)});
  Send(100);
  fabric_->Kill("server:7401");
  fabric_->Kill("server:7401");  // is not there any more
  RunDry();
  EXPECT_EQ(client_events_.CloseReason(connection_).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(client_events_.done_count(), 1);
  EXPECT_EQ(client_events_.done_ok_count(), 0);
  EXPECT_EQ(server_events_.message_count(), 0u);
  EXPECT_EQ(server_events_.closed_count(), 0u) << "the dead hear nothing";
  // The address is free for a successor.
  Recorder successor_events(&pulse_);
  LoopbackTransport successor(fabric_.get());
  ASSERT_TRUE(successor.Start(&successor_events).ok());
  EXPECT_TRUE(successor.Listen("server:7401").ok());
}

TEST_F(LoopbackTest, AFrozenMachineIsSilentUntilItThaws) {
  Build({.connect_timeout = milliseconds(100)});
  fabric_->Freeze("server:7401");
  Send(100);
  server_->Send(accepted_, PatternMessage(1, 1, 1), SendMode::kAuto, nullptr);
  const ConnectionId knocking = *client_->Connect("server:7401");
  RunDry();
  EXPECT_EQ(server_events_.message_count(), 0u);
  EXPECT_EQ(client_events_.message_count(), 0u);
  EXPECT_EQ(client_events_.done_count(), 0);
  EXPECT_FALSE(client_events_.IsClosed(connection_));
  EXPECT_EQ(client_events_.CloseReason(knocking).code(), absl::StatusCode::kDeadlineExceeded);
  fabric_->Thaw("server:7401");
  RunDry();
  EXPECT_EQ(server_events_.message_count(), 1u);
  EXPECT_EQ(client_events_.message_count(), 1u);
  EXPECT_EQ(client_events_.done_ok_count(), 1);
  EXPECT_EQ(server_events_.accepted().size(), 1u) << "the request was given up";
  client_connections_ = 2;
}

TEST_F(LoopbackTest, CloseEndsSendsToAFrozenMachine) {
  Build({});
  fabric_->Freeze("server:7401");
  Send(100);
  Send(200);
  client_->Close(connection_);
  RunDry();
  EXPECT_TRUE(client_events_.CloseReason(connection_).ok());
  EXPECT_EQ(client_events_.done_count(), 2);
  EXPECT_FALSE(server_events_.IsClosed(accepted_));
  fabric_->Thaw("server:7401");
  RunDry();
  EXPECT_EQ(server_events_.message_count(), 2u) << "they were sent before the goodbye";
  EXPECT_TRUE(server_events_.CloseReason(accepted_).ok());
}

TEST_F(LoopbackTest, ARequestWaitsForAMachineThatThawsInTime) {
  Build({.connect_timeout = milliseconds(100)});
  fabric_->Freeze("server:7401");
  Recorder other_events(&pulse_);
  LoopbackTransport other(fabric_.get(), "other:1");
  ASSERT_TRUE(other.Start(&other_events).ok());
  const ConnectionId waiting = *other.Connect("server:7401");
  other.Send(waiting, PatternMessage(2, 20, 2), SendMode::kAuto, nullptr);
  executor_.RunAt(Now() + milliseconds(50), [&] { fabric_->Thaw("server:7401"); });
  RunDry();
  EXPECT_EQ(server_events_.message_count(), 1u);
  EXPECT_TRUE(other.Describe(waiting).ok());
  EXPECT_EQ(server_events_.accepted().size(), 2u);
}

}  // namespace
}  // namespace sounder::transport
