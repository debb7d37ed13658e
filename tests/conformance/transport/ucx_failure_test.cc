// What a UCX connection tells when the process at its other end dies, hangs, leaves or restarts.
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <utility>

#include "common/transport/ucx_transport.h"
#include "tests/conformance/transport/peer_process.h"
#include "tests/conformance/transport/world.h"

namespace sounder::transport {
namespace {

class UcxFailureTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    options_.tls = GetParam();
    options_.linger = std::chrono::milliseconds(200);
    transport_ = std::make_unique<UcxTransport>(options_);
    ASSERT_TRUE(transport_->Start(&events_).ok());
    peer_ = std::make_unique<PeerProcess>(GetParam(), "127.0.0.1:0");
  }
  void TearDown() override {
    transport_.reset();
    EXPECT_EQ(events_.Violations(), "");
    EXPECT_EQ(events_.done_count(), events_.done_asked());
  }
  // A connection to the peer that has carried an echo.
  void Connect(ConnectionId* connection) {
    const auto connected = transport_->Connect(peer_->address());
    ASSERT_TRUE(connected.ok()) << connected.status();
    *connection = *connected;
    const size_t before = events_.message_count();
    Send(*connection, 5000, 1);
    ASSERT_TRUE(pulse_.WaitFor([&] { return events_.message_count() == before + 1; }));
  }
  void Send(ConnectionId connection, size_t bytes, uint32_t seed) {
    transport_->Send(connection, PatternMessage(8, bytes, seed), SendMode::kAuto, events_.Done());
  }
  void WaitClosed(ConnectionId connection, absl::StatusCode code) {
    ASSERT_TRUE(pulse_.WaitFor([&] { return events_.IsClosed(connection); }));
    const absl::Status reason = events_.CloseReason(connection);
    EXPECT_EQ(reason.code(), code) << reason;
    // Sends of before OnClosed have ended; those of afterwards are refused.
    EXPECT_TRUE(pulse_.WaitFor([&] { return events_.done_count() == events_.done_asked(); }));
  }

  // Leaves us with `options`, and with a peer that is stopped while it sends us large payloads: it
  // has been told to send four, and one of them has come.
  void StopInMidAppend(const UcxOptions& options, ConnectionId* stopped) {
    transport_.reset();
    peer_ = std::make_unique<PeerProcess>(GetParam(), "127.0.0.1:0", /*copies=*/4);
    events_.on_message = [this, first = true](ConnectionId, Message&) mutable {
      if (std::exchange(first, false)) peer_->Signal(SIGSTOP);
    };
    transport_ = std::make_unique<UcxTransport>(options);
    ASSERT_TRUE(transport_->Start(&events_).ok());
    const auto connected = transport_->Connect(peer_->address());
    ASSERT_TRUE(connected.ok()) << connected.status();
    *stopped = *connected;
    Send(*stopped, kLarge, 1);
    ASSERT_TRUE(pulse_.WaitFor([&] { return events_.message_count() >= 1; }));
  }
  // A payload goes there and back by rendezvous, while others may send what they like.
  void ExpectRendezvous(const PeerProcess& peer) {
    const auto connected = transport_->Connect(peer.address());
    ASSERT_TRUE(connected.ok()) << connected.status();
    Send(*connected, 2 << 20, 2);
    ASSERT_TRUE(pulse_.WaitFor([&] { return events_.message_count(*connected) == 1; }));
  }

  static constexpr const char* kSharedQueue =
      "UCX: a peer stopped while it writes to a shared-memory queue blocks it for all others";
  static constexpr size_t kLarge = 16 << 20;  // more than the buffers of a socket hold
  UcxOptions options_;
  Pulse pulse_;
  Recorder events_{&pulse_};
  std::unique_ptr<UcxTransport> transport_;
  std::unique_ptr<PeerProcess> peer_;
};

INSTANTIATE_TEST_SUITE_P(Ucx, UcxFailureTest, testing::Values("tcp", "shm"),
                         [](const auto& param_info) { return std::string(param_info.param); });

TEST_P(UcxFailureTest, CarriesMessagesBetweenProcesses) {
  ConnectionId connection;
  ASSERT_NO_FATAL_FAILURE(Connect(&connection));
  events_.TakeMessages();
  constexpr size_t kSizes[] = {0, 1, 63, 8 << 10, 64 << 10, 1 << 20, 9 << 20};
  for (const size_t bytes : kSizes) {
    for (const SendMode mode : {SendMode::kEager, SendMode::kRendezvous}) {
      const size_t before = events_.message_count();
      const auto seed = static_cast<uint32_t>(bytes + 1);
      transport_->Send(connection, PatternMessage(700, bytes, seed), mode, events_.Done());
      ASSERT_TRUE(pulse_.WaitFor([&] { return events_.message_count() == before + 1; }));
      EXPECT_EQ(ComparePattern(events_.TakeMessages()[0].second, 700, bytes, seed), "");
    }
  }
}

TEST_P(UcxFailureTest, AKilledIdlePeerIsReported) {
  ConnectionId connection;
  ASSERT_NO_FATAL_FAILURE(Connect(&connection));
  peer_->Kill();
  WaitClosed(connection, absl::StatusCode::kUnavailable);
}

TEST_P(UcxFailureTest, APeerKilledUnderLoadIsReportedAndEverySendEnds) {
  ConnectionId connection;
  ASSERT_NO_FATAL_FAILURE(Connect(&connection));
  for (uint32_t i = 0; i < 60; ++i) Send(connection, i * 11000, i);
  peer_->Kill();
  for (uint32_t i = 0; i < 60; ++i) Send(connection, i * 11000, i);
  WaitClosed(connection, absl::StatusCode::kUnavailable);
}

TEST_P(UcxFailureTest, AStoppedPeerIsNotReportedAndCloseEndsItsSends) {
  ConnectionId connection, healthy;
  ASSERT_NO_FATAL_FAILURE(Connect(&connection));
  PeerProcess other(GetParam(), "127.0.0.1:0");
  peer_->Signal(SIGSTOP);
  // More than any buffer on the way holds.
  for (uint32_t i = 0; i < 40; ++i) Send(connection, 1 << 20, i);
  // Traffic with somebody else goes on meanwhile, and nothing is said of the stopped one.
  const auto connected = transport_->Connect(other.address());
  ASSERT_TRUE(connected.ok());
  healthy = *connected;
  size_t echoes = events_.message_count();
  for (uint32_t i = 0; i < 100; ++i) {
    Send(healthy, 20000, i);
    ++echoes;
    ASSERT_TRUE(pulse_.WaitFor([&] { return events_.message_count() == echoes; }));
  }
  EXPECT_FALSE(events_.IsClosed(connection));
  EXPECT_LT(events_.done_count(), events_.done_asked());
  transport_->Close(connection);
  ASSERT_TRUE(pulse_.WaitFor([&] { return events_.IsClosed(connection); }));
  EXPECT_TRUE(events_.CloseReason(connection).ok()) << events_.CloseReason(connection);
  EXPECT_EQ(events_.done_count(), events_.done_asked());
  EXPECT_FALSE(events_.IsClosed(healthy));
}

TEST_P(UcxFailureTest, APeerStoppedInMidAppendTakesNoMoreThanItsShare) {
  if (std::string(GetParam()) == "shm") GTEST_SKIP() << kSharedQueue;
  options_.receive_bytes_max = 2 * kLarge;
  options_.connection_receive_bytes_max = kLarge;
  options_.receive_timeout = std::chrono::hours(1);
  PeerProcess other(GetParam(), "127.0.0.1:0");
  ConnectionId stopped;
  ASSERT_NO_FATAL_FAILURE(StopInMidAppend(options_, &stopped));
  ASSERT_NO_FATAL_FAILURE(ExpectRendezvous(other));
  EXPECT_FALSE(events_.IsClosed(stopped));
  peer_->Signal(SIGCONT);
  ASSERT_TRUE(pulse_.WaitFor([&] { return events_.message_count() == 5; }));
}

TEST_P(UcxFailureTest, APeerStoppedInMidAppendIsGivenUpInTime) {
  if (std::string(GetParam()) == "shm") GTEST_SKIP() << kSharedQueue;
  options_.receive_bytes_max = kLarge;  // which the stopped peer takes, all of it
  options_.receive_timeout = std::chrono::seconds(4);
  PeerProcess other(GetParam(), "127.0.0.1:0");
  ConnectionId stopped;
  ASSERT_NO_FATAL_FAILURE(StopInMidAppend(options_, &stopped));
  ASSERT_NO_FATAL_FAILURE(ExpectRendezvous(other));
  WaitClosed(stopped, absl::StatusCode::kDeadlineExceeded);
}

TEST_P(UcxFailureTest, APeerThatLeavesSaysGoodbye) {
  ConnectionId connection;
  ASSERT_NO_FATAL_FAILURE(Connect(&connection));
  EXPECT_EQ(peer_->Finish(), 0);
  WaitClosed(connection, absl::StatusCode::kOk);
}

TEST_P(UcxFailureTest, APeerMayRestartOnItsPort) {
  for (int restart = 0; restart < 3; ++restart) {
    ConnectionId connection;
    ASSERT_NO_FATAL_FAILURE(Connect(&connection));
    const std::string address = peer_->address();
    if (restart % 2 == 0) {
      peer_->Kill();
      WaitClosed(connection, absl::StatusCode::kUnavailable);
    } else {
      EXPECT_EQ(peer_->Finish(), 0);
      WaitClosed(connection, absl::StatusCode::kOk);
    }
    peer_ = std::make_unique<PeerProcess>(GetParam(), address);
    EXPECT_EQ(peer_->address(), address);
  }
}

}  // namespace
}  // namespace sounder::transport
