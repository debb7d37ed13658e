#include "common/policy/retry.h"

#include <gtest/gtest.h>

#include "common/base/philox.h"

namespace sounder::policy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(RetryDelay, FollowsTheAdviceWithJitter) {
  base::PhiloxStream random(3, 0);
  base::Duration least = seconds(9);
  base::Duration most{};
  for (int i = 0; i < 1000; ++i) {
    const auto delay = RetryDelay(1, milliseconds(20), seconds(1), random.Next64());
    ASSERT_TRUE(delay.has_value());
    least = std::min(least, *delay);
    most = std::max(most, *delay);
  }
  EXPECT_GE(least, milliseconds(20));
  EXPECT_LT(least, milliseconds(21));
  EXPECT_LT(most, milliseconds(30));
  EXPECT_GT(most, milliseconds(29));
}

TEST(RetryDelay, StaysWithinTheDeadline) {
  EXPECT_FALSE(RetryDelay(1, milliseconds(20), milliseconds(20), 0).has_value());
  EXPECT_TRUE(RetryDelay(1, milliseconds(20), milliseconds(21), 0).has_value());
  EXPECT_FALSE(RetryDelay(1, milliseconds(20), milliseconds(21), 9'999'999).has_value());
  EXPECT_FALSE(RetryDelay(1, milliseconds(20), base::Duration(-1), 0).has_value());
}

TEST(RetryDelay, GrowsAndEnds) {
  for (int tries = 1; tries <= kMaxRetries; ++tries) {
    EXPECT_EQ(RetryDelay(tries, base::Duration(1), seconds(60), 0),
              milliseconds(int64_t{1} << (tries - 1)));
  }
  EXPECT_EQ(RetryDelay(3, milliseconds(10), seconds(60), 0), milliseconds(40));
  EXPECT_FALSE(RetryDelay(kMaxRetries + 1, base::Duration(1), seconds(60), 0).has_value());
  EXPECT_EQ(RetryDelay(1, std::chrono::hours(1), seconds(60), 0), kMaxRetryAfter)
      << "bounded, whatever the node says";
}

}  // namespace
}  // namespace sounder::policy
