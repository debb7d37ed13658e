#include "common/base/thread_executor.h"

#include <pthread.h>

#include <utility>

#include "common/base/check.h"

namespace sounder::base {
namespace {

class ThreadCondition final : public Condition {
 public:
  void NotifyAll() override { condition_.notify_all(); }
  bool WaitFor(std::unique_lock<std::mutex>& lock, Duration timeout,
               const std::function<bool()>& done) override {
    return condition_.wait_for(lock, timeout, done);
  }

 private:
  std::condition_variable condition_;
};

}  // namespace

ThreadExecutor::ThreadExecutor(int num_threads, std::string name) {
  CHECK(num_threads >= 1) << num_threads;
  for (int i = 0; i < num_threads; ++i) {
    threads_.emplace_back([this] { WorkerLoop(); });
    const std::string thread_name = (name + "-" + std::to_string(i)).substr(0, 15);
    pthread_setname_np(threads_.back().native_handle(), thread_name.c_str());
  }
  threads_.emplace_back([this] { TimerLoop(); });
  pthread_setname_np(threads_.back().native_handle(), (name + "-tm").substr(0, 15).c_str());
}

ThreadExecutor::~ThreadExecutor() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_ready_.notify_all();
  timer_changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  // Destroyed while the executor is still whole: their captures may call back in.
  std::unordered_map<TimerId, Timer> dropped;
  std::lock_guard lock(mutex_);
  dropped.swap(timers_);
  waiting_.clear();
}

void ThreadExecutor::Run(Work work) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back({std::move(work)});
  }
  work_ready_.notify_one();
}

TimerId ThreadExecutor::RunAt(Time when, Work work) {
  std::lock_guard lock(mutex_);
  const TimerId id = next_timer_++;
  timers_.emplace(id, Timer{when, std::move(work)});
  waiting_.emplace(when, id);
  if (waiting_.begin()->second == id) timer_changed_.notify_one();
  return id;
}

bool ThreadExecutor::Cancel(TimerId timer) {
  Work dropped;  // destroyed after the lock is released: its captures may call back in
  std::lock_guard lock(mutex_);
  const auto found = timers_.find(timer);
  if (found == timers_.end()) return false;
  dropped = std::move(found->second.work);
  waiting_.erase({found->second.when, timer});
  timers_.erase(found);  // if it is in the queue already, it is skipped there
  return true;
}

std::unique_ptr<Condition> ThreadExecutor::NewCondition() {
  return std::make_unique<ThreadCondition>();
}

void ThreadExecutor::WorkerLoop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    work_ready_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;  // stopping and drained
    Task task = std::move(queue_.front());
    queue_.pop_front();
    Work work = std::move(task.work);
    if (task.timer != 0) {
      const auto found = timers_.find(task.timer);
      if (found == timers_.end()) continue;  // cancelled while it was queued
      work = std::move(found->second.work);
      timers_.erase(found);
    }
    lock.unlock();
    work();
    work = nullptr;
    lock.lock();
  }
}

void ThreadExecutor::TimerLoop() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (waiting_.empty()) {
      timer_changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      continue;
    }
    const auto [due, timer] = *waiting_.begin();
    if (due > clock_.Now()) {
      timer_changed_.wait_until(lock, due);
      continue;
    }
    waiting_.erase(waiting_.begin());
    queue_.push_back({nullptr, timer});
    work_ready_.notify_one();
  }
}

}  // namespace sounder::base
