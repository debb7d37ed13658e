// Index builds in their lane: how many at once, whose turn it is, and what they may delay.
#include "kv_node/session/index_lane.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "tests/kv_node/session/busy_executor.h"
#include "tests/kv_node/session/session_driver.h"

namespace sounder::kv_node {
namespace {

class IndexLaneTest : public testing::Test {
 protected:
  base::VirtualExecutor time_{1};
  BusyExecutor executor_{&time_};
};

TEST_F(IndexLaneTest, OwnersTakeTurns) {
  IndexLane lane(&executor_, {.builds = 1});
  std::string order;
  const int owners[3] = {};
  for (int build = 0; build < 5; ++build) {
    lane.Run(&owners[0], 1, [&](Scratch&) { order += 'a'; });
  }
  for (int build = 0; build < 2; ++build) {
    lane.Run(&owners[1], 1, [&](Scratch&) { order += 'b'; });
  }
  lane.Run(&owners[2], 1, [&](Scratch&) { order += 'c'; });
  EXPECT_EQ(executor_.waiting(), 1u);
  executor_.GoOn();
  EXPECT_EQ(order, "abcabaaa");
  lane.Run(&owners[0], 1, [&](Scratch&) { order += 'd'; });  // an idle lane starts again
  executor_.GoOn();
  EXPECT_EQ(order, "abcabaaad");
}

TEST_F(IndexLaneTest, NoMoreAtOnceThanAllowedAndOtherWorkBetweenThem) {
  IndexLane lane(&executor_, {.builds = 2});
  int built = 0;
  for (int build = 0; build < 10; ++build) lane.Run(this, 1, [&](Scratch&) { ++built; });
  EXPECT_EQ(executor_.waiting(), 2u);
  int built_before = -1;
  executor_.Run([&] { built_before = built; });
  executor_.GoOn();
  EXPECT_EQ(built_before, 2);
  EXPECT_EQ(built, 10);
}

TEST_F(IndexLaneTest, WorkingMemoryIsKept) {
  IndexLane lane(&executor_, {.builds = 1});
  std::set<Scratch*> used;
  for (int build = 0; build < 10; ++build) {
    lane.Run(this, 1, [&](Scratch& scratch) { used.insert(&scratch); });
  }
  executor_.GoOn();
  EXPECT_EQ(used.size(), 1u);
}

TEST_F(IndexLaneTest, RowsThatWaitAreCounted) {
  IndexLane lane(&executor_, {.builds = 1, .backlog_rows = 100});
  EXPECT_TRUE(lane.CaughtUp());
  for (int build = 0; build < 3; ++build) lane.Run(this, 50, [](Scratch&) {});
  EXPECT_FALSE(lane.CaughtUp());
  executor_.Step();
  EXPECT_TRUE(lane.CaughtUp()) << "100 rows wait";
}

TEST_F(IndexLaneTest, ALaneMayGoBeforeItsBuilds) {
  int built = 0;
  {
    IndexLane lane(&executor_, {});
    for (int build = 0; build < 3; ++build) lane.Run(this, 50, [&](Scratch&) { ++built; });
  }
  executor_.GoOn();
  EXPECT_EQ(built, 3);
}

// A prompt of 400 segments and, behind it, a session of one: neither its exact nor its sampled
// attention waits for the prompt's indexes.
TEST_F(IndexLaneTest, ABacklogDelaysOtherSessionsByAFewBuilds) {
  SessionMap map({.index = {.builds = 1}}, &executor_);
  SessionDriver driver;
  const auto open = [&](uint64_t number) {
    EXPECT_TRUE(map.Open(SessionDriver::Spec(number)).ok());
    return *map.Find(SessionDriver::Spec(number).session.id);
  };
  const auto large = open(1);
  const auto small = open(2);
  ASSERT_TRUE(driver.Append(*large, driver.Item(*large, 1, 1, 0, 16 * 200)).status.ok());
  ASSERT_TRUE(driver.Append(*small, driver.Item(*small, 1, 1, 0, 16)).status.ok());
  const auto late = driver.Plan(*large, driver.Query(*large, 1, 1, {0, 16 * 200}, true));
  const auto plan = driver.Plan(*small, driver.Query(*small, 1, 1, {0, 16}, true));
  bool attended = false;
  executor_.Run([&] { attended = true; });
  EXPECT_LE(executor_.StepUntil([&] { return attended; }), 2);
  EXPECT_LE(executor_.StepUntil([&] { return plan->has_value(); }), 4) << "two indexes, two turns";
  ASSERT_TRUE(plan->has_value() && (*plan)->ok());
  EXPECT_FALSE(late->has_value());
  executor_.GoOn();
  EXPECT_TRUE(late->has_value() && (*late)->ok());
}

}  // namespace
}  // namespace sounder::kv_node
