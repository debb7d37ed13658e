// An executor in virtual time: one thread, a clock that jumps to the next timer when nothing else
// is left, and an order of runnable work drawn from a seed. A whole cluster run on it is a pure
// function of the seed.
#ifndef SOUNDER_COMMON_BASE_VIRTUAL_EXECUTOR_H_
#define SOUNDER_COMMON_BASE_VIRTUAL_EXECUTOR_H_

#include <functional>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "common/base/executor.h"
#include "common/base/philox.h"

namespace sounder::base {

// Not thread safe: everything happens on the thread that calls Step or RunUntil.
class VirtualExecutor final : public Executor {
 public:
  explicit VirtualExecutor(uint64_t seed) : random_(seed, /*stream=*/0) {}

  Clock& clock() override { return clock_; }
  void Run(Work work) override { runnable_.push_back({std::move(work)}); }
  TimerId RunAt(Time when, Work work) override;
  bool Cancel(TimerId timer) override;
  // Waiting on it runs the executor's work.
  std::unique_ptr<Condition> NewCondition() override;

  // Runs one piece of work, advancing the clock if only timers are left. False if nothing is left.
  bool Step();
  // Lets time pass, and everything happen that falls into it.
  void RunFor(Duration duration);
  // Steps until `done()`; false if the work ran out or `max_steps` passed first.
  bool RunUntil(const std::function<bool()>& done, int64_t max_steps = int64_t{1} << 40);

 private:
  class VirtualClock final : public Clock {
   public:
    Time Now() const override { return now; }
    Time now{};
  };

  struct Task {
    Work work;
    TimerId timer = 0;  // 0: not from a timer
  };

  VirtualClock clock_;
  PhiloxStream random_;
  std::vector<Task> runnable_;
  std::map<std::pair<Time, TimerId>, Work> timers_;
  std::unordered_map<TimerId, Time> timer_times_;
  TimerId next_timer_ = 1;
};

}  // namespace sounder::base

#endif  // SOUNDER_COMMON_BASE_VIRTUAL_EXECUTOR_H_
