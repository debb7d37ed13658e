#include "common/policy/append_credit.h"

#include <gtest/gtest.h>

#include "common/base/philox.h"

namespace sounder::policy {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

AppendPressure Idle() {
  return {.backlog_rows = 0,
          .backlog_bound = 1000,
          .memory_free = 4096 * kMiB,
          .message_bytes_max = 512 * kMiB,
          .writers = 1};
}

TEST(AppendCredit, AnIdleNodeGrantsTheMost) {
  EXPECT_EQ(GrantAppendCredit(Idle()), kMaxAppendCredit);
}

TEST(AppendCredit, ShrinksWithTheBacklogAndGrowsAgain) {
  AppendPressure pressure = Idle();
  uint64_t before = kMaxAppendCredit + 1;
  for (pressure.backlog_rows = 0; pressure.backlog_rows <= 1000; pressure.backlog_rows += 100) {
    const uint64_t credit = GrantAppendCredit(pressure);
    EXPECT_LT(credit, before) << pressure.backlog_rows;
    before = credit;
  }
  EXPECT_EQ(before, kMinAppendCredit);
  pressure.backlog_rows = 1'000'000'000;
  EXPECT_EQ(GrantAppendCredit(pressure), kMinAppendCredit);
  pressure.backlog_rows = 500;
  EXPECT_EQ(GrantAppendCredit(pressure), kMaxAppendCredit / 2);
}

TEST(AppendCredit, WritersShareMemoryAndMessages) {
  AppendPressure pressure = Idle();
  pressure.writers = 16;
  EXPECT_EQ(GrantAppendCredit(pressure), 512 * kMiB / 2 / 16);
  pressure = Idle();
  pressure.memory_free = 20 * kMiB;
  EXPECT_EQ(GrantAppendCredit(pressure), 10 * kMiB);
  pressure.writers = 1000;
  EXPECT_EQ(GrantAppendCredit(pressure), kMinAppendCredit);
  pressure.memory_free = 0;
  EXPECT_EQ(GrantAppendCredit(pressure), kMinAppendCredit);
}

TEST(AppendCredit, StaysBetweenItsBoundsWhateverTheNodeSays) {
  base::PhiloxStream random(7, 0);
  for (int i = 0; i < 10000; ++i) {
    const AppendPressure pressure{
        static_cast<int64_t>(random.Next64() >> random.NextBelow(64)),
        static_cast<int64_t>(random.Next64() >> 1 >> random.NextBelow(63)),
        random.Next64() >> random.NextBelow(64), random.Next64() >> random.NextBelow(64),
        random.Next64() >> random.NextBelow(64)};
    const uint64_t credit = GrantAppendCredit(pressure);
    ASSERT_GE(credit, kMinAppendCredit);
    ASSERT_LE(credit, kMaxAppendCredit);
  }
}

TEST(AppendCredit, OneMessageMayAlwaysBeSent) {
  EXPECT_TRUE(MaySend(0, 100, 0));
  EXPECT_FALSE(MaySend(1, 100, 100));
  EXPECT_TRUE(MaySend(50, 50, 100));
  EXPECT_FALSE(MaySend(51, 50, 100));
  EXPECT_FALSE(MaySend(1, UINT64_MAX, 100));
}

}  // namespace
}  // namespace sounder::policy
