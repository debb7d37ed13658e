#include "common/config/log_throttle.h"

#include <gtest/gtest.h>

namespace sounder::config {
namespace {

base::Time At(int64_t seconds) { return base::Time(std::chrono::seconds(seconds)); }

TEST(LogThrottleTest, ABurstPerCauseAndThenACount) {
  LogThrottle throttle(2, std::chrono::seconds(10));
  EXPECT_EQ(throttle.Admit("a", "one", At(0)), "one");
  EXPECT_EQ(throttle.Admit("a", "two", At(1)), "two");
  EXPECT_EQ(throttle.Admit("a", "three", At(2)), std::nullopt);
  EXPECT_EQ(throttle.Admit("a", "four", At(9)), std::nullopt);
  EXPECT_EQ(throttle.Admit("b", "other", At(9)), "other") << "causes do not share";
  EXPECT_EQ(throttle.Admit("a", "five", At(10)), "five (2 more of this cause were not logged)");
  EXPECT_EQ(throttle.Admit("a", "six", At(11)), "six");
  EXPECT_EQ(throttle.Admit("a", "seven", At(12)), std::nullopt);
}

}  // namespace
}  // namespace sounder::config
