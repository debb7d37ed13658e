#include "common/base/thread_executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <latch>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

namespace sounder::base {
namespace {

using std::chrono::milliseconds;

constexpr Duration kLong = std::chrono::hours(1);

TEST(ThreadExecutorTest, OneThreadKeepsTheOrder) {
  std::vector<int> order;  // touched by the one thread alone until the executor is gone
  {
    ThreadExecutor executor(1, "order");
    for (int i = 0; i < 1000; ++i) executor.Run([&order, i] { order.push_back(i); });
  }
  std::vector<int> expected(1000);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(order, expected);
}

TEST(ThreadExecutorTest, ManyThreadsRunSideBySide) {
  constexpr int kThreads = 4;
  ThreadExecutor executor(kThreads, "side");
  std::latch all_inside(kThreads + 1);  // passed only if all are inside at once
  for (int i = 0; i < kThreads; ++i) executor.Run([&] { all_inside.arrive_and_wait(); });
  all_inside.arrive_and_wait();
}

TEST(ThreadExecutorTest, RunNeverHappensInsideTheCall) {
  ThreadExecutor executor(2, "inside");
  std::promise<bool> inside;
  executor.Run([&] {
    std::atomic<bool> returned = false;
    std::latch ran(1);
    bool was_inside = false;
    const std::thread::id caller = std::this_thread::get_id();
    executor.Run([&] {
      was_inside = std::this_thread::get_id() == caller && !returned;
      ran.count_down();
    });
    returned = true;
    ran.wait();
    inside.set_value(was_inside);
  });
  EXPECT_FALSE(inside.get_future().get());
}

TEST(ThreadExecutorTest, TimersComeInTheOrderOfTheirTimes) {
  ThreadExecutor executor(1, "timers");
  const Time start = executor.clock().Now();
  std::vector<int> order;
  std::latch done(4);
  const auto note = [&](int what, milliseconds after) {
    executor.RunAt(start + after, [&order, &done, &executor, start, what, after] {
      EXPECT_GE(executor.clock().Now(), start + after);
      order.push_back(what);
      done.count_down();
    });
  };
  note(3, milliseconds(30));
  note(1, milliseconds(10));
  note(2, milliseconds(20));
  note(0, milliseconds(-1000));  // the past is now
  done.wait();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3}));
}

TEST(ThreadExecutorTest, CancelStopsATimerThatIsNotDue) {
  ThreadExecutor executor(1, "cancel");
  std::atomic<int> ran = 0;
  const TimerId timer = executor.RunAt(executor.clock().Now() + kLong, [&] { ++ran; });
  EXPECT_NE(timer, 0u);
  EXPECT_TRUE(executor.Cancel(timer));
  EXPECT_FALSE(executor.Cancel(timer));
  EXPECT_FALSE(executor.Cancel(0));
  EXPECT_FALSE(executor.Cancel(timer + 1000));
  std::latch later(1);
  const TimerId second =
      executor.RunAt(executor.clock().Now() + milliseconds(1), [&] { later.count_down(); });
  later.wait();
  EXPECT_FALSE(executor.Cancel(second));
  EXPECT_EQ(ran, 0);
}

// Due, and behind other work in the queue: it has not started, so it can be stopped.
TEST(ThreadExecutorTest, CancelStopsATimerThatIsDueButHasNotStarted) {
  std::atomic<int> ran = 0;
  {
    ThreadExecutor executor(1, "due");
    std::latch busy(1), release(1), second_due(1);
    executor.Run([&] {
      busy.count_down();
      release.wait();
    });
    busy.wait();
    const Time now = executor.clock().Now();
    std::vector<TimerId> timers;
    for (int i = 0; i < 10; ++i) timers.push_back(executor.RunAt(now, [&] { ++ran; }));
    for (size_t i = 0; i < timers.size(); i += 2) EXPECT_TRUE(executor.Cancel(timers[i]));
    // Runs behind the timers that were due before it.
    executor.RunAt(now + milliseconds(1), [&] { second_due.count_down(); });
    release.count_down();
    second_due.wait();
    for (const TimerId timer : timers) EXPECT_FALSE(executor.Cancel(timer));
  }
  EXPECT_EQ(ran, 5);
}

TEST(ThreadExecutorTest, TheDestructorRunsWhatIsQueuedAndDropsWhatIsNotDue) {
  std::atomic<int> ran = 0;
  auto dropped = std::make_shared<int>(0);
  const std::weak_ptr<int> watch = dropped;
  {
    ThreadExecutor executor(2, "end");
    for (int i = 0; i < 100; ++i) {
      executor.Run([&executor, &ran] {
        ++ran;
        executor.Run([&ran] { ++ran; });  // work may queue work, also at the end
      });
    }
    executor.RunAt(executor.clock().Now() + kLong, [&ran, dropped] { ran += 1000; });
    executor.RunAt(kNever, [&ran] { ran += 1000; });
    dropped.reset();
    EXPECT_FALSE(watch.expired());
  }
  EXPECT_EQ(ran, 200);
  EXPECT_TRUE(watch.expired());
}

// What a dropped timer owns may call the executor when it is destroyed.
TEST(ThreadExecutorTest, DroppedTimersMayCallBackIn) {
  struct CancelsAtEnd {
    Executor* executor;
    std::vector<TimerId> timers;
    ~CancelsAtEnd() {
      for (const TimerId timer : timers) executor->Cancel(timer);
    }
  };
  ThreadExecutor executor(1, "back");
  const Time later = executor.clock().Now() + kLong;
  auto first = std::make_shared<CancelsAtEnd>(CancelsAtEnd{&executor, {}});
  auto second = std::make_shared<CancelsAtEnd>(CancelsAtEnd{&executor, {}});
  second->timers.push_back(executor.RunAt(later, [first] {}));
  first->timers.push_back(executor.RunAt(later, [second] {}));
  first->timers.push_back(executor.RunAt(later, [] {}));
  first.reset();
  const TimerId owner = second->timers[0];
  second.reset();
  EXPECT_TRUE(executor.Cancel(owner));  // and inside Cancel
}

TEST(ThreadExecutorTest, AConditionWakesOnNotifyAndOnTimeout) {
  ThreadExecutor executor(1, "wait");
  const std::unique_ptr<Condition> condition = executor.NewCondition();
  std::mutex mutex;
  bool done = false;
  std::unique_lock lock(mutex);
  EXPECT_FALSE(condition->WaitFor(lock, milliseconds(5), [&] { return done; }));
  EXPECT_TRUE(lock.owns_lock());
  executor.Run([&] {
    std::lock_guard inside(mutex);
    done = true;
    condition->NotifyAll();
  });
  EXPECT_TRUE(condition->WaitFor(lock, kLong, [&] { return done; }));
  EXPECT_TRUE(condition->WaitFor(lock, Duration(0), [&] { return done; }));
}

// Timers set, cancelled and fired from many threads: each runs exactly once or was cancelled.
TEST(ThreadExecutorTest, ATimerRunsOrIsCancelledNeverBoth) {
  constexpr int kTimers = 2000;
  std::vector<std::atomic<int>> ran(kTimers);
  std::vector<std::atomic<int>> cancelled(kTimers);
  {
    ThreadExecutor executor(3, "race");
    std::latch finished(kTimers);
    for (int i = 0; i < kTimers; ++i) {
      const Time when = executor.clock().Now() + std::chrono::microseconds(i % 7 * 20);
      const TimerId timer = executor.RunAt(when, [&, i] {
        ++ran[i];
        finished.count_down();
      });
      if (i % 2 == 0) continue;
      executor.Run([&, i, timer] {
        if (!executor.Cancel(timer)) return;
        ++cancelled[i];
        finished.count_down();
      });
    }
    finished.wait();
  }
  int total_ran = 0;
  for (int i = 0; i < kTimers; ++i) {
    ASSERT_EQ(ran[i] + cancelled[i], 1) << i;
    total_ran += ran[i];
  }
  std::printf("%d of %d timers ran\n", total_ran, kTimers);
}

TEST(ThreadExecutorDeathTest, NeedsAThread) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(ThreadExecutor(0, "none"), "CHECK failed");
}

}  // namespace
}  // namespace sounder::base
