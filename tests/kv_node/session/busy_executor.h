// Keeps work back until it is told to go on, in the order given, as one busy thread does; timers
// are on time.
#ifndef SOUNDER_TESTS_KV_NODE_SESSION_BUSY_EXECUTOR_H_
#define SOUNDER_TESTS_KV_NODE_SESSION_BUSY_EXECUTOR_H_

#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "common/base/virtual_executor.h"

namespace sounder::kv_node {

class BusyExecutor final : public base::Executor {
 public:
  explicit BusyExecutor(base::VirtualExecutor* inner) : inner_(inner) {}
  base::Clock& clock() override { return inner_->clock(); }
  void Run(base::Work work) override { work_.push_back(std::move(work)); }
  base::TimerId RunAt(base::Time when, base::Work work) override {
    return inner_->RunAt(when, std::move(work));
  }
  bool Cancel(base::TimerId timer) override { return inner_->Cancel(timer); }
  std::unique_ptr<base::Condition> NewCondition() override { return inner_->NewCondition(); }

  size_t waiting() const { return work_.size(); }
  // Does the piece of work that waits longest.
  void Step() {
    const base::Work work = std::move(work_.front());
    work_.pop_front();
    work();
  }
  // Steps until `done()`; how many steps that took. Stops when no work is left.
  int StepUntil(const std::function<bool()>& done) {
    int steps = 0;
    for (; !done() && !work_.empty(); ++steps) Step();
    return steps;
  }
  void GoOn() {
    StepUntil([] { return false; });
  }

 private:
  base::VirtualExecutor* const inner_;
  std::deque<base::Work> work_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_SESSION_BUSY_EXECUTOR_H_
