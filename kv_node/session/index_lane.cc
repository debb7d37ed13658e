#include "kv_node/session/index_lane.h"

#include <atomic>
#include <deque>
#include <mutex>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "common/base/check.h"
#include "kv_node/sampler/scratch_pool.h"

namespace sounder::kv_node {

struct IndexLane::State {
  struct Task {
    int64_t rows = 0;
    Build build;
  };

  base::Executor* executor = nullptr;
  int builds = 1;
  ScratchPool scratches;  // no more than `builds` of them
  std::atomic<int64_t> waiting_rows{0};

  std::mutex mutex;                                           // guards everything below
  absl::flat_hash_map<const void*, std::deque<Task>> queues;  // none of them empty
  std::deque<const void*> turns;                              // the owners of the queues
  int running = 0;
};

IndexLane::IndexLane(base::Executor* executor, const IndexLaneOptions& options)
    : backlog_rows_(options.backlog_rows), state_(std::make_shared<State>()) {
  CHECK(options.builds >= 1) << options.builds;
  state_->executor = executor;
  state_->builds = options.builds;
}

int64_t IndexLane::waiting_rows() const { return state_->waiting_rows; }

void IndexLane::Run(const void* owner, int64_t rows, Build build) {
  state_->waiting_rows += rows;
  {
    std::lock_guard lock(state_->mutex);
    std::deque<State::Task>& queue = state_->queues[owner];
    if (queue.empty()) state_->turns.push_back(owner);
    queue.push_back({rows, std::move(build)});
    if (state_->running == state_->builds) return;
    ++state_->running;
  }
  state_->executor->Run([state = state_] { BuildNext(state); });
}

void IndexLane::BuildNext(const std::shared_ptr<State>& state) {
  State::Task task;
  {
    std::lock_guard lock(state->mutex);
    if (state->turns.empty()) {  // another runner took what this one was started for
      --state->running;
      return;
    }
    const void* const owner = state->turns.front();
    state->turns.pop_front();
    const auto queue = state->queues.find(owner);
    task = std::move(queue->second.front());
    queue->second.pop_front();
    if (queue->second.empty()) {
      state->queues.erase(queue);
    } else {
      state->turns.push_back(owner);
    }
  }
  state->waiting_rows -= task.rows;
  {
    const ScratchPool::Lease scratch = state->scratches.Take();
    task.build(*scratch);
  }
  task.build = nullptr;
  state->executor->Run([state] { BuildNext(state); });
}

}  // namespace sounder::kv_node
