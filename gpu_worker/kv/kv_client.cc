#include "gpu_worker/kv/kv_client.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/config/host_port.h"
#include "common/policy/append_credit.h"
#include "common/wire/messages.h"
#include "gpu_worker/kv/name_node.h"
#include "gpu_worker/kv/session_spec.h"

namespace sounder::gpu_worker {
namespace {

void CopyRows(const std::byte* from, size_t stride, size_t row_bytes, size_t rows, std::byte* to) {
  if (stride == row_bytes) {
    std::memcpy(to, from, rows * row_bytes);
    return;
  }
  for (size_t row = 0; row < rows; ++row) {
    std::memcpy(to + row * row_bytes, from + row * stride, row_bytes);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvClient>> KvClient::Create(
    KvClientOptions options, std::vector<std::unique_ptr<wire::ControlChannel>> nodes,
    transport::Transport* transport, base::Executor* executor) {
  if (nodes.empty()) return absl::InvalidArgumentError("no nodes were named (--nodes)");
  std::unique_ptr<KvClient> client(new KvClient(std::move(options), transport, executor));
  // Parts of a session on one node twice would be taken for copies of each other.
  std::map<std::string, std::string> names;  // control address, by data address
  for (std::unique_ptr<wire::ControlChannel>& control : nodes) {
    Node& node = client->nodes_.emplace_back();
    node.control = std::move(control);
    ASSIGN_OR_RETURN(const wire::NodeStatus status, node.control->Status());
    if (status.protocol_version != wire::kProtocolVersion) {
      return absl::FailedPreconditionError(absl::StrCat(
          "protocol version mismatch: node ", node.control->address(), " speaks version ",
          status.protocol_version, ", this worker speaks version ", wire::kProtocolVersion));
    }
    const std::string data = config::ReachableData(node.control->address(), status.data_address);
    if (const auto [first, fresh] = names.emplace(data, node.control->address()); !fresh) {
      return absl::InvalidArgumentError(absl::StrCat(
          "nodes ", first->second, " and ", node.control->address(),
          " are one: both have the data address ", data, "; a node can be named once (--nodes)"));
    }
    node.data = client->data_.AddNode(data);
  }
  RETURN_IF_ERROR(transport->Start(&client->data_));
  return client;
}

base::SessionId KvClient::RandomId() {
  std::random_device device;
  const auto draw = [&] { return (uint64_t{device()} << 32) | device(); };
  return {draw(), draw()};
}

uint64_t KvClient::FirstEpoch(const base::SessionId& chosen) {
  if (chosen.empty()) return 0;
  const auto age =
      std::chrono::duration_cast<std::chrono::microseconds>(executor_->clock().Now() - created_);
  std::lock_guard lock(open_mutex_);
  last_epoch_ =
      std::max(last_epoch_ + 1, options_.first_epoch + static_cast<uint64_t>(age.count()));
  return last_epoch_;
}

absl::StatusOr<std::shared_ptr<RemoteSession>> KvClient::Open(const RemoteSessionOptions& given) {
  RemoteSessionOptions options = given;
  if (options.id.empty()) options.id = RandomId();
  ASSIGN_OR_RETURN(policy::Placement placement, PlacementOf(options, options.id, nodes_.size()));
  ASSIGN_OR_RETURN(auto projection, MakeProjection(options));
  RemoteSessionStart start;
  start.epoch = FirstEpoch(given.id);
  auto session = std::make_shared<RemoteSession>(options, std::move(placement),
                                                 std::move(projection), nodes_.size(), executor_,
                                                 CreditOf(policy::kFirstAppendCredit), start);
  const int first = session->placement().Nodes().front();
  RETURN_IF_ERROR(wire::CheckSpec(SpecOf(*session, first, nodes_.size())));
  RETURN_IF_ERROR(MakeOnNodes(*session, [&](Node& node, int index) {
    return node.control->Open(SpecOf(*session, index, nodes_.size())).status();
  }));
  Remember(session);
  return session;
}

absl::Status KvClient::MakeOnNodes(const RemoteSession& session,
                                   const std::function<absl::Status(Node&, int index)>& make) {
  const wire::SessionOp undo{session.ref(), 0, session.options().tenant};
  std::vector<int> made;
  for (const int index : session.placement().Nodes()) {
    Node& node = nodes_[static_cast<size_t>(index)];
    absl::Status status = data_.Reachable(node.data);
    // One that an earlier attempt left there is in the way.
    if (status.ok()) status = CloseLeftBehind(node, &session.id());
    const bool asked = status.ok();
    if (asked) status = make(node, index);
    if (status.ok()) {
      made.push_back(index);
      OnAnswered(node);
      continue;
    }
    // Only what is ours: a node that refuses may have a session of that id that is not.
    for (const int other : made) {
      CloseOn(nodes_[static_cast<size_t>(other)], undo).IgnoreError();
    }
    NoteTimeout(node, status);
    if (asked && IsAway(status)) LeaveBehind(node, undo);
    return NameNode(status, node.control->address());
  }
  return absl::OkStatus();
}

void KvClient::Remember(const std::shared_ptr<RemoteSession>& session) {
  if (session->options().ttl_seconds == 0) return;
  const base::Duration interval = std::chrono::seconds(session->options().ttl_seconds) / 3;
  std::lock_guard lock(open_mutex_);
  open_.push_back({session, interval, executor_->clock().Now() + interval});
}

void KvClient::Forget(const RemoteSession* session) {
  std::lock_guard lock(open_mutex_);
  std::erase_if(open_, [&](const OpenSession& open) {
    const std::shared_ptr<RemoteSession> held = open.session.lock();
    return held == nullptr || held.get() == session;
  });
}

void KvClient::KeepAlive() {
  std::vector<std::shared_ptr<RemoteSession>> due;
  {
    std::lock_guard lock(open_mutex_);
    const base::Time now = executor_->clock().Now();
    std::erase_if(open_, [](const OpenSession& open) { return open.session.expired(); });
    for (OpenSession& open : open_) {
      if (now < open.due) continue;
      open.due = now + open.interval;
      if (auto session = open.session.lock()) due.push_back(std::move(session));
    }
  }
  for (const std::shared_ptr<RemoteSession>& session : due) {
    for (const int index : session->placement().Nodes()) {
      Node& node = nodes_[static_cast<size_t>(index)];
      if (!ReachableNow(node).ok()) continue;
      const wire::DescribeCall call{session->ref(), session->options().tenant, /*keep_alive=*/true};
      NoteTimeout(node, node.control->Describe(call).status());
    }
  }
}

void KvClient::Leave(const RemoteSession* session) { Forget(session); }

absl::Status KvClient::Close(RemoteSession* session) {
  Forget(session);
  // A node waits with a close for the operations before it: after a lost one it would wait for as
  // long as it ever does, and look as if it had died.
  const bool complete = session->WaitAcknowledged(base::kMaxPositions, options_.deadline).ok() &&
                        session->status().ok();
  absl::Status first;
  for (const int node : session->placement().Nodes()) {
    wire::SessionOp op;
    op.session = session->ref();
    op.tenant = session->options().tenant;
    op.sequence = complete ? session->IssuedSequence(node) : 0;
    const absl::Status status = CloseOn(nodes_[static_cast<size_t>(node)], op);
    if (first.ok()) first = status;
  }
  return first;
}

// A node that does not answer costs one deadline, not one for every session that was on it.
absl::Status KvClient::CloseOn(Node& node, const wire::SessionOp& op) {
  absl::Status status = ReachableNow(node);
  if (status.ok()) {
    status = node.control->Close(op);
    NoteTimeout(node, status);
    // Restarted since, or closed already: the channel may send a call twice.
    if (absl::IsNotFound(status)) status = absl::OkStatus();
  }
  if (IsAway(status)) {
    LeaveBehind(node, op);
  } else {
    OnAnswered(node);
  }
  return status;
}

absl::Status KvClient::ReachableNow(const Node& node) {
  {
    std::lock_guard lock(away_mutex_);
    if (executor_->clock().Now() < node.away_until) {
      return absl::UnavailableError(
          absl::StrCat("node ", node.control->address(), " did not answer a moment ago"));
    }
  }
  return data_.Reachable(node.data);
}

absl::Status KvClient::Ask(Node& node, const std::function<absl::Status()>& call) {
  absl::Status status = data_.Reachable(node.data);
  if (!status.ok()) return status;
  status = call();
  NoteAnswer(node, status);
  return status;
}

bool KvClient::IsAway(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

// UNAVAILABLE comes at once, so it is nothing to avoid; a node that drains answers with it too.
void KvClient::NoteAnswer(Node& node, const absl::Status& status) {
  NoteTimeout(node, status);
  if (!IsAway(status)) OnAnswered(node);
}

void KvClient::NoteTimeout(Node& node, const absl::Status& status) {
  if (!absl::IsDeadlineExceeded(status)) return;
  std::lock_guard lock(away_mutex_);
  node.away_until = std::max(node.away_until, executor_->clock().Now() + options_.deadline);
}

absl::Status KvClient::Append(RemoteSession* session, const AppendRows& rows) {
  const base::PositionRange range{rows.first_position, rows.first_position + rows.row_count};
  RETURN_IF_ERROR(session->status());
  if (const base::Position end = session->end(); range.begin != end) {
    return absl::InvalidArgumentError(absl::StrCat("session ", session->id().ToString(),
                                                   ": rows from position ", range.begin,
                                                   ", expected ", end, ", where it ends"));
  }
  for (const policy::Shard& shard : session->placement().ShardsOf(range)) {
    const absl::Status status = AppendToShard(session, rows, shard);
    if (status.ok()) continue;
    // Some of the rows are on their way: as when one of them is lost.
    if (session->end() != range.begin) session->Fail(status);
    return status;
  }
  return session->status();
}

absl::Status KvClient::AppendToShard(RemoteSession* session, const AppendRows& rows,
                                     const policy::Shard& shard) {
  const RemoteSessionOptions& options = session->options();
  const int64_t row_bytes = int64_t{2} * shard.kv_heads() * options.model.head_dim *
                            static_cast<int64_t>(SizeOf(options.dtype)) * options.model.layers;
  for (base::Position begin = shard.range.begin; begin < shard.range.end;) {
    const auto credit = static_cast<int64_t>(session->Credit(shard.node));
    const int64_t step =
        std::max<int64_t>(1, std::min(options_.append_message_bytes, credit) / row_bytes);
    const base::PositionRange part{begin, std::min(begin + step, shard.range.end)};
    begin = part.end;
    if (!session->WaitForCredit(shard.node, static_cast<uint64_t>(part.size() * row_bytes),
                                options_.deadline)) {
      return absl::DeadlineExceededError(
          absl::StrCat("node ", data_.AddressOf(nodes_[static_cast<size_t>(shard.node)].data),
                       " does not keep up with appends: it took none for ",
                       options_.deadline.count() / 1000000, " ms"));
    }
    RETURN_IF_ERROR(session->status());
    session->Extend(rows.first_position + rows.row_count);
    SendRows(session, rows, shard, part);
  }
  return absl::OkStatus();
}

void KvClient::SendRows(RemoteSession* session, const AppendRows& rows, const policy::Shard& shard,
                        base::PositionRange range) {
  const RemoteSessionOptions& options = session->options();
  const size_t row_bytes = options.model.head_dim * SizeOf(options.dtype);
  const size_t count = static_cast<size_t>(range.size());
  const size_t head_bytes = count * row_bytes;
  const size_t layer_bytes = static_cast<size_t>(shard.kv_heads()) * head_bytes;
  const size_t skip = static_cast<size_t>(range.begin - rows.first_position);  // rows
  wire::AppendRequest request;
  request.envelope.tenant = options.tenant;
  request.payload = memory::AlignedBuffer(2 * layer_bytes * options.model.layers);
  std::vector<uint64_t> sequences;
  std::byte* out = request.payload.data();
  for (uint32_t layer = 0; layer < options.model.layers; ++layer) {
    wire::AppendItem& item = request.items.emplace_back();
    item.session = session->ref();
    item.sequence = session->NextSequence(shard.node, range.begin, 2 * layer_bytes);
    sequences.push_back(item.sequence);
    item.layer = layer;
    item.kv_head_begin = static_cast<uint32_t>(shard.kv_head_begin);
    item.kv_head_count = static_cast<uint32_t>(shard.kv_heads());
    item.first_position = range.begin;
    item.row_count = static_cast<uint32_t>(range.size());
    item.head_dim = options.model.head_dim;
    item.dtype = options.dtype;
    item.seal_after = rows.seal_after && range.end == rows.first_position + rows.row_count;
    item.keys = {out, layer_bytes};
    item.values = {out + layer_bytes, layer_bytes};
    if (layer == 0 && !rows.tokens.empty()) {
      item.tokens = rows.tokens.subspan(static_cast<size_t>(range.begin - rows.first_position),
                                        static_cast<size_t>(range.size()));
    }
    for (int head = shard.kv_head_begin; head < shard.kv_head_end; ++head, out += head_bytes) {
      const AppendRows::Head given = rows.rows(layer, static_cast<uint32_t>(head));
      const size_t stride = given.stride == 0 ? row_bytes : given.stride;
      CopyRows(given.keys.data() + skip * stride, stride, row_bytes, count, out);
      CopyRows(given.values.data() + skip * stride, stride, row_bytes, count, out + layer_bytes);
    }
    out += layer_bytes;
  }
  const uint64_t bytes = 2 * layer_bytes;
  data_.Append(nodes_[static_cast<size_t>(shard.node)].data, std::move(request), options_.deadline,
               [this, session = session->shared_from_this(), node = shard.node, sequences, bytes,
                address = data_.AddressOf(nodes_[static_cast<size_t>(shard.node)].data)](
                   const absl::StatusOr<wire::AppendReply>& reply) {
                 for (size_t i = 0; i < sequences.size(); ++i) {
                   absl::Status status = reply.ok() ? reply->envelope.status : reply.status();
                   if (status.ok() && i >= reply->items.size()) {
                     status =
                         absl::InternalError(absl::StrCat("the answer has ", reply->items.size(),
                                                          " items, asked were ", sequences.size()));
                   }
                   const uint64_t credit = status.ok() ? reply->items[i].credit_bytes : 0;
                   if (status.ok()) status = reply->items[i].status;
                   session->OnAppended(node, sequences[i], bytes, CreditOf(credit),
                                       NameNodeOfSession(status, address));
                 }
               });
}

// What a node grants, within our own bound.
uint64_t KvClient::CreditOf(uint64_t granted) const {
  return std::min(granted, static_cast<uint64_t>(options_.append_window_bytes));
}

absl::Status KvClient::WaitAppended(RemoteSession* session, base::Position position) {
  const absl::Status status = session->WaitAcknowledged(position, options_.deadline);
  if (!absl::IsDeadlineExceeded(status)) return status;
  // The answers may have come since, or the session's end.
  const int node = session->FirstUnacknowledged(position);
  if (absl::Status failed = session->status(); !failed.ok()) return failed;
  if (node < 0) return absl::OkStatus();
  return NameNode(status, data_.AddressOf(nodes_[static_cast<size_t>(node)].data));
}

std::vector<absl::StatusOr<wire::NodeStatus>> KvClient::NodeStatuses() {
  std::vector<absl::StatusOr<wire::NodeStatus>> statuses;
  for (Node& node : nodes_) {
    const absl::Status away = data_.Reachable(node.data);
    statuses.push_back(away.ok() ? node.control->Status() : away);
    if (statuses.back().ok()) OnAnswered(node);
  }
  return statuses;
}

}  // namespace sounder::gpu_worker
