// One sequence's rows on this node: its streams, the order of its operations and its seal marks.
//
// Operations (appends, close) carry sequence numbers 1, 2, 3, ... and are applied in that order,
// whatever order the wire delivers them in. Seal marks lie at multiples of seal_rows and wherever
// an append said so; they divide rows into segments in the same way on every node and replica.
#ifndef SOUNDER_KV_NODE_SESSION_SESSION_H_
#define SOUNDER_KV_NODE_SESSION_SESSION_H_

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/executor.h"
#include "common/wire/control_service.h"
#include "common/wire/messages.h"
#include "kv_node/sampler/sampler.h"
#include "kv_node/session/index_lane.h"
#include "kv_node/session/memory_budget.h"
#include "kv_node/session/row_stream.h"
#include "kv_node/session/token_runs.h"

namespace sounder::kv_node {

// What an Attend item has to read, per kv head of the item, in order of position.
struct AttendPlan {
  std::vector<std::vector<Piece>> pieces;  // [kv_head_count]
  std::shared_ptr<const Sampler> sampler;  // for sealed pieces; null: every piece exactly
};

// How an append ended.
struct AppendResult {
  absl::Status status;
  uint64_t applied_sequence = 0;  // the session's last applied operation
  // Rows it added, counted per kv head; less than its own if it was refused half way, and none if
  // it was applied before.
  uint64_t rows = 0;
};

struct SessionCounts {
  uint64_t rows = 0;
  uint64_t segments = 0;
  uint64_t row_bytes = 0;
  uint64_t index_bytes = 0;
  uint64_t reserved_bytes = 0;  // of the budget: these, all else, and room for indexes to come
};

// What waits for a session: operations for earlier ones, and whoever waits for rows or indexes.
struct WaitingCounts {
  size_t operations = 0;
  size_t waiters = 0;
};

// Thread safe. Callbacks are called exactly once, without the session's lock, on the caller's
// thread or the executor's. Owned by shared_ptr: the session map, and work in flight.
class Session : public std::enable_shared_from_this<Session> {
 public:
  using AppendDone = std::function<void(const AppendResult&)>;
  using PlanDone = std::function<void(absl::StatusOr<AttendPlan>)>;

  // `sampler` indexes the spec's indexed layers; null without an index. `spec` has been validated
  // and its defaults filled in. `fixed` holds FixedBytes(spec) of the budget. The others outlive
  // the session until it is closed.
  Session(wire::SessionSpec spec, std::shared_ptr<const Sampler> sampler, MemoryBudget* budget,
          Reservation fixed, base::Executor* executor, IndexLane* lane);
  // What a session takes without any row.
  static uint64_t FixedBytes(const wire::SessionSpec& spec);

  const wire::SessionSpec& spec() const { return spec_; }

  // Applies the rows once every operation before has been applied; an operation that was applied
  // before is acknowledged again, one that waits already is answered with it. The item's spans
  // are copied if it has to wait (RESOURCE_EXHAUSTED at the memory cap). DEADLINE_EXCEEDED when an
  // earlier operation did not arrive in time, ALREADY_EXISTS for positions that an earlier
  // operation appended. After a refusal the next operation is that sequence number again; what the
  // refused one had done stays done, and the same item continues there.
  void Append(const wire::AppendItem& item, base::Time deadline, AppendDone done);

  // Calls `done` when appends may be acknowledged: once the node's index builds keep up, or this
  // session waits for none; at the latest at `latest`, or when the session ends.
  void WhenCaughtUp(base::Time latest, std::function<void()> done);

  // Waits until the operations the item names are applied and the segments it needs are indexed.
  // DEADLINE_EXCEEDED if they are not in time, RESOURCE_EXHAUSTED if too much waits already.
  void Plan(const wire::AttendItem& item, base::Time deadline, PlanDone done);

  // No operation after this one; whatever waits ends with `reason`. The caller drops the session.
  void Close(absl::Status reason);
  // Calls `done` when `sequence` operations have been applied, or the deadline has passed.
  void WhenApplied(uint64_t sequence, base::Time deadline, std::function<void(absl::Status)> done);

  wire::SessionInfo Info() const;
  SessionCounts Counts() const;
  WaitingCounts Waiting() const;
  base::Time last_touched() const;
  // Its writer is alive: the TTL counts from now on.
  void Touch();

 private:
  struct Operation {
    explicit Operation(MemoryBudget* budget) : reservation(budget) {}
    wire::AppendItem item;
    memory::AlignedBuffer copy;  // what the item's spans point into while it waits
    Reservation reservation;     // of the copy
    base::TimerId timer = 0;
    uint64_t serial = 0;           // tells it from another of the same number
    std::vector<AppendDone> done;  // one per copy that arrived
  };
  // What must be the same for a retry to continue where the first try failed.
  struct Attempt {
    uint64_t sequence = 0;
    uint32_t layer = 0;
    uint32_t kv_head_begin = 0;
    uint32_t kv_head_count = 0;
    base::Position first_position = 0;
    uint32_t row_count = 0;
    friend bool operator==(const Attempt&, const Attempt&) = default;
  };
  struct Waiter {
    uint64_t sequence = 0;        // operations that must have been applied
    std::function<bool()> ready;  // under the lock, until it is true; null: that is enough
    base::TimerId timer = 0;
    std::function<void(absl::Status)> done;
  };
  using Calls = std::vector<std::function<void()>>;  // made after the lock is released

  absl::Status CheckRef(const wire::SessionRef& ref) const;
  absl::Status CheckAppend(const wire::AppendItem& item) const;
  absl::Status CheckAttend(const wire::AttendItem& item) const;
  absl::Status CheckSampled(const wire::AttendItem& item) const;
  absl::Status CheckQueue(uint64_t sequence) const;
  absl::Status Enqueue(const wire::AppendItem& item, base::Time deadline, AppendDone* done);
  void GiveUp(uint64_t sequence, uint64_t serial);
  void Answer(Operation* operation, const absl::Status& status, uint64_t rows, Calls* calls);
  absl::Status Apply(const wire::AppendItem& item, uint64_t* rows);
  absl::Status ApplyHead(const wire::AppendItem& item, uint32_t head, bool resuming,
                         uint64_t* rows);
  absl::Status SealStream(uint32_t layer, uint32_t head);
  bool Ready(const wire::AttendItem& item) const;
  absl::StatusOr<AttendPlan> MakePlan(const wire::AttendItem& item) const;
  void BuildIndex(uint32_t layer, uint32_t head, std::shared_ptr<Segment> segment,
                  Scratch& scratch);
  void ApplyQueued(Calls* calls);
  void WakeWaiters(Calls* calls);
  void Wait(uint64_t sequence, std::function<bool()> ready, base::Time deadline, std::string what,
            std::function<void(absl::Status)> done);
  bool IndexedLayer(uint32_t layer) const { return indexed_[layer]; }
  bool Sampled(const wire::AttendItem& item) const {
    return item.attention != wire::AttentionKind::kExact;
  }
  RowStream& Stream(uint32_t layer, uint32_t head) {
    return streams_[layer * spec_.kv_head_count + head - spec_.kv_head_begin];
  }
  const RowStream& Stream(uint32_t layer, uint32_t head) const {
    return streams_[layer * spec_.kv_head_count + head - spec_.kv_head_begin];
  }

  const wire::SessionSpec spec_;
  const std::shared_ptr<const Sampler> sampler_;  // shared with sessions of the same options
  MemoryBudget* const budget_;
  base::Executor* const executor_;
  IndexLane* const lane_;
  std::vector<bool> indexed_;  // by layer

  mutable std::mutex mutex_;  // guards everything below
  Reservation fixed_;
  std::vector<RowStream> streams_;
  TokenRuns tokens_;
  uint64_t applied_ = 0;
  absl::Status failed_;   // why the operation after applied_ was refused
  Attempt half_done_;     // of that operation, if rows of it were taken
  uint64_t unbuilt_ = 0;  // index builds that have not ended
  std::map<uint64_t, Operation> queued_;
  uint64_t last_operation_ = 0;
  std::map<uint64_t, Waiter> waiters_;
  uint64_t last_waiter_ = 0;
  absl::Status closed_;  // not OK: closed, and why
  base::Time last_touched_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_SESSION_H_
