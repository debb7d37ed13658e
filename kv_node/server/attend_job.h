// One Attend request on its way through the node: plans from the sessions, work units of (item,
// kv head, piece or part of one) on the executor, partial outputs merged in order of position, the
// reply. Units whose rows are in the store are worked on in two steps, with the read in between,
// for which no thread waits.
#ifndef SOUNDER_KV_NODE_SERVER_ATTEND_JOB_H_
#define SOUNDER_KV_NODE_SERVER_ATTEND_JOB_H_

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "common/base/executor.h"
#include "common/base/limits.h"
#include "common/wire/messages.h"
#include "kv_node/sampler/sampler.h"
#include "kv_node/sampler/scratch_pool.h"
#include "kv_node/server/attend_queue.h"
#include "kv_node/server/head_queries.h"
#include "kv_node/server/stored_piece.h"
#include "kv_node/server/unit_steps.h"
#include "kv_node/session/session_map.h"
#include "kv_node/store/row_source.h"

namespace sounder::kv_node {

// Runs once. Shared by the work in flight; `done` is called exactly once with the reply, whose
// spans point into the job, which lives until `done` returns. A job whose turn comes too late
// answers DEADLINE_EXCEEDED as a whole, without items; one whose rows the disk would read too late
// RESOURCE_EXHAUSTED, with advice.
class AttendJob : public std::enable_shared_from_this<AttendJob> {
 public:
  using Done = std::function<void(const wire::AttendReply& reply)>;

  // `number`: of the job in the queue, which has taken it on. rows: of the store; null: the node
  // has none. The pointers outlive the job.
  AttendJob(wire::AttendRequest request, base::Time arrival, uint64_t number, SessionMap* sessions,
            RowSource* rows, base::Executor* executor, AttendQueue* queue, ScratchPool* scratches,
            Done done);

  void Start();

 private:
  // The queries of one kv head of an item, packed as kernels want them, and their partial outputs.
  struct HeadWork {
    size_t item = 0;
    uint32_t head = 0;      // within the item
    size_t first_unit = 0;  // its units are consecutive, in order of position
    size_t num_units = 0;
    std::atomic<size_t> unfinished{0};  // of its units
    HeadQueries packed;
    std::once_flag prepare;  // by the first unit that samples
    std::unique_ptr<PreparedQueries> prepared;
    std::vector<float> outputs;      // [T * group, dim], merged
    std::vector<float> lse;          // [T * group]
    std::vector<ErrorTerms> errors;  // [T * group] or empty
  };
  // One piece of one head, or a part of one that is attended exactly.
  struct Unit {
    size_t head_work = 0;
    Piece piece;
    std::shared_ptr<const Sampler> sampler;  // null: exact
    std::unique_ptr<StoredPiece> stored;     // null: its rows are in memory
    uint64_t room = 0;                       // of a stored one, for what is read
    uint64_t reads = 0;                      // bytes it was expected to read
    absl::Status status;                     // of reading them
    std::vector<float> outputs;
    std::vector<float> lse;
    std::vector<ErrorTerms> errors;
    AttendStats stats;
    bool exact = false;
  };
  // Units whose rows are about to be read.
  struct Reads {
    std::vector<uint32_t> units;
    uint64_t bytes = 0;
  };

  void OnPlan(size_t item, absl::StatusOr<AttendPlan> plan);
  void OnAllPlanned();
  void Begin();         // its turn has come
  void StartRunners();  // of which this is one
  void Expire();        // or its turn comes too late
  std::vector<Unit> UnitsOf(const wire::AttendItem& item, const AttendPlan& plan,
                            uint32_t head) const;
  absl::Status TakePartialBytes(const wire::AttendItem& item, size_t num_units);
  absl::Status AddItem(size_t item, const AttendPlan& plan);
  bool TakeReads();
  uint64_t ReadsOf(const Unit& unit) const;
  uint64_t RoomOf(const Unit& unit) const;
  void StartSteps(size_t runners);
  // A runner; `again`: for another turn of the job.
  void RunUnits(bool again);
  void TakeSteps(Scratch& scratch, base::Duration* used, Reads* reads);
  static bool IsBatch(const Reads& reads);
  void Submit(Reads* reads);
  void OnRead(const std::vector<uint32_t>& units, std::span<const absl::Status> statuses);
  GroupQuery QueryOf(const Unit& unit);
  bool Choose(Unit& unit, Scratch& scratch);
  void RunUnit(Unit& unit, Scratch& scratch);
  void AttendUnit(Unit& unit, Scratch& scratch);
  void RunExact(const wire::AttendItem& item, const HeadWork& work, Unit& unit) const;
  bool SeesWholePiece(const wire::AttendItem& item, const Piece& piece) const;
  void FailItems();
  void Finish();
  void Answer();
  void MergeHead(HeadWork& work) const;
  void FillReplyItem(size_t item);

  const wire::AttendRequest request_;
  const base::Time arrival_;
  const base::Time deadline_;
  const uint64_t number_;
  SessionMap* const sessions_;
  RowSource* const rows_;
  base::Executor* const executor_;
  AttendQueue* const queue_;
  ScratchPool* const scratches_;
  const Done done_;

  std::vector<absl::StatusOr<AttendPlan>> plans_;  // each written once, before unplanned_ drops
  std::atomic<size_t> unplanned_;
  size_t partial_bytes_ = 0;
  uint64_t reads_ = 0;              // bytes of units that it was taken on with
  std::deque<HeadWork> heads_;      // those of an item are consecutive
  std::vector<size_t> first_head_;  // by item
  std::vector<Unit> units_;
  UnitSteps steps_;
  std::atomic<size_t> unfinished_{0};
  std::array<std::atomic<int64_t>, policy::kWorkKinds> took_nanos_{};  // of the runners
  base::Time asked_{};                                                 // the sessions
  base::Time planned_{};                                               // by all of them
  base::Time attended_{};                                              // the first row
  wire::AttendReply reply_;
  std::vector<std::vector<float>> outputs_;                 // [item][T, Hq, dim]
  std::vector<std::vector<float>> lse_;                     // [item][T, Hq]
  std::vector<std::vector<wire::ErrorTerms>> error_terms_;  // [item][T, Hq]
  std::vector<std::vector<float>> head_mass_;               // [item][kv heads]
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_ATTEND_JOB_H_
