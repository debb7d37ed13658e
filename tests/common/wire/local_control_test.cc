#include "common/wire/local_control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <latch>
#include <memory>

#include "common/base/absl_text.h"
#include "common/base/thread_executor.h"
#include "common/base/virtual_executor.h"
#include "tests/common/wire/fake_service.h"

namespace sounder::wire {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

std::vector<std::string> Expected(const FakeService& service) {
  std::string list;
  for (const SessionInfo& each : service.list) list += Describe(each);
  return {"4096 1024", "0 ", "0 ", "0 ", Describe(service.info), Describe(service.info), list,
          "0 ",        "0 ", "0 ", "0 ", Describe(service.node)};
}

void GiveValues(FakeService* service) {
  base::PhiloxStream random(81, 0);
  service->info = RandomInfo(random);
  service->list = {RandomInfo(random), RandomInfo(random)};
  service->node = RandomNodeStatus(random);
}

TEST(LocalControlTest, EveryCallOnThreadsAndInVirtualTime) {
  base::PhiloxStream random(81, 1);
  const SessionSpec spec = RandomSpec(random);
  for (const FakeService::Mode mode : {FakeService::Mode::kInline, FakeService::Mode::kThread}) {
    FakeService service(mode);
    GiveValues(&service);
    base::ThreadExecutor executor(2, "local");
    LocalControl channel(
        "node-a", [&] { return &service; }, &executor, hours(1));
    EXPECT_EQ(channel.address(), "node-a");
    EXPECT_EQ(CallEverything(&channel, spec), Expected(service));
    EXPECT_EQ(service.calls()[0], "open" + Describe(spec));
    EXPECT_EQ(service.calls().size(), 12u);
  }
  FakeService service;
  GiveValues(&service);
  base::VirtualExecutor executor(1);
  const base::Time start = executor.clock().Now();
  LocalControl channel(
      "node-a", [&] { return &service; }, &executor, hours(1));
  EXPECT_EQ(CallEverything(&channel, spec), Expected(service));
  EXPECT_EQ(executor.clock().Now(), start) << "no call took time";
}

TEST(LocalControlTest, ErrorsNameTheNode) {
  FakeService service;
  service.SetStatus(absl::NotFoundError("no such session"));
  base::VirtualExecutor executor(2);
  LocalControl channel(
      "node-a", [&] { return &service; }, &executor, seconds(1));
  base::PhiloxStream random(82, 0);
  for (const std::string& end : CallEverything(&channel, RandomSpec(random))) {
    EXPECT_EQ(end, "5 node node-a: no such session");
  }
}

TEST(LocalControlTest, ANodeThatIsAway) {
  base::VirtualExecutor executor(3);
  FakeService service;
  ControlService* present = nullptr;
  LocalControl channel(
      "node-a", [&] { return present; }, &executor, seconds(1));
  const absl::Status away = channel.Drain(true);
  EXPECT_EQ(away.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(base::MessageOf(away), testing::HasSubstr("node node-a"));
  present = &service;  // asked for at every call
  EXPECT_TRUE(channel.Drain(true).ok());
  present = nullptr;
  EXPECT_EQ(channel.Status().status().code(), absl::StatusCode::kUnavailable);
}

TEST(LocalControlTest, ASilentServiceEndsAtTheDeadlineInVirtualTime) {
  FakeService service(FakeService::Mode::kHold);
  base::VirtualExecutor executor(4);
  LocalControl channel(
      "node-a", [&] { return &service; }, &executor, seconds(7));
  const base::Time start = executor.clock().Now();
  const absl::Status status = channel.Drain(true);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(base::MessageOf(status), "node node-a did not answer a control call within 7000 ms");
  EXPECT_EQ(executor.clock().Now() - start, seconds(7));
  service.Release();  // an answer that nobody waits for
}

TEST(LocalControlTest, AnAnswerThatTakesVirtualTime) {
  FakeService service(FakeService::Mode::kHold);
  base::VirtualExecutor executor(5);
  LocalControl channel(
      "node-a", [&] { return &service; }, &executor, seconds(7));
  executor.RunAt(executor.clock().Now() + seconds(3), [&] { service.Release(); });
  const base::Time start = executor.clock().Now();
  EXPECT_TRUE(channel.Drain(true).ok());
  EXPECT_EQ(executor.clock().Now() - start, seconds(3));
}

// A call that missed its deadline in the executor's queue runs when the channel is gone.
TEST(LocalControlTest, ALateCallDoesNotNeedItsChannel) {
  FakeService service;
  std::latch occupied(1), release(1);
  {
    base::ThreadExecutor executor(1, "local");
    executor.Run([&] {
      occupied.count_down();
      release.wait();
    });
    occupied.wait();
    auto channel = std::make_unique<LocalControl>(
        "node-a", [&] { return &service; }, &executor, milliseconds(5));
    EXPECT_EQ(channel->Drain(true).code(), absl::StatusCode::kDeadlineExceeded);
    channel = nullptr;
    release.count_down();
  }
  EXPECT_THAT(service.calls(), testing::ElementsAre("drain on"));
}

TEST(LocalControlTest, ConcurrentCalls) {
  FakeService service(FakeService::Mode::kThread);
  base::ThreadExecutor executor(2, "local");
  LocalControl channel(
      "node-a", [&] { return &service; }, &executor, hours(1));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) EXPECT_TRUE(channel.Drain(true).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(service.calls().size(), 200u);
}

}  // namespace
}  // namespace sounder::wire
