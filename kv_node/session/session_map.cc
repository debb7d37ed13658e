#include "kv_node/session/session_map.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {
namespace {

absl::Status NotFound(const base::SessionId& id) {
  return absl::NotFoundError(absl::StrCat("session ", id.ToString(), " is not open on this node"));
}

std::string Describe(const wire::ModelIdentity& model) {
  return absl::StrCat("model '", model.name, "' (weights ", model.weights_digest, ", rope ",
                      model.rope_digest, ", adapter '", model.adapter, "', kv layout '",
                      model.kv_layout, "', ", model.layers, " layers, ", model.query_heads, "/",
                      model.kv_heads, " heads of ", model.head_dim, ")");
}

// What must agree for two opens to mean the same session.
bool SameSession(const wire::SessionSpec& a, const wire::SessionSpec& b) {
  return a.session.epoch == b.session.epoch && a.tenant == b.tenant && a.dtype == b.dtype &&
         a.seal_rows == b.seal_rows && a.min_indexed_rows == b.min_indexed_rows && a.lsh == b.lsh &&
         a.indexed_layers == b.indexed_layers && a.kv_head_begin == b.kv_head_begin &&
         a.kv_head_count == b.kv_head_count && a.row_format == b.row_format && a.sketch == b.sketch;
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

SessionMap::SessionMap(const SessionMapOptions& options, base::Executor* executor)
    : options_(options),
      executor_(executor),
      budget_(options.memory_bytes),
      lane_(executor, options.index) {}

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
  if (found != sessions_.end()) {
    const wire::SessionSpec& open = found->second->spec();
    if (!(open.model == spec.model)) {
      return absl::FailedPreconditionError(absl::StrCat("session ", spec.session.id.ToString(),
                                                        " belongs to ", Describe(open.model),
                                                        ", the request to ", Describe(spec.model)));
    }
    if (SameSession(open, spec)) return absl::OkStatus();
    return absl::AlreadyExistsError(
        absl::StrCat("session ", spec.session.id.ToString(), " is open with other options"));
  }
  if (sessions_.size() >= options_.max_sessions) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the node holds ", sessions_.size(), " sessions, its most (--max-sessions)"));
  }
  return std::nullopt;
}

// Samplers and sessions take milliseconds to make: not under the lock that every request takes.
absl::StatusOr<wire::OpenResult> SessionMap::Open(wire::SessionSpec spec) {
  if (spec.seal_rows == 0) spec.seal_rows = options_.seal_rows;
  if (spec.min_indexed_rows == 0) spec.min_indexed_rows = options_.min_indexed_rows;
  if (spec.durability == wire::Durability::kDisk) {
    return absl::UnimplementedError("durability 'disk': this node keeps sessions in memory only");
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
  {
    std::lock_guard lock(mutex_);
    if (const std::optional<absl::Status> known = Known(spec)) return answer(*known);
  }
  ASSIGN_OR_RETURN(std::shared_ptr<const Sampler> sampler, SamplerFor(spec));
  Reservation fixed(&budget_);
  RETURN_IF_ERROR(fixed.Resize(Session::FixedBytes(spec)));
  const auto session = std::make_shared<Session>(spec, std::move(sampler), &budget_,
                                                 std::move(fixed), executor_, &lane_);
  std::lock_guard lock(mutex_);
  if (const std::optional<absl::Status> known = Known(spec)) return answer(*known);
  sessions_[spec.session.id] = session;
  return result;
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
void SessionMap::Erase(const std::shared_ptr<Session>& session, const absl::Status& reason) {
  {
    std::lock_guard lock(mutex_);
    const auto found = sessions_.find(session->spec().session.id);
    if (found != sessions_.end() && found->second == session) sessions_.erase(found);
  }
  session->Close(reason);
}

void SessionMap::Close(const wire::SessionOp& op, base::Time deadline, wire::StatusReply reply) {
  absl::StatusOr<std::shared_ptr<Session>> session = Find(op.session.id);
  if (!session.ok()) {
    reply(session.status());
    return;
  }
  if (op.session.epoch != (*session)->spec().session.epoch) {
    reply(absl::FailedPreconditionError(absl::StrCat("the session is at epoch ",
                                                     (*session)->spec().session.epoch,
                                                     ", the request at epoch ", op.session.epoch)));
    return;
  }
  // Whatever became of earlier operations, the session goes: nobody will send them again.
  (*session)->WhenApplied(
      op.sequence, deadline,
      [this, session = *session, reply = std::move(reply)](const absl::Status&) {
        Erase(session, NotFound(session->spec().session.id));
        reply(absl::OkStatus());
      });
}

size_t SessionMap::CloseExpired() {
  const base::Time now = executor_->clock().Now();
  size_t closed = 0;
  for (const std::shared_ptr<Session>& session : All()) {
    const uint32_t ttl = session->spec().ttl_seconds;
    if (ttl == 0 || now - session->last_touched() < std::chrono::seconds(ttl)) continue;
    Erase(session, NotFound(session->spec().session.id));
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
    Erase(session, reason);
  }
}

std::vector<std::shared_ptr<Session>> SessionMap::All() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Session>> sessions;
  sessions.reserve(sessions_.size());
  for (const auto& [id, session] : sessions_) sessions.push_back(session);
  return sessions;
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
