// What a control server bears from clients that are slow, silent, deaf or many.
#include <capnp/message.h>
#include <capnp/rpc.capnp.h>
#include <capnp/serialize.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/transport/address.h"
#include "common/wire/control_client.h"
#include "common/wire/control_server.h"
#include "proto/control.capnp.h"
#include "tests/common/wire/fake_service.h"

namespace sounder::wire {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr base::Duration kLong = seconds(30);

int ConnectTo(const std::string& address) {
  const auto resolved = transport::Resolve(*transport::ParseHostPort(address));
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&resolved->storage), resolved->length),
            0);
  return fd;
}

// Until the server hangs up; false if it does not.
bool HangsUp(int fd) {
  pollfd entry{fd, POLLRDHUP, 0};
  return poll(&entry, 1, 20000) > 0;
}

class ControlLimitsTest : public testing::Test {
 protected:
  void Serve(ControlLimits limits) {
    limits.refused = [this](const std::string& cause, const std::string& what) {
      EXPECT_FALSE(what.empty());
      std::lock_guard lock(mutex_);
      ++causes_[cause];
    };
    auto server = ControlServer::Start("127.0.0.1:0", &service_, limits);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  int Refused(const std::string& cause) {
    std::lock_guard lock(mutex_);
    return causes_[cause];
  }
  int Connect() {
    sockets_.push_back(ConnectTo(server_->address()));
    return sockets_.back();
  }
  ~ControlLimitsTest() override {
    for (const int socket : sockets_) close(socket);
  }

  FakeService service_;
  std::mutex mutex_;
  std::map<std::string, int> causes_;  // guarded by mutex_
  std::unique_ptr<ControlServer> server_;
  std::vector<int> sockets_;
};

TEST_F(ControlLimitsTest, SilentAndSlowClientsAreCutOffAndOthersAreNot) {
  Serve({.stall = milliseconds(200)});
  ControlClient well(server_->address(), kLong);
  EXPECT_TRUE(well.Drain(true).ok());
  EXPECT_TRUE(HangsUp(Connect()));
  EXPECT_EQ(Refused("silent"), 1);
  const int slow = Connect();
  pollfd gone{slow, POLLRDHUP, 0};
  const std::string claim("\0\0\0\0\xff\0\0\0", 8);
  EXPECT_EQ(send(slow, claim.data(), claim.size(), 0), 8);
  while (poll(&gone, 1, 20) == 0) (void)send(slow, "z", 1, MSG_NOSIGNAL);  // always some progress
  EXPECT_EQ(Refused("slow"), 1);
  EXPECT_TRUE(well.Drain(true).ok()) << "quiet is not silent";
  EXPECT_EQ(Refused("silent") + Refused("slow"), 2);
}

TEST_F(ControlLimitsTest, IdleAndUsedUpConnectionsAreClosedAndClientsConnectAnew) {
  Serve({.stall = milliseconds(200), .idle = milliseconds(100), .answered_bytes = 100000});
  ControlClient client(server_->address(), kLong);
  for (int i = 1; i <= 2; ++i) {
    EXPECT_TRUE(client.Drain(true).ok());
    while (Refused("idle") < i) std::this_thread::yield();
  }
  service_.node.version = std::string(1000, 'v');
  while (Refused("used_up") == 0) ASSERT_TRUE(client.Status().ok());
  EXPECT_TRUE(client.Status().ok());
}

TEST_F(ControlLimitsTest, MessagesThatAreTooLongAreRefusedBeforeTheyCome) {
  Serve({.message_bytes = 8192});
  SessionSpec spec;
  spec.model.name = std::string(4000, 'm');
  ControlClient client(server_->address(), kLong);
  EXPECT_EQ(client.Drain(true), absl::OkStatus());
  const int fd = Connect();
  const std::string claim("\0\0\0\0\x01\x04\0\0", 8);  // 8,200 bytes
  EXPECT_EQ(send(fd, claim.data(), claim.size(), 0), 8);
  EXPECT_TRUE(HangsUp(fd));
  EXPECT_EQ(Refused("malformed"), 1);
  EXPECT_EQ(client.Drain(true), absl::OkStatus());
}

TEST_F(ControlLimitsTest, BeyondTheBoundUnusedConnectionsGoFirst) {
  Serve({.connections = 3});
  ControlClient one(server_->address(), kLong), two(server_->address(), kLong);
  EXPECT_TRUE(one.Drain(true).ok());
  EXPECT_TRUE(two.Drain(true).ok());
  const int unused = Connect();
  const int next = Connect();  // takes its place
  EXPECT_TRUE(HangsUp(unused));
  ControlClient three(server_->address(), kLong);
  EXPECT_TRUE(three.Drain(true).ok());
  EXPECT_TRUE(HangsUp(next));
  // Now all three are in use.
  EXPECT_TRUE(HangsUp(Connect()));
  EXPECT_EQ(Refused("limit"), 3);
  EXPECT_TRUE(one.Drain(true).ok());
  EXPECT_TRUE(two.Drain(true).ok());
  EXPECT_TRUE(three.Drain(true).ok());
}

void Add(capnp::MallocMessageBuilder& message, std::string* bytes) {
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
  bytes->append(reinterpret_cast<const char*>(words.begin()), words.size() * sizeof(capnp::word));
}

// What a client says that asks for the service and then calls its status() again and again, without
// listening.
std::string CallsForStatus(uint32_t calls) {
  std::string bytes;
  {
    capnp::MallocMessageBuilder message;
    message.initRoot<capnp::rpc::Message>().initBootstrap().setQuestionId(0);
    Add(message, &bytes);
  }
  for (uint32_t id = 1; id <= calls; ++id) {
    capnp::MallocMessageBuilder message;
    auto call = message.initRoot<capnp::rpc::Message>().initCall();
    call.setQuestionId(id);
    call.initTarget().initPromisedAnswer().setQuestionId(0);
    call.setInterfaceId(capnp::typeId<proto::Node>());
    call.setMethodId(10);
    call.initParams().initContent();
    Add(message, &bytes);
  }
  return bytes;
}

// Answers of 64 KiB, 4,000 of them asked for: 256 MiB if the server went on for a client that does
// not listen.
TEST_F(ControlLimitsTest, WhoDoesNotReadIsNotReadFrom) {
  Serve({.stall = milliseconds(300)});
  constexpr uint32_t kCalls = 4000;
  const std::string said = CallsForStatus(kCalls);
  service_.node.data_address = std::string(64 << 10, 'd');
  const size_t before = service_.calls().size();
  const int deaf = Connect();
  size_t sent = 0;
  pollfd entry{deaf, POLLOUT | POLLRDHUP, 0};
  while (sent < said.size() && poll(&entry, 1, 20000) > 0 && (entry.revents & POLLRDHUP) == 0) {
    const ssize_t count =
        send(deaf, said.data() + sent, said.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0 && errno != EAGAIN) break;
    if (count > 0) sent += static_cast<size_t>(count);
  }
  EXPECT_TRUE(HangsUp(deaf));
  const size_t made = service_.calls().size() - before;
  std::printf("calls_made_for_a_deaf_client %zu of %u\n", made, kCalls);
  EXPECT_GT(made, 10u);
  EXPECT_LT(made, 1000u) << "what fits the socket's buffers, and the calls under way";
  EXPECT_EQ(Refused("unread"), 1);
  EXPECT_TRUE(ControlClient(server_->address(), kLong).Drain(true).ok());
}

}  // namespace
}  // namespace sounder::wire
