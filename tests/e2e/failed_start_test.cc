// A node that ends, because it cannot start or is told to, while a client connects to it again and
// again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "common/transport/ucx_transport.h"
#include "tests/e2e/processes.h"

namespace sounder::e2e {
namespace {

// Connects to an address again and again, as workers do that wait for a node.
class Reconnecting final : public transport::TransportEvents {
 public:
  explicit Reconnecting(std::string address)
      : address_(std::move(address)), transport_({.tls = "tcp"}) {
    EXPECT_TRUE(transport_.Start(this).ok());
    thread_ = std::thread([this] { Loop(); });
  }
  ~Reconnecting() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    closed_.notify_all();
    thread_.join();
  }
  void OnAccept(transport::ConnectionId, const std::string&) override {}
  void OnMessage(transport::ConnectionId, transport::Message) override {}
  void OnClosed(transport::ConnectionId, absl::Status) override {
    {
      std::lock_guard lock(mutex_);
      connected_ = false;
    }
    closed_.notify_all();
  }

 private:
  void Loop() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      connected_ = true;
      lock.unlock();
      EXPECT_TRUE(transport_.Connect(address_).ok());
      lock.lock();
      closed_.wait(lock, [this] { return stopping_ || !connected_; });
    }
  }

  const std::string address_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable closed_;
  bool connected_ = false;
  bool stopping_ = false;
  std::thread thread_;
  transport::UcxTransport transport_;
};

TEST(FailedStartTest, EndsCleanlyUnderAClient) {
  std::string data;
  { data = Node().addresses().data; }  // a port that was free a moment ago
  Node other;
  const Reconnecting client(data);
  for (const std::string& flag : {std::string("--http"), std::string("--control")}) {
    const std::string taken = flag == "--http" ? other.addresses().http : other.addresses().control;
    const std::string free = flag == "--http" ? "--control" : "--http";
    for (int start = 0; start < 10; ++start) {
      const Ran node = RunProgram(
          "sounder_node", {"--data", data, flag, taken, free, "127.0.0.1:0", "--ucx-tls", "tcp"});
      EXPECT_EQ(node.exit, 4) << node.errors;
      EXPECT_THAT(node.errors, testing::HasSubstr(taken));
    }
  }
}

// UCX (1.13, TCP) crashes or hangs when a listener ends while a client connects to it.
// (For more of it there is --gtest_repeat=N.)
TEST(StopTest, EndsCleanlyWhileClientsConnect) {
  constexpr int kStops = 20;
  Node node({"--threads", "1"});
  const Reconnecting client(node.addresses().data);
  int clean = 0;
  for (int stop = 0; stop < kStops; ++stop) {
    if (stop > 0) node.Restart();
    node.process().Signal(SIGTERM);
    clean += node.process().Wait(seconds(10)) == 0 ? 1 : 0;
  }
  std::printf("clean_stops %d of %d\n", clean, kStops);
  EXPECT_EQ(clean, kStops) << node.process().Errors();
}

}  // namespace
}  // namespace sounder::e2e
