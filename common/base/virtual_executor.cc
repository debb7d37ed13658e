#include "common/base/virtual_executor.h"

#include <algorithm>
#include <utility>

namespace sounder::base {
namespace {

class VirtualCondition final : public Condition {
 public:
  explicit VirtualCondition(VirtualExecutor* executor) : executor_(executor) {}

  void NotifyAll() override {}  // the waiter looks after every piece of work
  bool WaitFor(std::unique_lock<std::mutex>& lock, Duration timeout,
               const std::function<bool()>& done) override {
    // Shared: a timer that is due may still run after Cancel has come too late for it.
    const auto late = std::make_shared<bool>(false);
    const TimerId timer =
        executor_->RunAt(executor_->clock().Now() + timeout, [late] { *late = true; });
    while (!done() && !*late) {
      lock.unlock();
      executor_->Step();
      lock.lock();
    }
    executor_->Cancel(timer);
    return done();
  }

 private:
  VirtualExecutor* const executor_;
};

}  // namespace

std::unique_ptr<Condition> VirtualExecutor::NewCondition() {
  return std::make_unique<VirtualCondition>(this);
}

TimerId VirtualExecutor::RunAt(Time when, Work work) {
  const TimerId id = next_timer_++;
  timers_.emplace(std::pair(when, id), std::move(work));
  timer_times_.emplace(id, when);
  return id;
}

bool VirtualExecutor::Cancel(TimerId timer) {
  Work dropped;  // destroyed at the end: its captures may call back in
  const auto found = timer_times_.find(timer);
  if (found != timer_times_.end()) {
    const auto entry = timers_.find(std::pair(found->second, timer));
    dropped = std::move(entry->second);
    timers_.erase(entry);
    timer_times_.erase(found);
    return true;
  }
  // Due, but its turn has not come.
  const auto task = std::find_if(runnable_.begin(), runnable_.end(),
                                 [timer](const Task& each) { return each.timer == timer; });
  if (timer == 0 || task == runnable_.end()) return false;
  dropped = std::move(task->work);
  runnable_.erase(task);
  return true;
}

bool VirtualExecutor::Step() {
  if (runnable_.empty()) {
    if (timers_.empty()) return false;
    clock_.now = std::max(clock_.now, timers_.begin()->first.first);
  }
  while (!timers_.empty() && timers_.begin()->first.first <= clock_.now) {
    auto entry = timers_.extract(timers_.begin());
    timer_times_.erase(entry.key().second);
    runnable_.push_back({std::move(entry.mapped()), entry.key().second});
  }
  const size_t chosen = random_.NextBelow(static_cast<uint32_t>(runnable_.size()));
  Work work = std::move(runnable_[chosen].work);
  runnable_.erase(runnable_.begin() + static_cast<std::ptrdiff_t>(chosen));
  work();
  return true;
}

void VirtualExecutor::RunFor(Duration duration) {
  bool over = false;
  RunAt(clock_.now + duration, [&over] { over = true; });
  RunUntil([&over] { return over; });
}

bool VirtualExecutor::RunUntil(const std::function<bool()>& done, int64_t max_steps) {
  for (int64_t step = 0; step < max_steps; ++step) {
    if (done()) return true;
    if (!Step()) return done();
  }
  return done();
}

}  // namespace sounder::base
