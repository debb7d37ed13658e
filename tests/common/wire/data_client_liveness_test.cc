// How DataClient watches its nodes, in virtual time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "common/base/virtual_executor.h"
#include "common/wire/data_client.h"
#include "tests/common/wire/data_world.h"

namespace sounder::wire {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr LivenessOptions kLiveness{.heartbeat = {.interval = seconds(1), .timeout = seconds(2)},
                                    .reconnect = {.first = milliseconds(100), .most = seconds(1)}};

class DataClientLivenessTest : public testing::Test {
 protected:
  DataClientLivenessTest() {
    transport_ = std::make_unique<transport::LoopbackTransport>(&fabric_, "worker:0");
    client_ = std::make_unique<DataClient>(transport_.get(), &time_,
                                           DataClientOptions{.seed = 3, .liveness = kLiveness});
    EXPECT_TRUE(transport_->Start(client_.get()).ok());
    node_ = std::make_unique<DataNode>(&fabric_, "a:1");
    a_ = client_->AddNode("a:1");
  }
  ~DataClientLivenessTest() override {
    transport_ = nullptr;
    client_ = nullptr;
  }
  void RunFor(base::Duration duration) {
    const base::Time end = time_.clock().Now() + duration;
    time_.RunFor(end - time_.clock().Now());
  }
  // Waits until it is away or not; how long that took.
  base::Duration Until(bool away) {
    const base::Time begin = time_.clock().Now();
    EXPECT_TRUE(time_.RunUntil([&] { return client_->Reachable(a_).ok() != away; }, 1000000));
    return time_.clock().Now() - begin;
  }
  absl::Status Ping(base::Duration deadline = kPatience) {
    const std::string name = "ping" + std::to_string(++pings_);
    client_->Ping(a_, deadline, ends_.Of(name));
    EXPECT_TRUE(ends_.WaitFor(static_cast<size_t>(pings_)));
    return ends_.StatusOf(name);
  }

  base::VirtualExecutor time_{7};
  transport::LoopbackFabric fabric_{&time_};
  Ends ends_{&time_};
  std::unique_ptr<transport::LoopbackTransport> transport_;
  std::unique_ptr<DataClient> client_;
  std::unique_ptr<DataNode> node_;
  DataClient::NodeIndex a_ = 0;
  int pings_ = 0;
};

TEST_F(DataClientLivenessTest, AQuietConnectionIsProbedAndKept) {
  EXPECT_TRUE(Ping().ok());
  RunFor(seconds(20));
  EXPECT_TRUE(client_->Reachable(a_).ok());
  EXPECT_EQ(node_->accepted(), 1);
  EXPECT_NEAR(static_cast<double>(node_->envelopes().size()), 20, 3) << "one a second";
  EXPECT_EQ(client_->counters().requests, 1u) << "heartbeats are nobody's requests";
}

TEST_F(DataClientLivenessTest, AFrozenNodeIsAwayInTimeWithWhatIsInFlightAndComesBack) {
  EXPECT_TRUE(Ping().ok());
  fabric_.Freeze("a:1");
  client_->Attend(a_, AttendOf(1), kPatience, ends_.OfAttend("in flight"));
  ++pings_;
  EXPECT_LE(Until(/*away=*/true), seconds(3));
  ASSERT_TRUE(ends_.WaitFor(2));
  ExpectStatus(ends_.StatusOf("in flight"), absl::StatusCode::kUnavailable,
               "a:1: it said nothing for 3.0 s");
  // Now requests fail at once, in no time at all.
  const base::Time now = time_.clock().Now();
  for (int i = 0; i < 10; ++i) {
    ExpectStatus(Ping(), absl::StatusCode::kUnavailable,
                 "node a:1 is away, since 3.0 s: it said nothing for 3.0 s");
  }
  EXPECT_EQ(time_.clock().Now(), now);
  EXPECT_EQ(client_->counters().refused_away, 10u);
  RunFor(seconds(60));
  EXPECT_FALSE(client_->Reachable(a_).ok());
  fabric_.Thaw("a:1");
  EXPECT_LE(Until(/*away=*/false), seconds(3));
  EXPECT_TRUE(Ping().ok());
  EXPECT_EQ(client_->counters().times_away, 1u);
}

TEST_F(DataClientLivenessTest, ADeadNodeIsTriedMoreAndMoreSeldom) {
  EXPECT_TRUE(Ping().ok());
  node_ = nullptr;
  ExpectStatus(Ping(), absl::StatusCode::kUnavailable, "a:1: closed the connection");
  EXPECT_TRUE(client_->Reachable(a_).ok()) << "a goodbye is no silence";
  ExpectStatus(Ping(), absl::StatusCode::kUnavailable, "nobody listens there");
  EXPECT_FALSE(client_->Reachable(a_).ok());
  const uint64_t before = client_->counters().requests;
  RunFor(seconds(1));
  const uint64_t first = client_->counters().requests - before;
  RunFor(seconds(20));
  const uint64_t later = client_->counters().requests - before - first;
  EXPECT_GE(first, 3u);  // after 75, 225, 525 ms on average
  EXPECT_LE(first, 5u);
  EXPECT_GE(later, 20u);  // every 500 to 1000 ms
  EXPECT_LE(later, 41u);
  node_ = std::make_unique<DataNode>(&fabric_, "a:1");
  EXPECT_LE(Until(/*away=*/false), seconds(1));
  EXPECT_TRUE(Ping().ok());
  // And from the first delay again.
  fabric_.Kill("a:1");
  EXPECT_FALSE(Ping().ok());
  const DataNode third(&fabric_, "a:1");
  EXPECT_LE(Until(/*away=*/false), milliseconds(100));
}

TEST_F(DataClientLivenessTest, SilenceForADeadlineIsAwayToo) {
  EXPECT_TRUE(Ping().ok());
  fabric_.Freeze("a:1");
  EXPECT_TRUE(absl::IsDeadlineExceeded(Ping(milliseconds(50))));
  ExpectStatus(Ping(), absl::StatusCode::kUnavailable, "it said nothing within 50 ms");
  fabric_.Thaw("a:1");
  EXPECT_LE(Until(/*away=*/false), milliseconds(100));
}

// Trials and heartbeats find neither the transport nor the client once those are gone.
TEST_F(DataClientLivenessTest, TheEndWhileWatching) {
  const auto nobody = client_->AddNode("nobody:1");
  client_->Ping(nobody, kPatience, ends_.Of("nobody"));
  ++pings_;
  EXPECT_TRUE(Ping().ok());
  transport_ = nullptr;
  RunFor(seconds(10));
  client_ = nullptr;
  time_.RunUntil([] { return false; });  // ends: no timer goes on for ever
}

}  // namespace
}  // namespace sounder::wire
