#include "gpu_worker/ops/top_k.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace sounder::gpu_worker {
namespace {

using testing::ElementsAre;

std::vector<int32_t> Tokens(const std::vector<float>& logits, int k) {
  std::vector<int32_t> tokens;
  for (const TokenLogit& best : TopK(logits, k)) tokens.push_back(best.token);
  return tokens;
}

TEST(TopKTest, BestFirstAndEqualOnesById) {
  EXPECT_THAT(Tokens({1, 3, 2, 3, -1}, 3), ElementsAre(1, 3, 2));
  EXPECT_THAT(Tokens({5, 5, 5, 5}, 2), ElementsAre(0, 1));
  EXPECT_THAT(Tokens({0, -0.0f}, 2), ElementsAre(0, 1));
}

TEST(TopKTest, MoreThanThereAreAndNone) {
  EXPECT_THAT(Tokens({1, 2}, 7), ElementsAre(1, 0));
  EXPECT_THAT(Tokens({1, 2}, 0), ElementsAre());
  EXPECT_THAT(Tokens({}, 3), ElementsAre());
}

TEST(TopKTest, NanNeverWins) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_THAT(Tokens({nan, -7, nan, infinity, -infinity}, 5), ElementsAre(3, 1, 0, 2, 4));
  EXPECT_EQ(ArgMax(std::vector<float>{nan, -7}).token, 1);
  EXPECT_EQ(ArgMax(std::vector<float>{nan, nan}).token, 0);
}

TEST(TopKTest, ArgMaxIsTheFirstOfTopK) {
  const std::vector<float> logits = {-3, 8, 1, 8, 2};
  EXPECT_EQ(ArgMax(logits).token, 1);
  EXPECT_EQ(ArgMax(logits).logit, 8);
}

}  // namespace
}  // namespace sounder::gpu_worker
