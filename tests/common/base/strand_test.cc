#include "common/base/strand.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "common/base/thread_executor.h"
#include "common/base/virtual_executor.h"

namespace sounder::base {
namespace {

std::vector<int> Count(int n) {
  std::vector<int> numbers(static_cast<size_t>(n));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

TEST(StrandTest, KeepsOrderAndNeverOverlapsOnManyThreads) {
  constexpr int kStrands = 5;
  constexpr int kWork = 500;
  std::vector<int> order[kStrands];  // each guarded by its strand alone
  std::atomic<int> inside[kStrands] = {};
  {
    ThreadExecutor executor(4, "strand");
    std::vector<Strand> strands;
    for (int s = 0; s < kStrands; ++s) strands.emplace_back(&executor);
    for (int i = 0; i < kWork; ++i) {
      for (int s = 0; s < kStrands; ++s) {
        strands[s].Run([&, s, i] {
          EXPECT_EQ(inside[s].fetch_add(1), 0);
          order[s].push_back(i);
          inside[s].fetch_sub(1);
        });
      }
    }
  }
  for (const auto& each : order) EXPECT_EQ(each, Count(kWork));
}

TEST(StrandTest, KeepsOrderInAnyOrderOfTheExecutor) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    VirtualExecutor executor(seed);
    std::vector<int> order;
    Strand strand(&executor);
    Strand other(&executor);
    for (int i = 0; i < 50; ++i) {
      strand.Run([&order, i] { order.push_back(i); });
      other.Run([] {});
    }
    executor.RunUntil([] { return false; });
    EXPECT_EQ(order, Count(50));
  }
}

// A control: without the strand the executor does mix the order.
TEST(StrandTest, TheExecutorAloneMixesTheOrder) {
  VirtualExecutor executor(1);
  std::vector<int> order;
  for (int i = 0; i < 50; ++i) executor.Run([&order, i] { order.push_back(i); });
  executor.RunUntil([] { return false; });
  EXPECT_NE(order, Count(50));
}

TEST(StrandTest, WorkMayQueueMoreAndSeveralThreadsMayQueue) {
  std::vector<int> per_thread[3];
  {
    ThreadExecutor executor(2, "strand");
    Strand strand(&executor);
    std::vector<std::thread> threads;
    std::latch finished(3 * 100 * 2);
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 100; ++i) {
          strand.Run([&, t, i] {
            per_thread[t].push_back(i);
            strand.Run([&finished] { finished.count_down(); });
            finished.count_down();
          });
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    finished.wait();
  }
  for (const auto& each : per_thread) EXPECT_EQ(each, Count(100));
}

TEST(StrandTest, WorkOutlivesTheStrandAndIsFreedAfterwards) {
  auto token = std::make_shared<int>(0);
  std::vector<int> order;
  VirtualExecutor executor(3);
  {
    Strand strand(&executor);
    for (int i = 0; i < 10; ++i) strand.Run([&order, token, i] { order.push_back(i); });
  }
  EXPECT_EQ(token.use_count(), 11);
  executor.RunUntil([] { return false; });
  EXPECT_EQ(order, Count(10));
  EXPECT_EQ(token.use_count(), 1);
}

}  // namespace
}  // namespace sounder::base
