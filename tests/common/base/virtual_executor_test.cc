#include "common/base/virtual_executor.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace sounder::base {
namespace {

using std::chrono::hours;
using std::chrono::seconds;

TEST(VirtualExecutorTest, TheClockJumpsToTheNextTimer) {
  VirtualExecutor executor(1);
  const Time start = executor.clock().Now();
  std::vector<Duration> at;
  const auto note = [&] { at.push_back(executor.clock().Now() - start); };
  executor.RunAt(start + hours(5), note);
  executor.RunAt(start + hours(2), note);
  executor.RunAt(start + hours(2), [&] { executor.Run(note); });
  executor.RunAt(start - hours(9), note);  // the past is now; the clock never goes back
  while (executor.Step()) {
  }
  EXPECT_EQ(at, (std::vector<Duration>{hours(0), hours(2), hours(2), hours(5)}));
  EXPECT_FALSE(executor.Step());
}

TEST(VirtualExecutorTest, RunnableWorkComesBeforeTimePasses) {
  VirtualExecutor executor(2);
  std::vector<int> order;
  executor.RunAt(executor.clock().Now() + seconds(1), [&] { order.push_back(2); });
  executor.Run([&] {
    order.push_back(0);
    executor.Run([&] { order.push_back(1); });
  });
  EXPECT_TRUE(executor.RunUntil([&] { return order.size() == 3; }));
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2}));
}

// What a little program of work and timers did, as text.
std::string Story(uint64_t seed) {
  VirtualExecutor executor(seed);
  std::string story;
  for (int actor = 0; actor < 6; ++actor) {
    auto steps = std::make_shared<int>(0);
    auto act = std::make_shared<Work>();
    *act = [&executor, &story, actor, steps, weak = std::weak_ptr(act)] {
      story += std::to_string(actor);
      const auto self = weak.lock();
      if (++*steps == 20) return;
      if (*steps % 3 == 0) {
        executor.RunAt(executor.clock().Now() + seconds(1 + (actor + *steps) % 2),
                       [self] { (*self)(); });
      } else {
        executor.Run([self] { (*self)(); });
      }
    };
    executor.Run([act] { (*act)(); });
  }
  while (executor.Step()) {
  }
  return story;
}

TEST(VirtualExecutorTest, AStoryIsAFunctionOfTheSeed) {
  std::set<std::string> stories;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::string story = Story(seed);
    EXPECT_EQ(story.size(), 120u);
    EXPECT_EQ(story, Story(seed)) << seed;
    stories.insert(story);
  }
  EXPECT_EQ(stories.size(), 20u);  // and the order really varies
}

TEST(VirtualExecutorTest, CancelBeforeDueAndWhileRunnable) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    VirtualExecutor executor(seed);
    const Time due = executor.clock().Now() + seconds(1);
    std::vector<TimerId> timers;
    int ran = 0;
    int cancelled = 0;
    // All due at once: whoever runs first cancels the others, which are runnable by then.
    for (int i = 0; i < 5; ++i) {
      timers.push_back(executor.RunAt(due, [&] {
        ++ran;
        for (const TimerId other : timers) cancelled += executor.Cancel(other) ? 1 : 0;
      }));
    }
    const TimerId never = executor.RunAt(due + seconds(1), [&] { ran += 100; });
    EXPECT_TRUE(executor.Cancel(never));
    EXPECT_FALSE(executor.Cancel(never));
    EXPECT_FALSE(executor.Cancel(0));
    executor.Run([] {});
    while (executor.Step()) {
    }
    EXPECT_EQ(ran, 1);
    EXPECT_EQ(cancelled, 4);
  }
}

TEST(VirtualExecutorTest, RunUntilStopsAtItsLimitAndAtTheEndOfWork) {
  VirtualExecutor executor(3);
  std::function<void()> forever = [&] { executor.Run(forever); };
  executor.Run(forever);
  EXPECT_FALSE(executor.RunUntil([] { return false; }, 100));
  VirtualExecutor idle(4);
  EXPECT_FALSE(idle.RunUntil([] { return false; }));
  EXPECT_TRUE(idle.RunUntil([] { return true; }));
}

TEST(VirtualConditionTest, WaitingRunsTheWorkThatEndsIt) {
  VirtualExecutor executor(5);
  const auto condition = executor.NewCondition();
  std::mutex mutex;
  int count = 0;
  for (int i = 0; i < 10; ++i) {
    executor.RunAt(executor.clock().Now() + seconds(i), [&] {
      std::lock_guard lock(mutex);
      ++count;
      condition->NotifyAll();
    });
  }
  const Time start = executor.clock().Now();
  std::unique_lock lock(mutex);
  EXPECT_TRUE(condition->WaitFor(lock, hours(1), [&] { return count == 5; }));
  EXPECT_TRUE(lock.owns_lock());
  EXPECT_EQ(executor.clock().Now() - start, seconds(4));
}

TEST(VirtualConditionTest, ATimeoutAdvancesTheClockAndNothingElse) {
  VirtualExecutor executor(6);
  const auto condition = executor.NewCondition();
  std::mutex mutex;
  bool later = false;
  const Time start = executor.clock().Now();
  executor.RunAt(start + hours(2), [&] { later = true; });
  std::unique_lock lock(mutex);
  EXPECT_FALSE(condition->WaitFor(lock, hours(1), [] { return false; }));
  EXPECT_EQ(executor.clock().Now() - start, hours(1));
  EXPECT_FALSE(later);
  EXPECT_TRUE(condition->WaitFor(lock, hours(3), [&] { return later; }));
  EXPECT_EQ(executor.clock().Now() - start, hours(2));
  EXPECT_FALSE(executor.Step()) << "a wait left its timer behind";
}

// The work that ends a wait comes due together with the wait's own timer. The timer must not
// outlive the wait: it writes to the waiter's stack.
TEST(VirtualConditionTest, AWaitThatEndsAtItsTimeoutLeavesNothingBehind) {
  int satisfied = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    VirtualExecutor executor(seed);
    const auto condition = executor.NewCondition();
    std::mutex mutex;
    bool done = false;
    executor.RunAt(executor.clock().Now() + seconds(1), [&] { done = true; });
    std::unique_lock lock(mutex);
    satisfied += condition->WaitFor(lock, seconds(1), [&] { return done; }) ? 1 : 0;
    lock.unlock();
    executor.RunUntil([] { return false; });
    EXPECT_TRUE(done);
  }
  EXPECT_GT(satisfied, 50);
  EXPECT_LT(satisfied, 200);
}

TEST(VirtualConditionTest, WaitsNest) {
  VirtualExecutor executor(7);
  const auto condition = executor.NewCondition();
  std::mutex outer_mutex;
  bool outer_done = false;
  bool inner_result = true;
  executor.Run([&] {
    std::mutex inner_mutex;
    std::unique_lock lock(inner_mutex);
    inner_result = condition->WaitFor(lock, seconds(3), [] { return false; });
    outer_done = true;
  });
  std::unique_lock lock(outer_mutex);
  EXPECT_TRUE(condition->WaitFor(lock, seconds(10), [&] { return outer_done; }));
  EXPECT_FALSE(inner_result);
}

}  // namespace
}  // namespace sounder::base
