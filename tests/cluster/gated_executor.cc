#include "tests/cluster/gated_executor.h"

#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/base/check.h"

namespace sounder::tests {

struct GatedExecutor::State {
  std::mutex mutex;  // guards everything below
  std::unique_ptr<base::Condition> changed;
  bool timers_stopped = false;
  bool stopped = false;
  size_t pending = 0;  // work queued or running
  base::TimerId last_timer = 0;
  std::unordered_map<base::TimerId, base::TimerId> timers;  // ours to the inner executor's

  void WaitIdle(std::unique_lock<std::mutex>& lock) {
    CHECK(changed->WaitFor(lock, std::chrono::seconds(60), [this] { return pending == 0; }))
        << pending << " pieces of work do not end";
  }
  void Finish() {
    std::lock_guard lock(mutex);
    --pending;
    changed->NotifyAll();
  }
};

GatedExecutor::GatedExecutor(base::Executor* inner)
    : inner_(inner), state_(std::make_shared<State>()) {
  state_->changed = inner->NewCondition();
}

GatedExecutor::~GatedExecutor() { Stop(); }

void GatedExecutor::Run(base::Work work) {
  {
    std::lock_guard lock(state_->mutex);
    if (state_->stopped) return;
    ++state_->pending;
  }
  inner_->Run([state = state_, work = std::move(work)]() mutable {
    work();
    work = nullptr;
    state->Finish();
  });
}

base::TimerId GatedExecutor::RunAt(base::Time when, base::Work work) {
  std::lock_guard lock(state_->mutex);
  if (state_->timers_stopped) return 0;
  const base::TimerId id = ++state_->last_timer;
  state_->timers[id] = inner_->RunAt(when, [state = state_, id, work = std::move(work)]() mutable {
    {
      std::lock_guard inner_lock(state->mutex);
      if (state->timers.erase(id) == 0) return;
      ++state->pending;
    }
    work();
    work = nullptr;
    state->Finish();
  });
  return id;
}

bool GatedExecutor::Cancel(base::TimerId timer) {
  base::TimerId inner_timer = 0;
  {
    std::lock_guard lock(state_->mutex);
    const auto found = state_->timers.find(timer);
    if (found == state_->timers.end()) return false;
    inner_timer = found->second;
    state_->timers.erase(found);
  }
  inner_->Cancel(inner_timer);
  return true;
}

void GatedExecutor::Stop() {
  std::vector<base::TimerId> timers;
  {
    std::lock_guard lock(state_->mutex);
    state_->timers_stopped = true;
    for (const auto& [id, inner_timer] : state_->timers) timers.push_back(inner_timer);
    state_->timers.clear();
  }
  for (const base::TimerId timer : timers) inner_->Cancel(timer);
  std::unique_lock lock(state_->mutex);
  state_->WaitIdle(lock);
  state_->stopped = true;
}

void GatedExecutor::WaitIdle() {
  std::unique_lock lock(state_->mutex);
  state_->WaitIdle(lock);
}

}  // namespace sounder::tests
