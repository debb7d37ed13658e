// The node's index builds, in a lane of their own: a long prefill has thousands of them, and
// attends must get through meanwhile.
#ifndef SOUNDER_KV_NODE_SESSION_INDEX_LANE_H_
#define SOUNDER_KV_NODE_SESSION_INDEX_LANE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "common/base/executor.h"
#include "kv_node/sampler/scratch.h"

namespace sounder::kv_node {

struct IndexLaneOptions {
  int builds = 1;  // most at once; with fewer than the executor has threads, one is always free
  // Beyond so many rows (counted per layer and kv head) whose build has not begun, appends are
  // acknowledged late.
  int64_t backlog_rows = 262144;
};

// Thread safe. After each build its thread goes back to the executor, so that work that was queued
// meanwhile waits for at most `builds` of them. The lane may be destroyed with builds queued: those
// still run.
class IndexLane {
 public:
  using Build = std::function<void(Scratch& scratch)>;

  // The executor outlives the builds.
  IndexLane(base::Executor* executor, const IndexLaneOptions& options);

  // Runs `build` when its turn comes: owners take turns, each in its own order.
  void Run(const void* owner, int64_t rows, Build build);

  // No more rows than the bound wait for their build.
  bool CaughtUp() const { return waiting_rows() <= backlog_rows_; }
  // Segments that became parts of a larger one, whose index takes the place of theirs.
  void NoteMerged(size_t segments) { merged_segments_ += segments; }
  uint64_t merged_segments() const { return merged_segments_; }
  // Rows whose build has not begun, and the bound.
  int64_t waiting_rows() const;
  int64_t backlog_rows() const { return backlog_rows_; }

 private:
  struct State;
  static void BuildNext(const std::shared_ptr<State>& state);

  const int64_t backlog_rows_;
  std::atomic<uint64_t> merged_segments_{0};
  const std::shared_ptr<State> state_;  // shared with the builds
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_INDEX_LANE_H_
