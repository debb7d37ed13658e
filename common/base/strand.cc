#include "common/base/strand.h"

#include <utility>

namespace sounder::base {

void Strand::Run(Work work) {
  {
    std::lock_guard lock(state_->mutex);
    state_->queue.push_back(std::move(work));
    if (state_->running) return;
    state_->running = true;
  }
  state_->executor->Run([state = state_] { Drain(state); });
}

// Runs one piece of work, then gives the thread back, so that a busy strand starves nobody.
void Strand::Drain(const std::shared_ptr<State>& state) {
  Work work;
  {
    std::lock_guard lock(state->mutex);
    work = std::move(state->queue.front());
    state->queue.pop_front();
  }
  work();
  work = nullptr;
  {
    std::lock_guard lock(state->mutex);
    if (state->queue.empty()) {
      state->running = false;
      return;
    }
  }
  state->executor->Run([state] { Drain(state); });
}

}  // namespace sounder::base
