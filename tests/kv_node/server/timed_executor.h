// Threads in virtual time whose work takes time: every look at the clock from inside a piece of
// work costs `look`, so that what looks often (a unit of an attend looks once) takes long.
#ifndef SOUNDER_TESTS_KV_NODE_SERVER_TIMED_EXECUTOR_H_
#define SOUNDER_TESTS_KV_NODE_SERVER_TIMED_EXECUTOR_H_

#include <algorithm>
#include <deque>
#include <memory>
#include <utility>

#include "common/base/virtual_executor.h"

namespace sounder::kv_node {

// On the thread of `inner`. Work runs in the order given, as many pieces at once as there are
// threads; its effects on the inner executor happen when it starts, unless they are put off until
// clock().Now(). Timers run on time and take none.
class TimedExecutor final : public base::Executor {
 public:
  TimedExecutor(base::VirtualExecutor* inner, int threads, base::Duration look)
      : inner_(inner), threads_(threads), clock_(this, look) {}

  base::Clock& clock() override { return clock_; }
  void Run(base::Work work) override {
    queue_.push_back(std::move(work));
    most_queued_ = std::max(most_queued_, queue_.size());
    Start();
  }
  base::TimerId RunAt(base::Time when, base::Work work) override {
    return inner_->RunAt(when, std::move(work));
  }
  bool Cancel(base::TimerId timer) override { return inner_->Cancel(timer); }
  std::unique_ptr<base::Condition> NewCondition() override { return inner_->NewCondition(); }

  size_t most_queued() const { return most_queued_; }

 private:
  class TickingClock final : public base::Clock {
   public:
    TickingClock(TimedExecutor* owner, base::Duration look) : owner_(owner), look_(look) {}
    base::Time Now() const override {
      if (owner_->working_) owner_->spent_ += look_;
      return owner_->inner_->clock().Now() + owner_->spent_;
    }

   private:
    TimedExecutor* const owner_;
    const base::Duration look_;
  };

  void Start() {
    while (busy_ < threads_ && starting_ < queue_.size()) {
      ++busy_;
      ++starting_;
      inner_->Run([this] { Work(); });
    }
  }
  void Work() {
    const base::Work work = std::move(queue_.front());
    queue_.pop_front();
    --starting_;
    working_ = true;
    work();
    working_ = false;
    const base::Duration took = std::exchange(spent_, base::Duration(0));
    inner_->RunAt(inner_->clock().Now() + took, [this] {
      --busy_;
      Start();
    });
  }

  base::VirtualExecutor* const inner_;
  const int threads_;
  TickingClock clock_;
  std::deque<base::Work> queue_;
  size_t most_queued_ = 0;
  int busy_ = 0;         // threads that work, or are about to
  size_t starting_ = 0;  // of those, about to
  bool working_ = false;
  base::Duration spent_{};
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_SERVER_TIMED_EXECUTOR_H_
