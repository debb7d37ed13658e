// An executor on real threads and the real clock.
#ifndef SOUNDER_COMMON_BASE_THREAD_EXECUTOR_H_
#define SOUNDER_COMMON_BASE_THREAD_EXECUTOR_H_

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/base/executor.h"

namespace sounder::base {

// `num_threads` workers plus one timer thread. The destructor runs all queued work (also what that
// work queues), drops timers that are not due, and joins. With one thread, work runs in the order
// it was given, and a timer's work after what was queued before it was due.
class ThreadExecutor final : public Executor {
 public:
  // name: at most 12 characters, shown as the threads' names. num_threads >= 1.
  ThreadExecutor(int num_threads, std::string name);
  ~ThreadExecutor() override;
  ThreadExecutor(const ThreadExecutor&) = delete;
  ThreadExecutor& operator=(const ThreadExecutor&) = delete;

  Clock& clock() override { return clock_; }
  void Run(Work work) override;
  TimerId RunAt(Time when, Work work) override;
  bool Cancel(TimerId timer) override;
  std::unique_ptr<Condition> NewCondition() override;

 private:
  struct Task {
    Work work;
    TimerId timer = 0;  // not 0: the work is still in timers_, unless it was cancelled
  };
  struct Timer {
    Time when{};
    Work work;
  };
  void WorkerLoop();
  void TimerLoop();

  SteadyClock clock_;
  std::mutex mutex_;  // guards everything below
  std::condition_variable work_ready_;
  std::condition_variable timer_changed_;
  std::deque<Task> queue_;
  std::set<std::pair<Time, TimerId>> waiting_;  // timers that are not yet in the queue
  std::unordered_map<TimerId, Timer> timers_;   // timers whose work has not started
  TimerId next_timer_ = 1;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace sounder::base

#endif  // SOUNDER_COMMON_BASE_THREAD_EXECUTOR_H_
