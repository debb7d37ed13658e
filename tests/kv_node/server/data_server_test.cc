// The data server alone: on which thread it works, what it counts, and what it tells.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "common/base/thread_executor.h"
#include "common/base/virtual_executor.h"
#include "tests/kv_node/server/server_driver.h"

namespace sounder::kv_node {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

class DataServerTest : public testing::Test {
 protected:
  void RunFor(base::Duration duration) {
    bool over = false;
    executor_.RunAt(executor_.clock().Now() + duration, [&over] { over = true; });
    executor_.RunUntil([&over] { return over; });
  }

  base::VirtualExecutor executor_{1};
  ServerDriver driver_{&executor_};
  std::shared_ptr<Session> session_ = driver_.Open(SessionDriver::Spec(1));
};

TEST_F(DataServerTest, TheTransportsThreadTouchesNoSession) {
  driver_.Append({SessionDriver::Item(*session_, 1, 0, 0, 20)});
  driver_.Attend({SessionDriver::Query(*session_, 0, 0, {0, 0})});
  EXPECT_EQ(session_->Info().applied_sequence, 0u);
  EXPECT_TRUE(driver_.transport.Take().empty());
  RunFor(milliseconds(1));
  EXPECT_EQ(session_->Info().applied_sequence, 1u);
  EXPECT_EQ(driver_.transport.Take().size(), 2u);
}

TEST(DataServerStopTest, WhatWasTakenBeforeIsAnswered) {
  auto executor = std::make_unique<base::ThreadExecutor>(2, "stop");
  ServerDriver driver(executor.get());
  const auto session = driver.Open(SessionDriver::Spec(1));
  for (uint64_t sequence = 1; sequence <= 50; ++sequence) {
    const auto first = static_cast<base::Position>(20 * (sequence - 1));
    driver.Append({SessionDriver::Item(*session, sequence, 1, first, 20)});
    driver.Attend({SessionDriver::Query(*session, sequence, 1, {0, first}, true)});
  }
  driver.server.Stop();
  driver.Attend({SessionDriver::Query(*session, 0, 0, {0, 0})});  // too late: dropped
  driver.map.CloseAll(absl::UnavailableError("the node is shutting down"));
  executor.reset();
  std::vector<transport::Message> answers = driver.transport.Take();
  EXPECT_EQ(answers.size(), 100u);
  for (transport::Message& answer : answers) {
    if (wire::DecodeEnvelope(answer)->kind != wire::MessageKind::kAppendReply) continue;
    const absl::Status status = wire::DecodeAppendReply(std::move(answer))->items[0].status;
    EXPECT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
  }
}

}  // namespace
}  // namespace sounder::kv_node
