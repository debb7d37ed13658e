// The control plane when nodes hang, vanish, come back, or were never there.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <thread>

#include "common/base/absl_text.h"
#include "common/transport/address.h"
#include "common/wire/control_client.h"
#include "common/wire/control_server.h"
#include "tests/common/wire/fake_service.h"

namespace sounder::wire {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

constexpr base::Duration kLong = std::chrono::seconds(30);

std::atomic<int> accepts_to_fail = 0;

std::unique_ptr<ControlServer> Serve(FakeService* service, const std::string& at = "127.0.0.1:0") {
  auto server = ControlServer::Start(at, service);
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

// A TCP connection made by hand.
int ConnectTo(const std::string& address) {
  const auto resolved = transport::Resolve(*transport::ParseHostPort(address));
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_GE(fd, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&resolved->storage), resolved->length),
            0);
  return fd;
}

// A socket bound to a port of its own, which listens only if asked to; nobody accepts.
struct BoundPort {
  explicit BoundPort(bool listens) : fd(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
    if (listens) {
      EXPECT_EQ(listen(fd, 8), 0);
    }
    socklen_t length = sizeof name;
    EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length), 0);
    address = "127.0.0.1:" + std::to_string(ntohs(name.sin_port));
  }
  ~BoundPort() { close(fd); }
  const int fd;
  std::string address;
};

TEST(ControlFailureTest, AServiceThatNeverAnswersEndsByTheDeadline) {
  FakeService service(FakeService::Mode::kHold);
  const auto server = Serve(&service);
  ControlClient client(server->address(), milliseconds(60));
  base::PhiloxStream random(71, 0);
  for (const std::string& end : CallEverything(&client, RandomSpec(random))) {
    EXPECT_EQ(end, absl::StrCat("4 node ", server->address(),
                                " did not answer a control call within 60 ms"));
  }
  // The client is as good as new.
  service.SetMode(FakeService::Mode::kInline);
  ControlClient patient(server->address(), kLong);
  EXPECT_TRUE(patient.Drain(true).ok());
  service.Release();  // answers nobody waits for any more
  EXPECT_TRUE(patient.Drain(true).ok());
}

// The wait for a turn behind other calls counts.
TEST(ControlFailureTest, CallsThatWaitForTheirTurnKeepTheirDeadline) {
  FakeService service(FakeService::Mode::kHold);
  const auto server = Serve(&service);
  constexpr auto kDeadline = milliseconds(200);
  ControlClient client(server->address(), kDeadline);
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (int t = 0; t < 20; ++t) {
    threads.emplace_back(
        [&] { EXPECT_EQ(client.Drain(true).code(), absl::StatusCode::kDeadlineExceeded); });
  }
  for (std::thread& thread : threads) thread.join();
  // One after the other they would need 4 s. The margin is for a busy machine.
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10 * kDeadline);
}

TEST(ControlFailureTest, AReplyThatIsDroppedIsAnError) {
  FakeService service(FakeService::Mode::kHold);
  const auto server = Serve(&service);
  ControlClient client(server->address(), kLong);
  std::thread forgets([&] {
    service.WaitForCalls(1);
    service.Forget();
  });
  const absl::Status status = client.Drain(true);
  forgets.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(base::MessageOf(status), HasSubstr(server->address()));
}

TEST(ControlFailureTest, NobodyListens) {
  const BoundPort port(/*listens=*/false);
  ControlClient client(port.address, kLong);
  const absl::Status status = client.Drain(true);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(base::MessageOf(status), HasSubstr("node " + port.address));
}

TEST(ControlFailureTest, AHostThatAcceptsButSaysNothing) {
  const BoundPort port(/*listens=*/true);
  ControlClient client(port.address, milliseconds(60));
  const absl::Status status = client.Drain(true);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(base::MessageOf(status), HasSubstr("node " + port.address));
}

TEST(ControlFailureTest, AServerThatGoesAndComesBack) {
  FakeService service;
  auto server = Serve(&service);
  const std::string address = server->address();
  ControlClient client(address, kLong);
  EXPECT_TRUE(client.Drain(true).ok());
  for (int round = 0; round < 3; ++round) {
    server = nullptr;
    const absl::Status gone = client.Drain(true);
    EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable) << gone;
    EXPECT_THAT(base::MessageOf(gone), HasSubstr("node " + address));
    server = Serve(&service, address);  // the same port, at once
    ASSERT_NE(server, nullptr);
    EXPECT_TRUE(client.Drain(true).ok());
    // Restarted between two calls: the next call works, and nobody notices.
    server = nullptr;
    server = Serve(&service, address);
    ASSERT_NE(server, nullptr);
    EXPECT_TRUE(client.Drain(true).ok());
  }
}

TEST(ControlFailureTest, AServerThatGoesInTheMiddleOfACall) {
  FakeService service(FakeService::Mode::kHold);
  auto server = Serve(&service);
  ControlClient client(server->address(), kLong);
  std::thread goes([&] {
    service.WaitForCalls(1);
    server = nullptr;
  });
  const absl::Status status = client.Drain(true);
  goes.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  service.Release();  // a reply after the server's end is ignored
}

// Replies race with the end of the server: nothing to see but with a sanitizer.
TEST(ControlFailureTest, RepliesWhileTheServerEnds) {
  for (int round = 0; round < 30; ++round) {
    FakeService service(FakeService::Mode::kHold);
    auto server = Serve(&service);
    ControlClient client(server->address(), kLong);
    std::thread releases([&] {
      service.WaitForCalls(1);
      service.Release();
    });
    std::thread ends([&] {
      service.WaitForCalls(1);
      server = nullptr;
    });
    (void)client.Drain(true);
    service.SetMode(FakeService::Mode::kInline);
    releases.join();
    ends.join();
  }
}

TEST(ControlFailureTest, APortInUse) {
  const BoundPort port(/*listens=*/true);
  FakeService service;
  const auto server = ControlServer::Start(port.address, &service);
  EXPECT_EQ(server.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(base::MessageOf(server.status()),
              testing::AllOf(HasSubstr("cannot listen on control address " + port.address),
                             HasSubstr("Address already in use")));
}

TEST(ControlFailureTest, AddressesOfOthers) {
  FakeService service;
  // TEST-NET-1: an address no machine has.
  const auto server = ControlServer::Start("192.0.2.1:0", &service);
  EXPECT_EQ(server.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(base::MessageOf(server.status()), HasSubstr("192.0.2.1:0"));
}

TEST(ControlFailureTest, MalformedAddresses) {
  FakeService service;
  for (const std::string address :
       {"", "localhost", ":80", "localhost:", "localhost:http", "localhost:65536", "localhost:-1",
        "::1:80", "unix:/tmp/socket", "a b:80"}) {
    const auto server = ControlServer::Start(address, &service);
    EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument) << server.status();
    EXPECT_THAT(base::MessageOf(server.status()), HasSubstr("expected host:port"));
    ControlClient client(address, kLong);
    const absl::Status status = client.Drain(true);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(base::MessageOf(status), HasSubstr("expected host:port"));
  }
}

TEST(ControlFailureTest, GarbageOnThePortHarmsNobody) {
  FakeService service;
  const auto server = Serve(&service);
  ControlClient client(server->address(), kLong);
  EXPECT_TRUE(client.Drain(true).ok());
  base::PhiloxStream random(72, 0);
  std::vector<int> fds;
  for (int round = 0; round < 40; ++round) {
    const int fd = ConnectTo(server->address());
    std::vector<uint32_t> bytes(1 + random.NextBelow(300));
    for (uint32_t& word : bytes) word = random.Next32();
    if (round % 4 == 0) bytes[0] = 0;           // one segment, of a random size
    if (round % 4 == 1) bytes.assign(200, 0);   // many empty messages
    if (round % 4 == 2) bytes[0] = 0x7fffffff;  // very many segments
    (void)send(fd, bytes.data(), bytes.size() * 4, MSG_NOSIGNAL);
    if (round % 3 == 0) {
      close(fd);  // in the middle of it
    } else {
      fds.push_back(fd);
    }
    EXPECT_TRUE(client.Drain(true).ok());
    EXPECT_TRUE(ControlClient(server->address(), kLong).Drain(true).ok());
  }
  for (const int fd : fds) close(fd);
  EXPECT_EQ(service.calls().size(), 81u);
}

TEST(ControlFailureTest, ALackOfFileDescriptorsPasses) {
  FakeService service;
  const auto server = Serve(&service);
  accepts_to_fail = 3;
  ControlClient client(server->address(), kLong);
  const absl::Status status = client.Drain(true);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(accepts_to_fail, 0);
  accepts_to_fail = 1000;  // and a server may end while it waits
}

}  // namespace
}  // namespace sounder::wire

// In place of the C library's: the event loop's calls come here, and fail while they are to fail.
extern "C" int accept4(int fd, sockaddr* address, socklen_t* length, int flags) {
  int left = sounder::wire::accepts_to_fail;
  while (left > 0) {
    if (!sounder::wire::accepts_to_fail.compare_exchange_weak(left, left - 1)) continue;
    errno = EMFILE;
    return -1;
  }
  return static_cast<int>(syscall(SYS_accept4, fd, address, length, flags));
}
