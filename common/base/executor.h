// Where work runs: the only way in which code of this project hands work to another thread or to
// a later time. A cluster in one process runs on one VirtualExecutor, in virtual time.
#ifndef SOUNDER_COMMON_BASE_EXECUTOR_H_
#define SOUNDER_COMMON_BASE_EXECUTOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "common/base/clock.h"

namespace sounder::base {

using Work = std::function<void()>;
using TimerId = uint64_t;  // 0 is never a timer

// A condition variable that also works in virtual time: for threads that are not the executor's
// own and have to wait for its work. Thread safe.
class Condition {
 public:
  virtual ~Condition() = default;
  // Called under the lock if a waiter that sees done() may destroy the condition.
  virtual void NotifyAll() = 0;
  // Waits until `done()` or until `timeout` has passed; returns done(). `lock` is held on entry and
  // on return and whenever done() is called; whoever makes done() true notifies.
  virtual bool WaitFor(std::unique_lock<std::mutex>& lock, Duration timeout,
                       const std::function<bool()>& done) = 0;
};

// Thread safe. Work may run on any thread of the executor, in any order, several at once, unless
// an implementation says more. Work must not block on other work of the same executor.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual Clock& clock() = 0;
  // Runs `work` soon, never inside this call.
  virtual void Run(Work work) = 0;
  // Runs `work` at `when` or soon after, unless cancelled.
  virtual TimerId RunAt(Time when, Work work) = 0;
  // True if the timer was stopped before its work started; false if it has started or is unknown.
  virtual bool Cancel(TimerId timer) = 0;
  virtual std::unique_ptr<Condition> NewCondition() = 0;
};

}  // namespace sounder::base

#endif  // SOUNDER_COMMON_BASE_EXECUTOR_H_
