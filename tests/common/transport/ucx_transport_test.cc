// What the conformance suite cannot ask of every transport: hostile bytes, and UCX's own settings.
#include "common/transport/ucx_transport.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <set>
#include <thread>

#include "common/base/check.h"
#include "common/transport/address.h"
#include "common/transport/ucx_strays.h"
#include "tests/conformance/transport/world.h"

namespace sounder::transport {
namespace {

// A listening transport that sends every message back, and a client on the same engine.
class UcxTransportTest : public testing::Test {
 protected:
  void Start(UcxOptions options) {
    options.linger = std::chrono::milliseconds(200);
    engine_ = MakeUcxEngine(std::move(options));
    server_ = std::make_unique<UcxTransport>(engine_);
    server_events_.on_message = [server = server_.get()](ConnectionId connection,
                                                         Message& message) {
      server->Send(connection,
                   {message.header, memory::AlignedBuffer::CopyOf(message.payload.bytes())},
                   SendMode::kAuto, nullptr);
    };
    server_events_.on_accept = [server = server_.get(), this](ConnectionId connection) {
      if (greet_) server->Send(connection, PatternMessage(1, 1, 1), SendMode::kEager, nullptr);
    };
    ASSERT_TRUE(server_->Start(&server_events_).ok());
    address_ = *server_->Listen("127.0.0.1:0");
    client_ = std::make_unique<UcxTransport>(engine_);
    ASSERT_TRUE(client_->Start(&client_events_).ok());
  }
  void ExpectEcho() {
    const size_t before = client_events_.message_count();
    const auto connection = client_->Connect(address_);
    ASSERT_TRUE(connection.ok());
    client_->Send(*connection, PatternMessage(9, 70000, 1), SendMode::kAuto, nullptr);
    ASSERT_TRUE(pulse_.WaitFor([&] { return client_events_.message_count() == before + 1; }));
    client_->Close(*connection);
    ASSERT_TRUE(pulse_.WaitFor([&] { return client_events_.IsClosed(*connection); }));
  }

  std::atomic<bool> greet_ = false;  // a message for everybody who is accepted
  Pulse pulse_;
  Recorder server_events_{&pulse_}, client_events_{&pulse_};
  std::shared_ptr<UcxEngine> engine_;
  std::unique_ptr<UcxTransport> server_, client_;
  std::string address_;
};

int RunVandal(const char* fault, const HostPort& address) {
  std::string program = SOUNDER_TRANSPORT_VANDAL, argument = fault, host = address.host,
              port = std::to_string(address.port);
  char* arguments[] = {program.data(), argument.data(), host.data(), port.data(), nullptr};
  pid_t pid = -1;
  CHECK(::posix_spawn(&pid, program.c_str(), nullptr, nullptr, arguments, environ) == 0);
  int status = -1;
  CHECK(::waitpid(pid, &status, 0) == pid);
  return status;
}

TEST_F(UcxTransportTest, MalformedFramesCloseTheirConnection) {
  UcxOptions options{.tls = "tcp"};
  options.connect_timeout = std::chrono::seconds(1);  // what ends "no_hello"
  ASSERT_NO_FATAL_FAILURE(Start(options));
  greet_ = true;
  const HostPort address = *ParseHostPort(address_);
  const struct {
    const char* fault;
    absl::StatusCode code;
    const char* says;
  } cases[] = {
      {"short", absl::StatusCode::kInvalidArgument, "5 bytes"},
      {"magic", absl::StatusCode::kInvalidArgument, "20544547"},
      {"version", absl::StatusCode::kFailedPrecondition, "version 77"},
      {"kind", absl::StatusCode::kInvalidArgument, "kind 9"},
      {"lane", absl::StatusCode::kInvalidArgument, "mode 3"},
      {"second_hello", absl::StatusCode::kInvalidArgument, "hello"},
      {"goodbye", absl::StatusCode::kInvalidArgument, "goodbye"},
      {"header", absl::StatusCode::kInvalidArgument, "1025 bytes"},
      {"gap", absl::StatusCode::kResourceExhausted, "ahead of one that does not come"},
      {"payload", absl::StatusCode::kInvalidArgument, "268435457 bytes"},
  };
  for (const auto& each : cases) {
    EXPECT_EQ(RunVandal(each.fault, address), 0) << each.fault;
    const auto accepted = server_events_.accepted();
    ASSERT_TRUE(pulse_.WaitFor([&] { return server_events_.closed_count() == accepted.size(); }))
        << each.fault;
    const absl::Status reason = server_events_.CloseReason(accepted.back());
    EXPECT_EQ(reason.code(), each.code) << each.fault << ": " << reason;
    EXPECT_NE(std::string(reason.message()).find(each.says), std::string::npos) << reason;
  }
  const size_t accepted = server_events_.accepted().size();
  EXPECT_EQ(accepted, std::size(cases));
  EXPECT_EQ(RunVandal("no_hello", address), 0);
  EXPECT_EQ(server_events_.accepted().size(), accepted) << "without a hello nobody is announced";
  EXPECT_EQ(server_events_.message_count(), 0u);
  greet_ = false;
  ExpectEcho();
}

int ConnectPlainly(uint16_t port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval patience{.tv_sec = 0, .tv_usec = 200000};
  CHECK(::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) == 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  return fd;
}

TEST_F(UcxTransportTest, PlainTcpGarbageDoesNoHarm) {
  ASSERT_NO_FATAL_FAILURE(Start({.tls = "tcp"}));
  const uint16_t port = ParseHostPort(address_)->port;
  // What strays to a port: probes, HTTP, SSH, TLS. (More than 2 KiB at once, or a length that
  // lies, is too much for UCX 1.13: its ports belong on a trusted network, see DESIGN.md.)
  const std::string garbage[] = {"",
                                 "x",
                                 "GET /metrics HTTP/1.1\r\nHost: node:7401\r\n\r\n",
                                 "SSH-2.0-OpenSSH_9.2p1\r\n",
                                 "\x16\x03\x01\x02" + std::string(500, '\x01'),
                                 std::string(2000, 'A')};
  std::vector<int> open;
  for (const std::string& bytes : garbage) {
    for (const bool stay : {false, true}) {
      const int fd = ConnectPlainly(port);
      (void)::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (stay) {
        open.push_back(fd);
      } else {
        ::close(fd);
      }
    }
    ASSERT_NO_FATAL_FAILURE(ExpectEcho()) << bytes.size();
  }
  for (const int fd : open) ::close(fd);
  ASSERT_NO_FATAL_FAILURE(ExpectEcho());
  EXPECT_EQ(server_events_.accepted().size(), std::size(garbage) + 1);
}

bool HungUp(int fd) {
  pollfd entry{fd, POLLRDHUP, 0};
  return ::poll(&entry, 1, 0) > 0;
}

// On the listener's port and on UCX's own, where it lets whoever says nothing stay for ever.
TEST_F(UcxTransportTest, StraysAreEndedAndConnectionsAreNot) {
  UcxOptions options{.tls = "tcp"};
  options.net_devices = "lo";
  options.connect_timeout = std::chrono::milliseconds(300);
  options.connections_max = 40;
  std::atomic<size_t> told = 0;
  options.refused = [&](const std::string& cause, const std::string& what) {
    EXPECT_EQ(cause, "stray") << what;
    ++told;
  };
  const std::set<uint16_t> before = ListeningPorts();
  ASSERT_NO_FATAL_FAILURE(Start(options));
  const auto connection = client_->Connect(address_);
  ASSERT_TRUE(connection.ok());
  client_->Send(*connection, PatternMessage(9, 100, 1), SendMode::kAuto, nullptr);
  ASSERT_TRUE(pulse_.WaitFor([&] { return client_events_.message_count() == 1; }));
  std::vector<int> strays;
  size_t ports = 0;
  for (const uint16_t port : ListeningPorts()) {
    if (before.contains(port)) continue;
    ++ports;
    for (int i = 0; i < 25; ++i) strays.push_back(ConnectPlainly(port));
  }
  EXPECT_EQ(ports, 2u);
  size_t ended = 0;
  while (ended < 10) ended += server_->CloseStrays();  // of 50, 40 may wait
  while (ended < 50) ended += server_->CloseStrays();
  EXPECT_EQ(ended, 50u);
  EXPECT_EQ(told, 50u);
  for (const int fd : strays) {
    while (!HungUp(fd)) std::this_thread::yield();
    ::close(fd);
  }
  EXPECT_FALSE(client_events_.IsClosed(*connection));
  client_->Send(*connection, PatternMessage(9, 100, 2), SendMode::kAuto, nullptr);
  ASSERT_TRUE(pulse_.WaitFor([&] { return client_events_.message_count() == 2; }));
}

TEST_F(UcxTransportTest, ConnectionsBeyondTheBoundAreRefused) {
  UcxOptions options{.tls = "tcp"};
  options.connections_max = 2;
  std::atomic<int> refused = 0;
  options.refused = [&](const std::string& cause, const std::string&) {
    EXPECT_EQ(cause, "limit");
    ++refused;
  };
  ASSERT_NO_FATAL_FAILURE(Start(options));
  std::vector<ConnectionId> open;
  for (size_t i = 1; i <= 2; ++i) {
    open.push_back(*client_->Connect(address_));
    client_->Send(open.back(), PatternMessage(9, 100, 1), SendMode::kAuto, nullptr);
    ASSERT_TRUE(pulse_.WaitFor([&] { return client_events_.message_count() == i; }));
  }
  for (int i = 0; i < 5; ++i) {
    const auto third = client_->Connect(address_);
    ASSERT_TRUE(third.ok());
    ASSERT_TRUE(pulse_.WaitFor([&] { return client_events_.IsClosed(*third); }));
    EXPECT_EQ(client_events_.CloseReason(*third).code(), absl::StatusCode::kUnavailable)
        << client_events_.CloseReason(*third);
  }
  EXPECT_EQ(refused, 5);
  client_->Close(open[0]);
  ASSERT_TRUE(pulse_.WaitFor([&] { return server_events_.closed_count() == 1; }));
  ASSERT_NO_FATAL_FAILURE(ExpectEcho());
}

TEST_F(UcxTransportTest, RdmaThatIsRequiredAndMissingIsAnError) {
  UcxOptions options{.tls = "tcp"};
  options.require_rdma = true;
  ASSERT_NO_FATAL_FAILURE(Start(options));
  const auto connection = client_->Connect(address_);
  ASSERT_TRUE(connection.ok());
  client_->Send(*connection, PatternMessage(1, 10, 1), SendMode::kAuto, client_events_.Done());
  ASSERT_TRUE(pulse_.WaitFor([&] { return client_events_.IsClosed(*connection); }));
  const absl::Status reason = client_events_.CloseReason(*connection);
  // Either side may have cut the connection first; who did says why.
  EXPECT_TRUE(reason.code() == absl::StatusCode::kFailedPrecondition ||
              reason.code() == absl::StatusCode::kUnavailable)
      << reason;
  EXPECT_EQ(client_events_.done_count(), 1);
  EXPECT_EQ(server_events_.message_count(), 0u);
}

TEST_F(UcxTransportTest, Ipv6IsRefused) {
  ASSERT_NO_FATAL_FAILURE(Start({.tls = "tcp"}));
  EXPECT_EQ(client_->Listen("[::1]:0").status().code(), absl::StatusCode::kUnimplemented);
  const auto connection = client_->Connect("[::1]:7401");
  ASSERT_TRUE(connection.ok());
  ASSERT_TRUE(pulse_.WaitFor([&] { return client_events_.IsClosed(*connection); }));
  EXPECT_EQ(client_events_.CloseReason(*connection).code(), absl::StatusCode::kUnimplemented);
}

TEST_F(UcxTransportTest, UnknownTransportsAreRefusedAtStart) {
  UcxTransport transport(UcxOptions{.tls = "carrier_pigeon"});
  const absl::Status status = transport.Start(&client_events_);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(std::string(status.message()).find("carrier_pigeon"), std::string::npos) << status;
}

TEST_F(UcxTransportTest, RendezvousBeyondTheReceiveBudgetWaits) {
  UcxOptions options{.tls = "tcp"};
  options.receive_bytes_max = 3 << 20;
  ASSERT_NO_FATAL_FAILURE(Start(options));
  const auto connection = client_->Connect(address_);
  ASSERT_TRUE(connection.ok());
  for (uint32_t i = 0; i < 20; ++i) {
    client_->Send(*connection, PatternMessage(4, 2 << 20, i), SendMode::kRendezvous,
                  client_events_.Done());
  }
  client_->Send(*connection, PatternMessage(4, 5 << 20, 20), SendMode::kRendezvous,
                client_events_.Done());  // more than the budget, alone
  ASSERT_TRUE(pulse_.WaitFor([&] { return server_events_.message_count() == 21; }));
  const auto messages = server_events_.TakeMessages();
  for (uint32_t i = 0; i < 20; ++i) {
    EXPECT_EQ(ComparePattern(messages[i].second, 4, 2 << 20, i), "");
  }
  ASSERT_TRUE(pulse_.WaitFor([&] { return client_events_.done_ok_count() == 21; }));
}

TEST_F(UcxTransportTest, TheEnvironmentWins) {
  ASSERT_EQ(::setenv("UCX_TLS", "tcp", 0), 0);
  Start({.tls = "carrier_pigeon"});
  ::unsetenv("UCX_TLS");
  ASSERT_NO_FATAL_FAILURE(ExpectEcho());
}

TEST_F(UcxTransportTest, CrashSignalsStayWithTheProgram) {
  ASSERT_NO_FATAL_FAILURE(Start({.tls = "tcp"}));
  for (const int signal : {SIGILL, SIGSEGV, SIGBUS, SIGFPE}) {
    struct sigaction action {};
    ASSERT_EQ(::sigaction(signal, nullptr, &action), 0);
    Dl_info owner{};  // the sanitizers take some of them
    if (::dladdr(reinterpret_cast<void*>(action.sa_handler), &owner) == 0) continue;
    EXPECT_EQ(std::string(owner.dli_fname).find("libucs"), std::string::npos) << signal;
  }
}

TEST_F(UcxTransportTest, PortsOfTheDataConnectionsMayBeChosen) {
  UcxOptions options{.tls = "tcp"};
  options.net_devices = "lo";
  options.port_range = "21000-21400";
  ASSERT_NO_FATAL_FAILURE(Start(options));
  int chosen = 0;
  for (int fd = 3; fd < 1024; ++fd) {
    int listening = 0;
    socklen_t length = sizeof(listening);
    if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) != 0) continue;
    sockaddr_storage address{};
    length = sizeof(address);
    if (listening == 0) continue;
    ASSERT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length), 0);
    const auto parsed = ParseHostPort(FormatSocketAddress(address));
    if (!parsed.ok() || FormatSocketAddress(address) == address_) continue;
    EXPECT_GE(parsed->port, 21000) << FormatSocketAddress(address);
    EXPECT_LE(parsed->port, 21400) << FormatSocketAddress(address);
    ++chosen;
  }
  EXPECT_EQ(chosen, 1);
  ASSERT_NO_FATAL_FAILURE(ExpectEcho());
}

}  // namespace
}  // namespace sounder::transport
