// The token ids of a session's positions on this node, within the memory budget.
#ifndef SOUNDER_KV_NODE_SESSION_TOKEN_RUNS_H_
#define SOUNDER_KV_NODE_SESSION_TOKEN_RUNS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "kv_node/session/memory_budget.h"
#include "kv_node/session/shared_rows.h"

namespace sounder::kv_node {

// Ids of consecutive positions in blocks of at most 4,096, which sessions share after a fork: as
// with tails, ids are written once, and one session may write behind the last. A copy is another
// session's hold on the same ids. Not thread safe.
class TokenRuns {
 public:
  explicit TokenRuns(MemoryBudget* budget) : budget_(budget) {}

  // Whether Put has anything against them: FAILED_PRECONDITION for new ids before the last,
  // ALREADY_EXISTS for a position that has another id.
  absl::Status Check(base::Position first, std::span<const int32_t> tokens) const;
  // Ids of [first, first + count), which have passed Check; positions that have theirs are skipped.
  // RESOURCE_EXHAUSTED at the memory cap; then some may have been taken, and the same again
  // continues.
  absl::Status Put(base::Position first, std::span<const int32_t> tokens);
  // FAILED_PRECONDITION naming the first position of the range that has none.
  absl::StatusOr<std::vector<int32_t>> Read(base::PositionRange range) const;

  // Runs of ids of positions at or after `position`.
  struct Ids {
    base::Position first = 0;
    std::vector<int32_t> ids;
  };
  std::vector<Ids> From(base::Position position) const;

  // Forgets ids from `position` on.
  void Truncate(base::Position position);
  void Clear() { runs_.clear(); }

  uint64_t count() const;
  void Count(HeldBytes* bytes, SharedBlocks* once) const;

 private:
  struct Block {
    Block(base::Position position, Reservation reserved, int64_t capacity)
        : first(position),
          tokens(static_cast<size_t>(capacity)),
          reservation(std::move(reserved)) {}
    const base::Position first;
    std::vector<int32_t> tokens;  // its size is the capacity
    Reservation reservation;
    std::atomic<int64_t> written{0};
    std::atomic<int> holders{0};
  };
  struct Run {
    Held<Block> block;
    int64_t size = 0;  // of the block, this session's
    base::Position end() const { return block->first + size; }
  };

  // The last run that begins at or before `position`; null: there is none.
  const Run* RunOf(base::Position position) const;
  // Makes room for `count` more ids in the run's block, as far as a block goes: how many fit.
  absl::StatusOr<int64_t> Extend(Run* run, int64_t count);
  absl::StatusOr<Held<Block>> NewBlock(base::Position first, int64_t capacity, Run* replaces) const;

  MemoryBudget* budget_;
  std::vector<Run> runs_;  // ascending; gaps lie between runs
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_TOKEN_RUNS_H_
