#include "kv_node/session/session_map.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kv_node/session/spec_difference.h"

namespace sounder::kv_node {
namespace {

absl::Status NotFound(const base::SessionId& id) {
  return absl::NotFoundError(absl::StrCat("session ", id.ToString(), " is not open on this node"));
}

lsh::LshParams ParamsOf(const wire::LshOptions& options) {
  lsh::LshParams params;
  params.bits_per_table = static_cast<int>(options.bits_per_table);
  params.num_tables = static_cast<int>(options.num_tables);
  params.min_collisions = static_cast<int>(options.min_collisions);
  params.projection = options.projection == wire::Projection::kGaussian
                          ? lsh::ProjectionKind::kGaussian
                          : lsh::ProjectionKind::kHadamard;
  params.seed = options.seed;
  return params;
}

// Of a session with an index.
SamplerSpec SamplerSpecOf(const wire::SessionSpec& spec) {
  SamplerSpec sampler;
  sampler.dim = static_cast<int>(spec.model.head_dim);
  sampler.min_indexed_rows = spec.min_indexed_rows;
  if (spec.index() == wire::AttentionKind::kSketch) {
    sampler.kind = SamplerKind::kSketch;
    sampler.sketch.bits = static_cast<int>(spec.sketch.bits);
    sampler.sketch.seed = spec.sketch.seed;
    sampler.sketch.int8_rows = spec.row_format == wire::RowFormat::kInt8;
  } else {
    sampler.kind = SamplerKind::kLshTables;
    sampler.lsh = ParamsOf(spec.lsh);
  }
  return sampler;
}

// Two specifications with the same text make samplers that do the same.
std::string TextOf(const SamplerSpec& spec) {
  return absl::StrCat(std::string(NameOf(spec.kind)), "/", spec.dim, "/", spec.min_indexed_rows,
                      "/", spec.lsh.bits_per_table, "/", spec.lsh.num_tables, "/",
                      spec.lsh.min_collisions, "/", static_cast<int>(spec.lsh.projection), "/",
                      spec.lsh.seed, "/", spec.sketch.bits, "/", spec.sketch.seed, "/",
                      spec.sketch.int8_rows);
}

}  // namespace

SessionMap::SessionMap(const SessionMapOptions& options, base::Executor* executor,
                       const SessionStores& stores)
    : options_(options),
      executor_(executor),
      stores_(stores),
      own_budget_(stores.budget == nullptr ? std::make_unique<MemoryBudget>(options.memory_bytes)
                                           : nullptr),
      budget_(stores.budget == nullptr ? own_budget_.get() : stores.budget),
      lane_(executor, options.index),
      failed_commits_(std::make_shared<std::atomic<uint64_t>>(0)),
      tiers_(stores.segments == nullptr
                 ? nullptr
                 : std::make_unique<Tiers>(options.tiers, stores.segments, budget_)) {}

SessionMap::~SessionMap() { CloseAll(absl::UnavailableError("the node is shutting down")); }

absl::StatusOr<std::shared_ptr<const Sampler>> SessionMap::SamplerFor(
    const wire::SessionSpec& spec) {
  if (spec.index() == wire::AttentionKind::kExact) return std::shared_ptr<const Sampler>();
  const SamplerSpec sampler_spec = SamplerSpecOf(spec);
  const std::string key = TextOf(sampler_spec);
  {
    std::lock_guard lock(mutex_);
    const auto found = samplers_.find(key);
    if (found != samplers_.end()) {
      if (std::shared_ptr<const Sampler> sampler = found->second.lock()) return sampler;
    }
  }
  ASSIGN_OR_RETURN(std::shared_ptr<const Sampler> sampler, MakeSampler(sampler_spec));
  std::lock_guard lock(mutex_);
  std::erase_if(samplers_, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<const Sampler>& cached = samplers_[key];
  if (std::shared_ptr<const Sampler> other = cached.lock()) return other;  // made meanwhile
  cached = sampler;
  return sampler;
}

// What there is to say to an Open without making a session; nothing if one is to be made.
std::optional<absl::Status> SessionMap::Known(const wire::SessionSpec& spec) const {
  if (!ended_.ok()) return ended_;
  const auto found = sessions_.find(spec.session.id);
  if (found == sessions_.end()) {
    if (absl::Status full = CheckRoom(); !full.ok()) return full;
    return std::nullopt;
  }
  wire::SessionSpec open = found->second->spec();
  open.session.epoch = found->second->epoch();
  const std::string name = "session " + spec.session.id.ToString();
  // Another tenant learns nothing about it.
  if (open.tenant != spec.tenant) return absl::AlreadyExistsError(name + " is another tenant's");
  if (const std::string model = ModelDifference(open.model, spec.model); !model.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " belongs to another model than the request: ", model));
  }
  if (const std::string options = SpecDifference(open, spec); !options.empty()) {
    return absl::AlreadyExistsError(absl::StrCat(name, " is open with other options: ", options));
  }
  return absl::OkStatus();
}

absl::Status SessionMap::CheckRoom() const {
  if (sessions_.size() < options_.max_sessions) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the node holds ", sessions_.size(), " sessions, its most (--max-sessions)"));
}

// Samplers and sessions take milliseconds to make: not under the lock that every request takes.
absl::StatusOr<wire::OpenResult> SessionMap::Open(wire::SessionSpec spec) {
  if (spec.seal_rows == 0) spec.seal_rows = options_.seal_rows;
  if (spec.min_indexed_rows == 0) spec.min_indexed_rows = options_.min_indexed_rows;
  if (spec.durability == wire::Durability::kDisk && stores_.records == nullptr) {
    return absl::FailedPreconditionError(
        "durability 'disk': this node keeps sessions in memory only (it has no --store)");
  }
  if (spec.row_format == wire::RowFormat::kInt8 && spec.index() != wire::AttentionKind::kSketch) {
    return absl::InvalidArgumentError(
        "row format 'int8': only sessions with sketches keep rows in eight bits");
  }
  const wire::OpenResult result{spec.seal_rows, spec.min_indexed_rows};
  const auto answer = [&result](const absl::Status& status) -> absl::StatusOr<wire::OpenResult> {
    if (!status.ok()) return status;
    return result;
  };
  std::shared_ptr<Session> session;
  {
    std::lock_guard lock(mutex_);
    const std::optional<absl::Status> known = Known(spec);
    if (known.has_value() && !known->ok()) return *known;
    if (known.has_value()) session = sessions_.at(spec.session.id);
  }
  if (session != nullptr) return answer(session->MakeDurable());
  ASSIGN_OR_RETURN(std::shared_ptr<const Sampler> sampler, SamplerFor(spec));
  ASSIGN_OR_RETURN(session, Make(spec, std::move(sampler)));
  return answer(Insert(session, [&] { return Known(spec); }));
}

absl::Status SessionMap::Insert(const std::shared_ptr<Session>& made, const LookUp& look_up) {
  std::shared_ptr<Session> other;  // made meanwhile
  {
    std::lock_guard lock(mutex_);
    const std::optional<absl::Status> known = look_up();
    if (known.has_value() && !known->ok()) return *known;
    if (known.has_value()) {
      other = sessions_.at(made->spec().session.id);
    } else {
      InsertLocked(made);
    }
  }
  return other != nullptr ? other->MakeDurable() : KeepNew(made);
}

// A session without rows.
absl::StatusOr<std::shared_ptr<Session>> SessionMap::Make(const wire::SessionSpec& spec,
                                                          std::shared_ptr<const Sampler> sampler) {
  Reservation fixed(budget_);
  RETURN_IF_ERROR(fixed.Resize(Session::FixedBytes(spec)));
  auto session = std::make_shared<Session>(spec, std::move(sampler), budget_, std::move(fixed),
                                           executor_, &lane_, tiers_.get());
  if (spec.durability == wire::Durability::kDisk) {
    const JournalStores stores = {stores_.segments, stores_.records, failed_commits_};
    session->SetJournal(std::make_shared<SessionJournal>(spec.session.id, stores),
                        options_.journal);
  }
  return session;
}

absl::StatusOr<std::shared_ptr<Session>> SessionMap::Find(const base::SessionId& id) const {
  std::lock_guard lock(mutex_);
  const auto found = sessions_.find(id);
  if (found != sessions_.end()) return found->second;
  return ended_.ok() ? NotFound(id) : ended_;
}

absl::StatusOr<std::shared_ptr<Session>> SessionMap::Find(const base::SessionId& id,
                                                          uint32_t tenant) const {
  absl::StatusOr<std::shared_ptr<Session>> session = Find(id);
  if (session.ok() && (*session)->spec().tenant != tenant) return NotFound(id);
  return session;
}

// Not by its id alone: that may have been closed and opened again meanwhile.
void SessionMap::EraseLocked(const std::shared_ptr<Session>& session, bool forget) {
  const auto found = sessions_.find(session->spec().session.id);
  if (found != sessions_.end() && found->second == session) sessions_.erase(found);
  if (forget && session->journal() != nullptr) session->journal()->StopWriting();
}

void SessionMap::Expel(const std::shared_ptr<Session>& session, const absl::Status& reason) {
  {
    std::lock_guard lock(mutex_);
    EraseLocked(session, /*forget=*/true);
  }
  Forget(session, reason, [](const absl::Status&) {});
}

void SessionMap::Forget(const std::shared_ptr<Session>& session, const absl::Status& reason,
                        std::function<void(absl::Status)> forgotten) {
  session->Close(reason);
  if (session->journal() != nullptr) {
    session->journal()->Remove(std::move(forgotten));
  } else {
    forgotten(absl::OkStatus());
  }
}

void SessionMap::Close(const wire::SessionOp& op, base::Time deadline, wire::StatusReply reply) {
  absl::StatusOr<std::shared_ptr<Session>> session = Find(op.session.id, op.tenant);
  if (!session.ok()) {
    reply(session.status());
    return;
  }
  // Whatever became of earlier operations, the session goes: nobody will send them again.
  (*session)->WhenApplied(op.session, op.sequence, deadline,
                          [this, ref = op.session, session = *session, reply = std::move(reply)](
                              const absl::Status&) { EraseAt(session, ref, reply); });
}

// A session that ended otherwise meanwhile is closed as well.
void SessionMap::EraseAt(const std::shared_ptr<Session>& session, const wire::SessionRef& ref,
                         const wire::StatusReply& reply) {
  {
    std::unique_lock lock(mutex_);
    absl::Status status = session->CheckEpoch(ref);
    if (absl::IsFailedPrecondition(status)) {
      lock.unlock();
      return reply(std::move(status));
    }
    EraseLocked(session, /*forget=*/true);
  }
  // A restart must not find what was acknowledged as closed. (It is tried until it succeeds.)
  Forget(session, NotFound(ref.id), [reply, id = ref.id](const absl::Status& forgotten) {
    reply(base::Annotate(forgotten, absl::StrCat("session ", id.ToString(),
                                                 " is closed, and still recorded on the disk")));
  });
}

absl::StatusOr<wire::SessionInfo> SessionMap::Adopt(const wire::AdoptCall& call) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Session> session, Find(call.session.id, call.tenant));
  RETURN_IF_ERROR(session->Adopt(call.session.epoch, call.holder));
  RETURN_IF_ERROR(session->MakeDurable());  // an old writer is refused also after a restart
  // Its old writer may have closed it in between.
  const auto found = Find(call.session.id, call.tenant);
  if (!found.ok() || *found != session) return NotFound(call.session.id);
  return session->Info();
}

size_t SessionMap::CloseExpired() {
  const base::Time now = executor_->clock().Now();
  size_t closed = 0;
  for (const std::shared_ptr<Session>& session : All()) {
    if (now < session->expires()) continue;
    Expel(session, NotFound(session->spec().session.id));
    ++closed;
  }
  return closed;
}

void SessionMap::CloseAll(const absl::Status& reason) {
  {
    std::lock_guard lock(mutex_);
    ended_ = reason;
  }
  for (const std::shared_ptr<Session>& session : All()) {
    {
      std::lock_guard lock(mutex_);
      EraseLocked(session, /*forget=*/false);
    }
    session->Close(reason);
  }
}

std::vector<std::shared_ptr<Session>> SessionMap::All() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Session>> sessions;
  sessions.reserve(sessions_.size());
  for (const auto& [id, session] : sessions_) sessions.push_back(session);
  return sessions;
}

SessionCounts SessionMap::Totals() const {
  SessionCounts totals;
  SharedBlocks once;
  for (const std::shared_ptr<Session>& session : All()) {
    const SessionCounts counts = session->Counts(&once);
    totals.rows += counts.rows;
    totals.segments += counts.segments;
    totals.row_bytes += counts.row_bytes;
    totals.index_bytes += counts.index_bytes;
    totals.shared_bytes += counts.shared_bytes;
    totals.reserved_bytes += counts.reserved_bytes;
  }
  return totals;
}

WaitingCounts SessionMap::Waiting() const {
  WaitingCounts all;
  for (const std::shared_ptr<Session>& session : All()) {
    const WaitingCounts each = session->Waiting();
    all.operations += each.operations;
    all.waiters += each.waiters;
  }
  return all;
}

size_t SessionMap::size() const {
  std::lock_guard lock(mutex_);
  return sessions_.size();
}

}  // namespace sounder::kv_node
