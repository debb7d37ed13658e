// All sessions of a node: open, find, fork, adopt, close, expire.
#ifndef SOUNDER_KV_NODE_SESSION_SESSION_MAP_H_
#define SOUNDER_KV_NODE_SESSION_SESSION_MAP_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/base/executor.h"
#include "common/wire/control_service.h"
#include "kv_node/session/session.h"

namespace sounder::kv_node {

struct SessionMapOptions {
  uint32_t seal_rows = 4096;         // of sessions that leave it to the node
  uint32_t min_indexed_rows = 1024;  // the same
  uint64_t memory_bytes = uint64_t{4} << 30;
  size_t max_sessions = 4096;
  IndexLaneOptions index = {};
  TierOptions tiers = {};
  JournalOptions journal = {};
};

// A node's disk. All of it, and the segments' io executor, outlive the sessions.
struct SessionStores {
  SegmentStore* segments = nullptr;  // where what does not fit into memory goes; null: nowhere
  RecordStore* records = nullptr;    // what durable sessions leave; null, also without the other:
                                     // there are none
  // What all they hold is counted in; null: the map has one of its own. With a disk its work may
  // hold some of it a little longer than there are sessions.
  MemoryBudget* budget = nullptr;
};

// Thread safe. The executor runs index builds and timers; it outlives the map and its sessions.
class SessionMap {
 public:
  SessionMap(const SessionMapOptions& options, base::Executor* executor,
             const SessionStores& stores = {});
  ~SessionMap();

  // Idempotent for the same spec. ALREADY_EXISTS when the id is in use with another spec,
  // FAILED_PRECONDITION on a model mismatch, both naming what differs on both sides;
  // INVALID_ARGUMENT for bad index options, RESOURCE_EXHAUSTED with too many sessions or at the
  // memory cap.
  absl::StatusOr<wire::OpenResult> Open(wire::SessionSpec spec);
  // NOT_FOUND for a session this node does not know.
  absl::StatusOr<std::shared_ptr<Session>> Find(const base::SessionId& id) const;
  // The same for a session of another tenant: who asks learns nothing about it.
  absl::StatusOr<std::shared_ptr<Session>> Find(const base::SessionId& id, uint32_t tenant) const;
  // Applies `sequence` operations first, then frees the session, and answers when a restart will
  // not find it. FAILED_PRECONDITION for another epoch, also for one that ends
  // while it waits.
  void Close(const wire::SessionOp& op, base::Time deadline, wire::StatusReply reply);
  // Applies `sequence` operations first, then opens a child of the rows before a position. The same
  // fork again succeeds. ALREADY_EXISTS if the child is another session, OUT_OF_RANGE beyond the
  // parent's end, RESOURCE_EXHAUSTED as for Open.
  void Fork(const wire::ForkCall& call, base::Time deadline, wire::StatusReply reply);
  // Session::Adopt, and what there is of the session. NOT_FOUND for one that is not open.
  absl::StatusOr<wire::SessionInfo> Adopt(const wire::AdoptCall& call);
  // Closes sessions whose TTL has passed since their writer's last message. Returns how many.
  size_t CloseExpired();
  // Opens the sessions that are recorded; before others are. `progress` is told of each so far.
  // What is damaged is in the result, and is not opened. RESOURCE_EXHAUSTED where tails do not fit
  // into memory.
  absl::StatusOr<VisitResult> Restore(const std::function<void(uint64_t sessions)>& progress);
  // Calls `done` when no segment waits for its index, or at `latest`: only then all rows of durable
  // sessions can be.
  void WhenIndexed(base::Time latest, std::function<void()> done);
  // Writes what is not durable yet of durable sessions, in the background. The first error.
  void MakeDurable(std::function<void(absl::Status)> done);
  // The end: later calls get `reason` too. A restart finds durable sessions.
  void CloseAll(const absl::Status& reason);

  std::vector<std::shared_ptr<Session>> All() const;
  size_t size() const;
  // Over all sessions; what several of them hold is counted once.
  SessionCounts Totals() const;
  // Over all sessions.
  WaitingCounts Waiting() const;
  const MemoryBudget& budget() const { return *budget_; }
  // Where calls about durable sessions, which wait for the disk, may run: null without a store.
  base::Executor* io() const {
    return stores_.segments == nullptr ? nullptr : stores_.segments->io();
  }
  // Writes of durable sessions that failed; each is tried again.
  uint64_t failed_commits() const { return *failed_commits_; }
  const IndexLane& lane() const { return lane_; }
  // Null without a store.
  Tiers* tiers() { return tiers_.get(); }
  const Tiers* tiers() const { return tiers_.get(); }

 private:
  std::optional<absl::Status> Known(const wire::SessionSpec& spec) const;
  std::optional<absl::Status> KnownFork(const wire::ForkCall& call) const;
  absl::Status CheckRoom() const;
  absl::Status OpenFork(const wire::ForkCall& call, const Session& parent, ForkedRows rows);
  absl::StatusOr<std::shared_ptr<const Sampler>> SamplerFor(const wire::SessionSpec& spec);
  absl::StatusOr<std::shared_ptr<Session>> Make(const wire::SessionSpec& spec,
                                                std::shared_ptr<const Sampler> sampler);
  // With the lock held. The journal of an earlier session of the id goes first.
  void InsertLocked(const std::shared_ptr<Session>& session);
  // What there is to say without making a session; nothing: it is to be made. mutex_ is held.
  using LookUp = std::function<std::optional<absl::Status>()>;
  // The session that was made, unless another one of its id was meanwhile; durable if it is to be.
  absl::Status Insert(const std::shared_ptr<Session>& made, const LookUp& look_up);
  absl::Status KeepNew(const std::shared_ptr<Session>& session);
  // Takes it out, ends it, and its records go.
  void Expel(const std::shared_ptr<Session>& session, const absl::Status& reason);
  // The second half of that, after EraseLocked; `forgotten` is told how the records went.
  static void Forget(const std::shared_ptr<Session>& session, const absl::Status& reason,
                     std::function<void(absl::Status)> forgotten);
  void EraseAt(const std::shared_ptr<Session>& session, const wire::SessionRef& ref,
               const wire::StatusReply& reply);
  // `forget`: its records are to go. A session of the same id that is opened later waits for that.
  void EraseLocked(const std::shared_ptr<Session>& session, bool forget);
  void RunFor(const Session& session, std::function<void()> work);

  const SessionMapOptions options_;
  base::Executor* const executor_;
  const SessionStores stores_;
  std::unique_ptr<MemoryBudget> own_budget_;  // or null
  MemoryBudget* const budget_;
  IndexLane lane_;
  const std::shared_ptr<std::atomic<uint64_t>> failed_commits_;
  const std::unique_ptr<Tiers> tiers_;  // or null

  mutable std::mutex mutex_;  // guards everything below
  absl::Status ended_;        // not OK: all were closed, and why
  absl::flat_hash_map<base::SessionId, std::shared_ptr<Session>> sessions_;
  // Samplers by their parameters, shared by the sessions that use them; those that no session uses
  // any more go when the next one is made.
  std::map<std::string, std::weak_ptr<const Sampler>> samplers_;
  // Of durable sessions, also of those whose records are still being removed.
  absl::flat_hash_map<base::SessionId, std::weak_ptr<SessionJournal>> journals_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_SESSION_MAP_H_
