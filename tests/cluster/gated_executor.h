// The executor of one machine of a cluster in one process: shares the threads (or the virtual time)
// of another executor, and can be stopped alone, as when the machine dies.
#ifndef SOUNDER_TESTS_CLUSTER_GATED_EXECUTOR_H_
#define SOUNDER_TESTS_CLUSTER_GATED_EXECUTOR_H_

#include <memory>

#include "common/base/executor.h"

namespace sounder::tests {

// Thread safe, like any executor. `inner` outlives it.
class GatedExecutor final : public base::Executor {
 public:
  explicit GatedExecutor(base::Executor* inner);
  ~GatedExecutor() override;

  base::Clock& clock() override { return inner_->clock(); }
  void Run(base::Work work) override;
  base::TimerId RunAt(base::Time when, base::Work work) override;
  bool Cancel(base::TimerId timer) override;
  std::unique_ptr<base::Condition> NewCondition() override { return inner_->NewCondition(); }

  // Returns when no work is left; timers may be.
  void WaitIdle();
  // Drops timers that are not due and returns when no work is left; what comes later is dropped.
  // Not from its own work.
  void Stop();

 private:
  struct State;
  base::Executor* const inner_;
  const std::shared_ptr<State> state_;  // shared with work in flight
};

}  // namespace sounder::tests

#endif  // SOUNDER_TESTS_CLUSTER_GATED_EXECUTOR_H_
