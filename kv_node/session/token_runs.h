// The token ids of a session's positions on this node, within the memory budget.
#ifndef SOUNDER_KV_NODE_SESSION_TOKEN_RUNS_H_
#define SOUNDER_KV_NODE_SESSION_TOKEN_RUNS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "common/base/ids.h"
#include "kv_node/session/memory_budget.h"

namespace sounder::kv_node {

// Not thread safe.
class TokenRuns {
 public:
  explicit TokenRuns(MemoryBudget* budget) : budget_(budget) {}

  // Tokens of [first, first + count); positions that have one already get the new one. Positions
  // ascend but for that: FAILED_PRECONDITION for new ones before the last. RESOURCE_EXHAUSTED at
  // the memory cap, and then nothing has changed.
  absl::Status Put(base::Position first, std::span<const int32_t> tokens);

  uint64_t count() const { return count_; }
  uint64_t bytes() const;
  void Clear();

 private:
  struct Run {
    base::Position first = 0;
    std::vector<int32_t> tokens;
    Reservation reservation;
    base::Position end() const { return first + static_cast<int64_t>(tokens.size()); }
  };

  MemoryBudget* const budget_;
  std::vector<Run> runs_;  // ascending, with gaps between them
  uint64_t count_ = 0;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_TOKEN_RUNS_H_
