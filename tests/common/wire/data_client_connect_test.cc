// What DataClient does while a connection is being made.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "common/base/thread_executor.h"
#include "common/base/virtual_executor.h"
#include "common/wire/data_client.h"
#include "tests/common/wire/data_world.h"
#include "tests/common/wire/wire_values.h"

namespace sounder::wire {
namespace {

using std::chrono::milliseconds;

constexpr auto kUnavailable = absl::StatusCode::kUnavailable;
constexpr auto kDeadline = absl::StatusCode::kDeadlineExceeded;

// A transport whose Connect is watched.
class WatchedConnect final : public transport::Transport {
 public:
  using Watch = std::function<void(const std::string& address)>;
  WatchedConnect(transport::LoopbackFabric* fabric, Watch watch)
      : inner_(fabric, "watched:0"), watch_(std::move(watch)) {}
  absl::Status Start(transport::TransportEvents* events) override { return inner_.Start(events); }
  absl::StatusOr<std::string> Listen(const std::string& address) override {
    return inner_.Listen(address);
  }
  absl::StatusOr<transport::ConnectionId> Connect(const std::string& address) override {
    ++connects;
    auto id = inner_.Connect(address);
    watch_(address);
    return id;
  }
  void Send(transport::ConnectionId id, transport::Message message, transport::SendMode mode,
            transport::SendDone done) override {
    inner_.Send(id, std::move(message), mode, std::move(done));
  }
  void Close(transport::ConnectionId id) override { inner_.Close(id); }
  absl::StatusOr<transport::ConnectionInfo> Describe(transport::ConnectionId id) override {
    return inner_.Describe(id);
  }
  std::atomic<int> connects{0};

 private:
  transport::LoopbackTransport inner_;
  const Watch watch_;
};

// While one thread looks up the name of a node, answers of others arrive, and requests to that node
// wait for it, each for its own deadline.
TEST(DataClientConnectTest, HoldsUpNobodyElse) {
  base::ThreadExecutor executor(2, "data");
  transport::LoopbackFabric fabric(&executor);
  DataNode node(&fabric, "a:1");
  DataNode slow(&fabric, "b:1");
  Ends ends(&executor);
  std::promise<void> inside;
  std::promise<void> go_on;
  auto transport = std::make_unique<WatchedConnect>(&fabric, [&](const std::string& address) {
    if (address != "b:1") return;
    inside.set_value();
    go_on.get_future().wait();
  });
  const WatchedConnect& watched = *transport;
  DataClient client(transport.get(), &executor);
  ASSERT_TRUE(transport->Start(&client).ok());
  const auto a = client.AddNode("a:1");
  const auto b = client.AddNode("b:1");
  std::thread connector([&] { client.Attend(b, AttendOf(1), kPatience, ends.OfAttend("first")); });
  inside.get_future().wait();
  client.Attend(b, AttendOf(2), kPatience, ends.OfAttend("second"));
  client.Attend(b, AttendOf(3), milliseconds(1), ends.OfAttend("late"));
  client.Attend(a, AttendOf(4), kPatience, ends.OfAttend("elsewhere"));
  EXPECT_TRUE(ends.WaitFor(2));
  EXPECT_EQ(ends.ValueOf("elsewhere"), 4u);
  ExpectStatus(ends.StatusOf("late"), kDeadline, "b:1 did not answer within 1 ms");
  go_on.set_value();
  connector.join();
  EXPECT_TRUE(ends.WaitFor(4));
  EXPECT_EQ(ends.ValueOf("first"), 1u);
  EXPECT_EQ(ends.ValueOf("second"), 2u);
  EXPECT_EQ(watched.connects, 2);
  EXPECT_EQ(slow.envelopes().size(), 2u) << "what was too late was not sent";
  transport = nullptr;
}

// The end of a connection may be reported before Connect has returned it.
TEST(DataClientConnectTest, AConnectionThatEndsAtOnce) {
  base::VirtualExecutor executor(5);
  transport::LoopbackFabric fabric(&executor);
  Ends ends(&executor);
  auto transport = std::make_unique<WatchedConnect>(&fabric, [&](const std::string&) {
    const base::Time later = executor.clock().Now() + milliseconds(1);
    executor.RunAt(later, [] {});
    executor.RunUntil([&] { return executor.clock().Now() >= later; });
  });
  DataClient client(transport.get(), &executor);
  ASSERT_TRUE(transport->Start(&client).ok());
  const auto nobody = client.AddNode("nobody:1");
  for (int i = 1; i <= 2; ++i) {
    client.Ping(nobody, kPatience, ends.Of("ping" + std::to_string(i)));
    ASSERT_TRUE(ends.WaitFor(static_cast<size_t>(i)));
    ExpectStatus(ends.StatusOf("ping" + std::to_string(i)), kUnavailable, "nobody:1");
  }
  EXPECT_EQ(client.counters().failures, 2u);
  transport = nullptr;
}

}  // namespace
}  // namespace sounder::wire
