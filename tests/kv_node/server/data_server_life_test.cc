// How connections of a node's data plane end: for silence, and with the node. In virtual time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/virtual_executor.h"
#include "common/config/logging.h"
#include "tests/kv_node/server/server_driver.h"

namespace sounder::kv_node {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class DataServerLifeTest : public testing::Test {
 protected:
  void RunFor(base::Duration duration) { time_.RunFor(duration); }
  void Pong(transport::ConnectionId connection) {
    wire::Envelope pong;
    pong.kind = wire::MessageKind::kPong;
    driver_.server.OnMessage(connection, wire::EncodeBare(pong));
  }
  bool SaysMetric(const std::string& line) {
    return driver_.registry.Exposition().find(line) != std::string::npos;
  }

  base::VirtualExecutor time_{1};
  ServerDriver driver_{&time_};
};

TEST_F(DataServerLifeTest, SilentConnectionsAreProbedAndClosedOnce) {
  driver_.server.OnAccept(7, "dead:1");
  driver_.server.OnAccept(8, "alive:1");
  driver_.server.StartHeartbeats({.interval = seconds(4), .timeout = seconds(8)});
  RunFor(milliseconds(3900));
  EXPECT_THAT(driver_.transport.Take(), IsEmpty());
  RunFor(milliseconds(1200));
  const auto probes = driver_.transport.Take();
  ASSERT_EQ(probes.size(), 2u);
  EXPECT_EQ(wire::DecodeEnvelope(probes[0])->kind, wire::MessageKind::kPing);
  Pong(8);
  RunFor(seconds(6));
  EXPECT_THAT(driver_.transport.TakeClosed(), IsEmpty());
  Pong(8);                                          // it was probed again
  config::SetLogLevel(config::LogLevel::kWarning);  // clusters of other tests are silent
  testing::internal::CaptureStderr();
  RunFor(seconds(4));
  Pong(8);
  EXPECT_THAT(driver_.transport.TakeClosed(), ElementsAre(7));
  EXPECT_TRUE(
      SaysMetric("sounder_node_refused_connections_total{cause=\"silent\",port=\"data\"} 1"));
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("data port: dead:1: silent for 12.0 s, no answer to a ping within 8.0 s"));
  driver_.server.OnClosed(7, absl::OkStatus());
  for (int i = 0; i < 10; ++i) {
    RunFor(seconds(4));
    Pong(8);
  }
  EXPECT_THAT(driver_.transport.TakeClosed(), IsEmpty());
}

TEST_F(DataServerLifeTest, TheNodesEnd) {
  const auto session = driver_.Open(SessionDriver::Spec(1));
  driver_.server.OnAccept(1, "worker:1");
  driver_.Attend({SessionDriver::Query(*session, 5, 0, {0, 0})});  // waits for operations
  driver_.server.Stop();
  EXPECT_FALSE(driver_.server.WaitAnswered(time_.clock().Now() + seconds(1)));
  driver_.map.CloseAll(ShuttingDown());
  EXPECT_TRUE(driver_.server.WaitAnswered(time_.clock().Now() + seconds(1)));
  const auto replies = driver_.AttendReplies();
  ASSERT_EQ(replies.size(), 1u);
  EXPECT_EQ(replies[0].items[0].status, ShuttingDown());
  EXPECT_FALSE(driver_.server.CloseConnections(time_.clock().Now() + seconds(1)));
  EXPECT_THAT(driver_.transport.TakeClosed(), ElementsAre(1));
  driver_.server.OnClosed(1, absl::OkStatus());
  EXPECT_TRUE(driver_.server.CloseConnections(time_.clock().Now() + seconds(1)));
  driver_.server.OnAccept(2, "late:1");
  EXPECT_THAT(driver_.transport.TakeClosed(), ElementsAre(2)) << "nobody stays who comes now";
}

}  // namespace
}  // namespace sounder::kv_node
