// The control plane over TCP on the loopback interface, with a service that behaves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netdb.h>

#include <chrono>
#include <thread>

#include "common/base/absl_text.h"
#include "common/wire/control_client.h"
#include "common/wire/control_server.h"
#include "tests/common/wire/fake_service.h"

namespace sounder::wire {
namespace {

using testing::HasSubstr;

constexpr base::Duration kLong = std::chrono::seconds(30);

void GiveValues(FakeService* service, uint64_t seed) {
  base::PhiloxStream random(seed, 0);
  service->info = RandomInfo(random);
  service->list = {RandomInfo(random), RandomInfo(random), RandomInfo(random)};
  service->node = RandomNodeStatus(random);
}

std::unique_ptr<ControlServer> Serve(FakeService* service, const std::string& at = "127.0.0.1:0") {
  auto server = ControlServer::Start(at, service);
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

class ControlModesTest : public testing::TestWithParam<FakeService::Mode> {};
INSTANTIATE_TEST_SUITE_P(Modes, ControlModesTest,
                         testing::Values(FakeService::Mode::kInline, FakeService::Mode::kThread));

TEST_P(ControlModesTest, EveryCallArrivesWithItsArgumentsAndBringsItsAnswer) {
  FakeService service(GetParam());
  GiveValues(&service, 61);
  const auto server = Serve(&service);
  ControlClient client(server->address(), kLong);
  EXPECT_EQ(client.address(), server->address());
  base::PhiloxStream random(61, 1);
  const SessionSpec spec = RandomSpec(random);

  const std::vector<std::string> ends = CallEverything(&client, spec);
  std::string list;
  for (const SessionInfo& each : service.list) list += Describe(each);
  EXPECT_THAT(ends, testing::ElementsAre("4096 1024", "0 ", "0 ", "0 ", Describe(service.info),
                                         Describe(service.info), list, "0 ", "0 ", "0 ", "0 ",
                                         Describe(service.node)));
  const std::string id = base::SessionId{1, 2}.ToString();
  EXPECT_THAT(
      service.calls(),
      testing::ElementsAre("open" + Describe(spec), "close " + id + " 3 4 9",
                           "fork " + id + " 3 4 9 77 " + base::SessionId{5, 6}.ToString() + " 7 80",
                           "truncate " + id + " 3 4 9 78", "adopt " + id + " 3 9 81",
                           "describe " + id + " 3 9 alive", "list", "pin " + id + " 79 1",
                           "spill " + id, "load " + id, "drain on", "status"));
}

TEST_P(ControlModesTest, ErrorsCarryTheirCodeAndMessageAndNameTheNode) {
  FakeService service(GetParam());
  GiveValues(&service, 62);
  const auto server = Serve(&service);
  ControlClient client(server->address(), kLong);
  base::PhiloxStream random(62, 1);
  const SessionSpec spec = RandomSpec(random);
  for (const absl::StatusCode code :
       {absl::StatusCode::kNotFound, absl::StatusCode::kDeadlineExceeded,
        absl::StatusCode::kUnimplemented, absl::StatusCode::kUnauthenticated}) {
    service.SetStatus(absl::Status(code, "because of this"));
    for (const std::string& end : CallEverything(&client, spec)) {
      EXPECT_EQ(end, absl::StrCat(static_cast<int>(code), " node ", server->address(),
                                  ": because of this"));
    }
  }
  EXPECT_EQ(service.calls().size(), 48u);
}

TEST(ControlTest, TheServerRefusesASpecItself) {
  FakeService service;
  const auto server = Serve(&service);
  ControlClient client(server->address(), kLong);
  base::PhiloxStream random(63, 0);
  SessionSpec spec = RandomSpec(random);
  spec.protocol_version = 7;
  const absl::Status status = client.Open(spec).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(base::MessageOf(status), HasSubstr("the worker speaks version 7, this node speaks"));
  EXPECT_THAT(base::MessageOf(status), HasSubstr(server->address()));
  spec.protocol_version = kProtocolVersion;
  spec.model.head_dim = 7;
  EXPECT_EQ(client.Open(spec).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(service.calls().empty());
}

TEST(ControlTest, LongMessagesAndManySessions) {
  FakeService service;
  GiveValues(&service, 64);
  base::PhiloxStream random(64, 1);
  while (service.list.size() < 2000) service.list.push_back(RandomInfo(random));
  const auto server = Serve(&service);
  ControlClient client(server->address(), kLong);
  const auto list = client.List();
  ASSERT_TRUE(list.ok()) << list.status();
  ASSERT_EQ(list->size(), 2000u);
  EXPECT_EQ(Describe(list->back()), Describe(service.list.back()));
  service.SetStatus(absl::InternalError(std::string(100000, 'x')));
  EXPECT_LT(base::MessageOf(client.Drain(true)).size(), 1000u);
}

// Several threads share a client, several clients a server.
TEST(ControlTest, ConcurrentCalls) {
  constexpr int kThreads = 4;
  constexpr int kCalls = 50;
  FakeService service(FakeService::Mode::kInline);
  const auto server = Serve(&service);
  ControlClient shared(server->address(), kLong);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      ControlClient own(server->address(), kLong);
      for (int i = 0; i < kCalls; ++i) {
        const SessionOp op{{{7, static_cast<uint64_t>(t)}, 0}, static_cast<uint64_t>(i)};
        EXPECT_TRUE((i % 2 == 0 ? shared : own).Close(op).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::vector<std::string> calls = service.calls();
  ASSERT_EQ(calls.size(), size_t{kThreads * kCalls});
  for (int t = 0; t < kThreads; ++t) {
    for (int i = 0; i < kCalls; ++i) {
      const std::string name = absl::StrCat(
          "close ", base::SessionId{7, static_cast<uint64_t>(t)}.ToString(), " 0 ", i, " 0");
      EXPECT_EQ(std::count(calls.begin(), calls.end(), name), 1) << name;
    }
  }
}

TEST(ControlTest, ListensAtTheAddressItSays) {
  FakeService service;
  const auto picked = Serve(&service);
  EXPECT_THAT(picked->address(), testing::MatchesRegex("127\\.0\\.0\\.1:[0-9]+"));
  EXPECT_THAT(picked->address(), testing::Not(testing::EndsWith(":0")));
}

TEST(ControlTest, ListensAtAName) {
  addrinfo* found = nullptr;
  if (getaddrinfo("localhost", nullptr, nullptr, &found) != 0) {
    GTEST_SKIP() << "this machine does not know the name localhost";
  }
  freeaddrinfo(found);
  FakeService service;
  const auto named = Serve(&service, "localhost:0");
  ASSERT_NE(named, nullptr);
  EXPECT_THAT(named->address(), testing::StartsWith("localhost:"));
  EXPECT_TRUE(ControlClient(named->address(), kLong).Drain(true).ok());
}

}  // namespace
}  // namespace sounder::wire
