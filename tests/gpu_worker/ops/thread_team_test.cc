#include "gpu_worker/ops/thread_team.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace sounder::gpu_worker {
namespace {

TEST(ThreadTeamTest, EveryIterationRunsOnce) {
  for (const int size : {1, 2, 5}) {
    ThreadTeam team(size);
    ASSERT_EQ(team.size(), size);
    for (const int64_t iterations : {0, 1, 2, 7, 1000}) {
      for (const int members : {1, 2, 5, 9}) {
        std::vector<int> runs(static_cast<size_t>(iterations));  // each cell has one writer
        team.For(iterations, members, [&](int64_t i, int) { ++runs[static_cast<size_t>(i)]; });
        for (const int count : runs) ASSERT_EQ(count, 1);
      }
    }
  }
}

TEST(ThreadTeamTest, AMemberIsOneThreadAtATimeAndWithinBounds) {
  ThreadTeam team(4);
  for (int round = 0; round < 200; ++round) {
    const int members = 1 + round % 4;
    std::vector<std::atomic<int>> inside(4);
    std::atomic<bool> wrong = false;
    team.For(50, members, [&](int64_t, int member) {
      if (member < 0 || member >= members) wrong = true;
      if (inside[static_cast<size_t>(member)].fetch_add(1) != 0) wrong = true;
      inside[static_cast<size_t>(member)].fetch_sub(1);
    });
    ASSERT_FALSE(wrong);
  }
}

TEST(ThreadTeamTest, WhatALoopWroteIsVisibleAfterIt) {
  ThreadTeam team(3);
  std::vector<int64_t> sums(64);
  for (int64_t round = 1; round <= 500; ++round) {
    team.For(64, 3, [&](int64_t i, int) { sums[static_cast<size_t>(i)] += round; });
  }
  for (const int64_t sum : sums) EXPECT_EQ(sum, 500 * 501 / 2);
}

}  // namespace
}  // namespace sounder::gpu_worker
