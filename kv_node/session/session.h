// One sequence's rows on this node: its streams, the order of its operations and its seal marks.
//
// Operations (appends, truncates, close) carry sequence numbers 1, 2, 3, ... and are applied in
// that order, whatever order the wire delivers them in. Seal marks lie at multiples of seal_rows
// and wherever an append said so; they divide rows into segments in the same way on every node and
// replica. A session belongs to a writer by its epoch: requests of another epoch are refused.
#ifndef SOUNDER_KV_NODE_SESSION_SESSION_H_
#define SOUNDER_KV_NODE_SESSION_SESSION_H_

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "common/base/executor.h"
#include "common/base/limits.h"
#include "common/wire/control_service.h"
#include "common/wire/messages.h"
#include "kv_node/sampler/sampler.h"
#include "kv_node/session/index_lane.h"
#include "kv_node/session/memory_budget.h"
#include "kv_node/session/row_stream.h"
#include "kv_node/session/session_journal.h"
#include "kv_node/session/tiers.h"
#include "kv_node/session/token_runs.h"

namespace sounder::kv_node {

// What an Attend item has to read, per kv head of the item, in order of position.
struct AttendPlan {
  std::vector<std::vector<Piece>> pieces;  // [kv_head_count]
  std::shared_ptr<const Sampler> sampler;  // for sealed pieces; null: every piece exactly
};

// How an append or a truncate ended.
struct AppendResult {
  absl::Status status;
  uint64_t applied_sequence = 0;  // the session's last applied operation
  // Rows it added, counted per kv head; less than its own if it was refused half way, and none if
  // it was applied before.
  uint64_t rows = 0;
};

// Rows and token ids read back.
struct FetchedRows {
  std::vector<std::vector<Piece>> pieces;  // [kv_head_count], in order of position
  std::vector<int32_t> tokens;
};

// What a fork takes over.
struct ForkedRows {
  explicit ForkedRows(TokenRuns ids) : tokens(std::move(ids)) {}
  std::vector<RowStream> streams;
  TokenRuns tokens;
  base::SessionId parent;
  base::Position position = 0;
  uint64_t sequence = 0;  // of the parent's operations, that the fork was to come after
};

struct SessionCounts {
  uint64_t rows = 0;
  uint64_t segments = 0;
  uint64_t row_bytes = 0;
  uint64_t index_bytes = 0;
  uint64_t shared_bytes = 0;    // of rows, indexes and token ids: other sessions hold them too
  uint64_t reserved_bytes = 0;  // of the budget: all these, all else, and room for indexes to come
};

// What waits for a session: operations for earlier ones, and whoever waits for rows or indexes.
struct WaitingCounts {
  size_t operations = 0;
  size_t waiters = 0;
};

// What the records have of a session.
struct RecordedRows {
  explicit RecordedRows(MemoryBudget* budget) : tokens(budget) {}
  SessionRecord record;
  std::vector<RowStream> streams;  // by layer and kv head
  TokenRuns tokens;
};

struct JournalOptions {
  // Rows of a tail are durable at the latest when there are so many, or after this time.
  int64_t tail_rows = 256;
  base::Duration tail_interval = std::chrono::seconds(1);
};

// Thread safe. Callbacks are called exactly once, without the session's lock, on the caller's
// thread or the executor's. Owned by shared_ptr: the session map, and work in flight.
class Session : public std::enable_shared_from_this<Session> {
 public:
  using AppendDone = std::function<void(const AppendResult&)>;
  using PlanDone = std::function<void(absl::StatusOr<AttendPlan>)>;
  using FetchDone = std::function<void(absl::StatusOr<FetchedRows>)>;
  using ForkDone = std::function<void(absl::StatusOr<ForkedRows>)>;

  // `sampler` indexes the spec's indexed layers; null without an index. `spec` has been validated
  // and its defaults filled in. `fixed` holds FixedBytes(spec) of the budget. The others outlive
  // the session until it is closed. `tiers` null: everything stays in memory.
  Session(wire::SessionSpec spec, std::shared_ptr<const Sampler> sampler, MemoryBudget* budget,
          Reservation fixed, base::Executor* executor, IndexLane* lane, Tiers* tiers = nullptr);
  // Each once, before the session is used. Makes it one with the rows of a fork; makes it the one
  // that was recorded, whose rows end together; keeps records of it from now on.
  void StartFrom(ForkedRows rows);
  absl::Status StartFrom(RecordedRows rows);
  void SetJournal(std::shared_ptr<SessionJournal> journal, const JournalOptions& options);
  // Empty ones, by layer and kv head. `sampler` null: without index.
  static std::vector<RowStream> MakeStreams(const wire::SessionSpec& spec,
                                            const std::shared_ptr<const Sampler>& sampler,
                                            MemoryBudget* budget);
  // What a session takes without any row.
  static uint64_t FixedBytes(const wire::SessionSpec& spec);

  // As it was opened: the epoch may have changed since, see epoch().
  const wire::SessionSpec& spec() const { return spec_; }
  const std::shared_ptr<const Sampler>& sampler() const { return sampler_; }

  // Applies the rows once every operation before has been applied; an operation that was applied
  // before is acknowledged again, one that waits already is answered with it. The item's spans
  // are copied if it has to wait (RESOURCE_EXHAUSTED at the memory cap). DEADLINE_EXCEEDED when an
  // earlier operation did not arrive in time, ALREADY_EXISTS for positions that an earlier
  // operation appended. After a refusal the next operation is that sequence number again; what the
  // refused one had done stays done, and the same item continues there.
  void Append(const wire::AppendItem& item, base::Time deadline, AppendDone done);

  // Forgets rows, token ids and seal marks from `position` on, in the order of operations and with
  // the answers of an append. OUT_OF_RANGE for a position beyond the end.
  void Truncate(const wire::SessionRef& ref, uint64_t sequence, base::Position position,
                base::Time deadline, AppendDone done);

  // Calls `done` when appends may be acknowledged: once the node's index builds keep up, or this
  // session waits for none; at the latest at `latest`, or when the session ends.
  void WhenCaughtUp(base::Time latest, std::function<void()> done);
  // Or when none of its segments waits for an index.
  void WhenIndexed(base::Time latest, std::function<void()> done);

  // Waits until the operations the item names are applied and the segments it needs are indexed.
  // DEADLINE_EXCEEDED if they are not in time, RESOURCE_EXHAUSTED if too much waits already.
  void Plan(const wire::AttendItem& item, base::Time deadline, PlanDone done);

  // Reads back rows and token ids, exactly those of the range. Waits and errors as those of Plan.
  void Fetch(const wire::FetchItem& item, base::Time deadline, FetchDone done);
  // The rows before `position` for another session, once `sequence` operations are applied. Errors
  // as those of Plan, and OUT_OF_RANGE beyond the end.
  void Fork(const wire::SessionRef& ref, uint64_t sequence, base::Position position,
            base::Time deadline, ForkDone done);

  // A new writer: from now on only requests of `epoch` are taken, and what waits of another one is
  // refused. FAILED_PRECONDITION, naming both, for an epoch that is not above the session's, except
  // that of the same holder.
  absl::Status Adopt(uint64_t epoch, uint64_t holder);
  // FAILED_PRECONDITION naming both, unless the session is at that epoch.
  absl::Status CheckEpoch(const wire::SessionRef& ref) const;
  uint64_t epoch() const;

  // No operation after this one; whatever waits ends with `reason`. The caller drops the session.
  // What is recorded stays: see SessionJournal::Remove.
  void Close(absl::Status reason);
  // Writes what is not durable yet, and blocks; OK for sessions in memory.
  absl::Status MakeDurable();
  const std::shared_ptr<SessionJournal>& journal() const { return journal_; }
  // Calls `done` when `sequence` operations have been applied, or the deadline has passed, or its
  // epoch is over.
  void WhenApplied(const wire::SessionRef& ref, uint64_t sequence, base::Time deadline,
                   std::function<void(absl::Status)> done);

  // The session's segments, also those to come, stay in memory for so long; 0: no longer. `soft`:
  // unless nothing else can leave it.
  void Pin(base::Duration duration, bool soft);
  // Its sealed segments that are ready.
  std::vector<std::shared_ptr<SealedSegment>> Segments() const;

  wire::SessionInfo Info() const;
  // `once`: blocks that were counted for other sessions are not counted again.
  SessionCounts Counts(SharedBlocks* once = nullptr) const;
  // Whether it is the fork of that place of that session.
  bool IsForkOf(const base::SessionId& parent, base::Position position, uint64_t sequence) const;
  base::SessionId parent() const;  // empty: not a fork
  WaitingCounts Waiting() const;
  // When it is closed unless its writer is heard of before; kNever: it is not.
  base::Time expires() const { return life_->end(); }
  // Its writer is alive: the TTL counts from now on.
  void Touch();

 private:
  struct Operation {
    explicit Operation(MemoryBudget* budget) : reservation(budget) {}
    wire::AppendItem item;
    std::optional<base::Position> truncate_to;  // of a truncate, whose item has no rows
    memory::AlignedBuffer copy;                 // what the item's spans point into while it waits
    Reservation reservation;                    // of the copy
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
    uint64_t sequence = 0;          // operations that must have been applied
    std::optional<uint64_t> epoch;  // of the writer that asked
    std::function<bool()> ready;    // under the lock, until it is true; null: that is enough
    base::TimerId timer = 0;
    std::function<void(absl::Status)> done;
  };
  // A truncate: what was asked for before it was asked of rows that are gone.
  struct Cut {
    uint64_t sequence = 0;
    base::Position position = 0;
  };
  using Calls = std::vector<std::function<void()>>;  // made after the lock is released
  using Pieces = std::vector<std::vector<Piece>>;    // by kv head
  // Rows that a request wants.
  struct Wanted {
    uint32_t layer = 0;
    uint32_t kv_head_begin = 0;
    uint32_t kv_head_count = 0;
    base::PositionRange range;
    base::Position layout_position = 0;
    uint64_t sequence = 0;
    bool indexed = false;
  };
  static constexpr char kForRows[] = "for rows in flight, being indexed or being read";
  // Rows that something waits for, to be copied. Shared with the loading.
  struct Load : public std::enable_shared_from_this<Load> {
    absl::flat_hash_set<const SealedSegment*> segments;  // being loaded
    absl::Status error;                                  // the first
  };
  // What it has asked for, and found, so far.
  struct Gathering {
    absl::flat_hash_set<const SealedSegment*> asked;        // to be opened
    std::vector<const SealedSegment*> awaited;              // of these, when it looked last
    std::vector<std::shared_ptr<const Segment>> held;       // what is open stays so until all is
    std::shared_ptr<Load> load = std::make_shared<Load>();  // of what is to be split
    absl::StatusOr<Pieces> pieces = absl::UnknownError("not gathered");
  };

  void Submit(const wire::AppendItem& item, std::optional<base::Position> truncate_to,
              absl::Status status, base::Time deadline, AppendDone done);
  absl::Status CheckOpen(const wire::SessionRef& ref) const;
  absl::Status CheckEnd(base::Position position) const;
  absl::Status CheckCuts(uint64_t sequence, base::Position end) const;
  absl::Status CheckHeads(const char* what, uint32_t begin, uint32_t count) const;
  absl::Status CheckFetch(const wire::FetchItem& item) const;
  absl::Status CheckAppend(const wire::AppendItem& item) const;
  absl::Status CheckAttend(const wire::AttendItem& item) const;
  absl::Status CheckSampled(const wire::AttendItem& item) const;
  absl::Status CheckQueue(uint64_t sequence) const;
  absl::Status Enqueue(const wire::AppendItem& item, std::optional<base::Position> truncate_to,
                       base::Time deadline, AppendDone* done);
  absl::Status LateError(uint64_t sequence) const;
  void GiveUp(uint64_t sequence, uint64_t serial);
  void Answer(Operation* operation, const absl::Status& status, uint64_t rows, Calls* calls);
  absl::Status Apply(const wire::AppendItem& item, uint64_t* rows);
  absl::Status ApplyHead(const wire::AppendItem& item, uint32_t head, bool resuming,
                         uint64_t* rows);
  void FinishHead(uint32_t layer, uint32_t head);
  absl::Status SealStream(uint32_t layer, uint32_t head);
  void StartSegment(uint32_t layer, const std::shared_ptr<SealedSegment>& segment);
  absl::Status ApplyTruncate(uint64_t sequence, base::Position position);
  // Counts a segment among those whose index is awaited; false if it is built.
  bool Await(SealedSegment& segment);
  void OnIndexed(const SealedSegment* segment);
  // Whether the pieces are there, or an error: with segments that are open and, where that is
  // wanted, indexed. Those that are cold come.
  bool Gather(const Wanted& wanted, Gathering* gathering);
  enum class Look { kComplete, kWaits, kAgain };  // the later one decides
  absl::StatusOr<Look> SplitFor(const Wanted& wanted, Gathering* gathering);
  absl::StatusOr<Look> LookAt(const Pieces& pieces, bool indexed, Gathering* gathering);
  absl::StatusOr<Look> AwaitOpen(const std::shared_ptr<SealedSegment>& segment,
                                 Gathering* gathering);
  // Whether the rows that an operation has to copy are in memory, and what it cuts is split; those
  // that are not come.
  absl::StatusOr<bool> HoldCopied(const Operation& operation);
  void ReleaseCopied(const Operation& operation);
  // Splits what is merged around `position` in streams [first, last): false while rows are loaded.
  absl::StatusOr<bool> Split(size_t first, size_t last, base::Position position, Load& load);
  void LoadCopied(std::shared_ptr<SealedSegment> away, Load& load);
  void OnCopiedLoaded(Load& load, const SealedSegment* segment, const absl::Status& status);
  ForkedRows ForkAt(uint64_t sequence, base::Position position);
  void LoadForJournal(const std::shared_ptr<SealedSegment>& segment);
  void PushWatch(Calls* calls);
  void WatchRoom();
  void OnRelieved();
  void NoteAppended(const wire::AppendItem& item);
  SessionImage TakeImage(const RecordedExtent& recorded);
  absl::StatusOr<Pieces> Collect(const Wanted& wanted) const;
  absl::StatusOr<std::vector<int32_t>> ReadTokens(base::PositionRange range) const;
  void ApplyQueued(Calls* calls);
  void WakeWaiters(Calls* calls);
  // `ref`: whose epoch must be the session's as long as it waits; null: anybody's.
  void Wait(const wire::SessionRef* ref, uint64_t sequence, std::function<bool()> ready,
            base::Time deadline, std::string what, std::function<void(absl::Status)> done);
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
  Tiers* const tiers_;                       // or null
  std::shared_ptr<SessionJournal> journal_;  // null: the session lives in memory
  JournalOptions journal_options_;
  std::vector<bool> indexed_;  // by layer
  const std::shared_ptr<SessionLife> life_;

  mutable std::mutex mutex_;  // guards everything below
  Reservation fixed_;
  std::vector<RowStream> streams_;
  TokenRuns tokens_;
  uint64_t applied_ = 0;
  absl::Status failed_;    // why the operation after applied_ was refused
  Attempt half_done_;      // of that operation, if rows of it were taken
  std::vector<Cut> cuts_;  // the later, the further on: each hides those before it and beyond
  // Whose index is awaited, and where they begin.
  absl::flat_hash_map<const SealedSegment*, base::Position> unbuilt_;
  absl::flat_hash_set<const SealedSegment*> opening_;      // for a request that waits
  std::shared_ptr<Load> load_ = std::make_shared<Load>();  // of the operation whose turn it is
  bool no_room_ = false;                                   // somebody waits for it
  bool watching_room_ = false;                             // and will be told
  base::Time pinned_until_{};
  bool soft_pin_ = false;
  base::Position unchanged_before_ = base::kMaxPositions;  // since the last image
  int64_t unrecorded_rows_ = 0;
  absl::Status restored_;  // not OK: from records, and who writes has to adopt it first
  uint64_t epoch_;
  uint64_t holder_ = 0;  // who adopted it; 0: whoever opened it
  base::SessionId parent_;
  base::Position fork_position_ = -1;
  uint64_t fork_sequence_ = 0;
  std::map<uint64_t, Operation> queued_;
  uint64_t last_operation_ = 0;
  std::map<uint64_t, Waiter> waiters_;
  uint64_t last_waiter_ = 0;
  absl::Status closed_;  // not OK: closed, and why
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_SESSION_H_
