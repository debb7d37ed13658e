#include "common/policy/shared_quota.h"

#include <gtest/gtest.h>

#include <map>

#include "common/base/philox.h"

namespace sounder::policy {
namespace {

TEST(SharedQuota, AFlowHoldsNoMoreThanIsLeftFree) {
  SharedQuota quota(100);
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(quota.Take(1, 1)) << i;
  EXPECT_FALSE(quota.Take(1, 1)) << "half of it";
  for (int i = 0; i < 25; ++i) EXPECT_TRUE(quota.Take(2, 1)) << i;
  EXPECT_FALSE(quota.Take(2, 1));
  EXPECT_TRUE(quota.Take(3, 12)) << "whoever comes later finds room";
  EXPECT_EQ(quota.held(), 87u);
  quota.Give(1, 50);
  EXPECT_EQ(quota.held_by(1), 0u);
  EXPECT_TRUE(quota.Take(2, 1));
}

TEST(SharedQuota, AllAtOnceWhereNobodyElseIs) {
  SharedQuota quota(100);
  EXPECT_FALSE(quota.Take(1, 101));
  EXPECT_TRUE(quota.Take(1, 100));
  EXPECT_FALSE(quota.Take(2, 1));
  quota.Give(1, 100);
  EXPECT_TRUE(quota.Take(2, 1));
}

TEST(SharedQuota, GreedyFlowsShareAndTheLimitHolds) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    base::PhiloxStream random(seed, 0);
    SharedQuota quota(1000);
    std::map<FlowId, uint64_t> held;
    uint64_t total = 0;
    for (int i = 0; i < 5000; ++i) {
      const FlowId flow = 1 + random.NextBelow(4);
      const uint64_t amount = 1 + random.NextBelow(20);
      if (random.NextBelow(5) == 0) {
        quota.Give(flow, held[flow]);
        total -= held[flow];
        held[flow] = 0;
      } else if (quota.Take(flow, amount)) {
        held[flow] += amount;
        total += amount;
        EXPECT_LE(held[flow], 1000 - (total - amount)) << "took more than was free";
      }
      ASSERT_EQ(quota.held(), total);
      ASSERT_LE(total, 1000u - 1000u / 6) << "nothing is left for a fifth";
    }
  }
}

TEST(SharedQuotaDeathTest, NobodyGivesWhatItDoesNotHold) {
  SharedQuota quota(10);
  EXPECT_TRUE(quota.Take(1, 3));
  EXPECT_DEATH(quota.Give(2, 1), "flow 2");
  EXPECT_DEATH(quota.Give(1, 4), "flow 1");
}

}  // namespace
}  // namespace sounder::policy
