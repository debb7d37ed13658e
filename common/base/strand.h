// A strand: runs work one at a time, in the order given, on another executor.
#ifndef SOUNDER_COMMON_BASE_STRAND_H_
#define SOUNDER_COMMON_BASE_STRAND_H_

#include <deque>
#include <memory>
#include <mutex>

#include "common/base/executor.h"

namespace sounder::base {

// Thread safe. Work of one strand never overlaps and happens in order; strands on one executor
// run side by side. The strand may be destroyed with work queued: that work still runs.
class Strand {
 public:
  explicit Strand(Executor* executor) : state_(std::make_shared<State>()) {
    state_->executor = executor;
  }
  void Run(Work work);

 private:
  struct State {
    Executor* executor = nullptr;
    std::mutex mutex;
    std::deque<Work> queue;
    bool running = false;
  };
  static void Drain(const std::shared_ptr<State>& state);

  std::shared_ptr<State> state_;  // shared with the work in flight
};

}  // namespace sounder::base

#endif  // SOUNDER_COMMON_BASE_STRAND_H_
