#include "common/policy/liveness.h"

#include <gtest/gtest.h>

#include "common/base/philox.h"

namespace sounder::policy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Action = Heartbeat::Action;

constexpr HeartbeatOptions kOptions{.interval = seconds(2), .timeout = seconds(4)};
base::Time At(int64_t ms) { return base::Time(milliseconds(ms)); }

TEST(HeartbeatTest, SilenceIsProbedAndThenGivenUp) {
  Heartbeat heartbeat(At(0));
  EXPECT_EQ(heartbeat.Check(kOptions, At(0)), Action::kWait);
  EXPECT_EQ(heartbeat.due(), At(2000));
  EXPECT_EQ(heartbeat.Check(kOptions, At(1999)), Action::kWait);
  EXPECT_EQ(heartbeat.Check(kOptions, At(2000)), Action::kProbe);
  EXPECT_EQ(heartbeat.due(), At(4000)) << "it may have answered, and be silent again";
  EXPECT_EQ(heartbeat.Check(kOptions, At(4000)), Action::kWait) << "one probe is enough";
  EXPECT_EQ(heartbeat.due(), At(6000));
  EXPECT_EQ(heartbeat.Check(kOptions, At(5999)), Action::kWait);
  EXPECT_EQ(heartbeat.Check(kOptions, At(6000)), Action::kGiveUp);
  EXPECT_EQ(heartbeat.last_heard(), At(0));
}

TEST(HeartbeatTest, ASignOfLifeStartsAnew) {
  Heartbeat heartbeat(At(0));
  EXPECT_EQ(heartbeat.Check(kOptions, At(2000)), Action::kProbe);
  heartbeat.Heard(At(5900));
  EXPECT_EQ(heartbeat.Check(kOptions, At(6000)), Action::kWait);
  EXPECT_EQ(heartbeat.due(), At(7900));
  EXPECT_EQ(heartbeat.Check(kOptions, At(7900)), Action::kProbe);
  EXPECT_EQ(heartbeat.Check(kOptions, At(11900)), Action::kGiveUp);
}

// As after SIGSTOP and SIGCONT: the answer may lie in our own buffers.
TEST(HeartbeatTest, WhoStoodStillHimselfAsksAgain) {
  Heartbeat heartbeat(At(0));
  EXPECT_EQ(heartbeat.Check(kOptions, At(2000)), Action::kProbe);
  EXPECT_EQ(heartbeat.Check(kOptions, At(60000)), Action::kProbe);
  EXPECT_EQ(heartbeat.Check(kOptions, At(62000)), Action::kWait);
  EXPECT_EQ(heartbeat.Check(kOptions, At(64000)), Action::kGiveUp);
  Heartbeat punctual(At(0));
  EXPECT_EQ(punctual.Check(kOptions, At(2000)), Action::kProbe);
  EXPECT_EQ(punctual.Check(kOptions, At(6000)), Action::kGiveUp) << "late by half of the timeout";
}

TEST(HeartbeatTest, NoIntervalNoProbes) {
  Heartbeat heartbeat(At(0));
  EXPECT_EQ(heartbeat.Check({}, At(1000000)), Action::kWait);
  EXPECT_EQ(heartbeat.due(), base::kNever);
}

TEST(BackoffTest, DoublesUpToItsBoundAndJitterTakesUpToHalf) {
  const BackoffOptions options{.first = milliseconds(100), .most = milliseconds(1500)};
  const int64_t whole[] = {100, 200, 400, 800, 1500, 1500, 1500};
  for (int attempt = 0; attempt < 7; ++attempt) {
    EXPECT_EQ(BackoffDelay(options, attempt, 0), milliseconds(whole[attempt])) << attempt;
    EXPECT_EQ(BackoffDelay(options, attempt, 0.5), milliseconds(whole[attempt]) * 3 / 4);
  }
  base::PhiloxStream random(7, 0);
  for (int i = 0; i < 1000; ++i) {
    const int attempt = static_cast<int>(random.NextBelow(1 << 20));
    const base::Duration delay = BackoffDelay(options, attempt, random.NextUniform());
    EXPECT_GE(delay, milliseconds(attempt == 0 ? 50 : 100));
    EXPECT_LE(delay, options.most);
  }
  EXPECT_EQ(BackoffDelay({.first = seconds(9), .most = seconds(1)}, 0, 0), seconds(1));
}

}  // namespace
}  // namespace sounder::policy
