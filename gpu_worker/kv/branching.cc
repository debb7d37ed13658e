// Sessions that are rolled back, forked, and taken over from another worker.
#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/policy/append_credit.h"
#include "gpu_worker/kv/kv_client.h"
#include "gpu_worker/kv/name_node.h"
#include "gpu_worker/kv/session_spec.h"

namespace sounder::gpu_worker {
namespace {

// What every node has: per kv head, rows up to the first that a node it should be on has not got.
base::Position CommittedEnd(const policy::Placement& placement, uint32_t kv_heads,
                            const std::vector<std::optional<wire::SessionInfo>>& infos) {
  base::Position most = 0;
  for (const std::optional<wire::SessionInfo>& info : infos) {
    if (!info.has_value()) continue;
    for (const base::Position end : info->head_ends) most = std::max(most, end);
  }
  std::vector<base::Position> ends(kv_heads, 0);
  for (const policy::Shard& shard : placement.ShardsOf({0, most})) {
    const wire::SessionInfo& info = *infos[static_cast<size_t>(shard.node)];
    for (int head = shard.kv_head_begin; head < shard.kv_head_end; ++head) {
      base::Position& end = ends[static_cast<size_t>(head)];
      if (end != shard.range.begin) continue;  // it ended in an earlier shard
      const auto held = static_cast<size_t>(head) - info.spec.kv_head_begin;
      end = std::clamp(info.head_ends[held], shard.range.begin, shard.range.end);
    }
  }
  return *std::min_element(ends.begin(), ends.end());
}

// Whether every position before `end` came with its token id, which the nodes of the first heads
// keep. They have nothing behind it.
bool HaveAllTokens(const policy::Placement& placement, base::Position end,
                   const std::vector<std::optional<wire::SessionInfo>>& infos) {
  std::vector<uint64_t> wanted(infos.size(), 0);
  for (const policy::Shard& shard : placement.ShardsOf({0, end})) {
    if (shard.kv_head_begin > 0) continue;
    wanted[static_cast<size_t>(shard.node)] += static_cast<uint64_t>(shard.range.size());
  }
  for (size_t i = 0; i < infos.size(); ++i) {
    if (wanted[i] > 0 && infos[i]->tokens < wanted[i]) return false;
  }
  return true;
}

}  // namespace

absl::Status KvClient::Truncate(RemoteSession* session, base::Position position) {
  // A node waits with it for the appends before it: after a lost one for as long as it ever does.
  RETURN_IF_ERROR(WaitAppended(session, base::kMaxPositions));
  ASSIGN_OR_RETURN(const RemoteSession::NodeSequences nodes, session->BeginTruncate(position));
  absl::Status first;
  for (const auto& [index, sequence] : nodes) {
    Node& node = nodes_[static_cast<size_t>(index)];
    const wire::SessionOp op{session->ref(), sequence, session->options().tenant};
    absl::Status status = Ask(node, [&] { return node.control->Truncate(op, position); });
    const bool again = IsAway(status) || absl::IsResourceExhausted(status);
    status = NameNodeOfSession(status, node.control->address());
    if (!again) session->OnTruncated(index, status);
    if (first.ok()) first = status;
  }
  return first;
}

absl::StatusOr<std::shared_ptr<RemoteSession>> KvClient::Fork(RemoteSession* session,
                                                              base::Position position,
                                                              base::SessionId id) {
  RETURN_IF_ERROR(session->status());
  RETURN_IF_ERROR(WaitAppended(session, position));
  if (position < 0 || position > session->end()) {
    return absl::OutOfRangeError(absl::StrCat("session ", session->id().ToString(),
                                              " ends at position ", session->end(), "; position ",
                                              position, " lies beyond"));
  }
  RemoteSessionOptions options = session->options();
  options.id = id.empty() ? RandomId() : id;
  RemoteSessionStart start;
  start.placed_by = session->placed_by();
  start.end = position;
  start.epoch = FirstEpoch(id);
  auto child = std::make_shared<RemoteSession>(
      options, session->placement(), session->shared_projection(), nodes_.size(), executor_,
      CreditOf(policy::kFirstAppendCredit), start);
  RETURN_IF_ERROR(MakeOnNodes(*child, [&](Node& node, int index) {
    wire::ForkCall call;
    call.op = {session->ref(), session->IssuedSequence(index), options.tenant};
    call.position = position;
    call.child = child->ref();
    call.ttl_seconds = options.ttl_seconds;
    return NameNodeOfSession(node.control->Fork(call), node.control->address());
  }));
  Remember(child);
  return child;
}

absl::StatusOr<KvClient::Infos> KvClient::DescribeEverywhere(const base::SessionId& id,
                                                             uint32_t tenant) {
  Infos infos(nodes_.size());
  bool any = false;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    Node& node = nodes_[i];
    const absl::Status status = Ask(node, [&] {
      absl::StatusOr<wire::SessionInfo> info = node.control->Describe({{id, 0}, tenant, false});
      if (info.ok()) infos[i] = *std::move(info);
      return info.status();
    });
    if (absl::IsNotFound(status)) continue;
    if (!status.ok()) return NameNode(status, node.control->address());
    any = true;
  }
  if (any) return infos;
  return absl::NotFoundError(absl::StrCat("no node has session ", id.ToString()));
}

// Whether the nodes are those the session was placed on, and all still have it.
absl::Status KvClient::CheckInfos(const RemoteSession& session, const Infos& infos) const {
  for (const int index : session.placement().Nodes()) {
    const std::string& address = nodes_[static_cast<size_t>(index)].control->address();
    const std::optional<wire::SessionInfo>& info = infos[static_cast<size_t>(index)];
    if (!info.has_value()) {
      return absl::UnavailableError(absl::StrCat("node ", address, " lost its part of session ",
                                                 session.id().ToString(),
                                                 " (was it restarted?); it must be opened and "
                                                 "filled anew"));
    }
    const wire::SessionSpec wanted = SpecOf(session, index, nodes_.size());
    const wire::SessionSpec& held = info->spec;
    if (held.placement != wanted.placement || held.kv_head_begin != wanted.kv_head_begin ||
        held.kv_head_count != wanted.kv_head_count || held.model != wanted.model ||
        info->head_ends.size() != held.kv_head_count) {
      return absl::FailedPreconditionError(absl::StrCat(
          "node ", address, " holds kv heads [", held.kv_head_begin, ", +", held.kv_head_count,
          ") of session ", session.id().ToString(), ", placed on ", held.placement.nodes,
          " nodes; with these ", nodes_.size(), " nodes in this order it would hold [",
          wanted.kv_head_begin, ", +", wanted.kv_head_count, ") (--nodes)"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<AdoptedSession> KvClient::Adopt(const base::SessionId& id, uint32_t tenant) {
  ASSIGN_OR_RETURN(Infos infos, DescribeEverywhere(id, tenant));
  RemoteSessionStart start;
  const wire::SessionSpec* spec = nullptr;
  for (const std::optional<wire::SessionInfo>& info : infos) {
    if (!info.has_value()) continue;
    start.epoch = std::max(start.epoch, info->spec.session.epoch + 1);
    spec = &info->spec;
  }
  start.placed_by = spec->placement.id;
  const RemoteSessionOptions options = OptionsOf(*spec);
  ASSIGN_OR_RETURN(policy::Placement placement,
                   PlacementOf(options, start.placed_by, nodes_.size()));
  ASSIGN_OR_RETURN(auto projection, MakeProjection(options));
  const auto make = [&] {
    return std::make_shared<RemoteSession>(options, placement, projection, nodes_.size(), executor_,
                                           CreditOf(policy::kFirstAppendCredit), start);
  };
  RETURN_IF_ERROR(CheckInfos(*make(), infos));
  // In the order of the nodes, so that of two adopters at once one ends at the first node.
  const wire::AdoptCall call{{id, start.epoch}, tenant, RandomId().low | 1};
  start.issued.assign(nodes_.size(), 0);
  for (const int index : placement.Nodes()) {
    Node& node = nodes_[static_cast<size_t>(index)];
    const absl::Status status = Ask(node, [&] {
      absl::StatusOr<wire::SessionInfo> info = node.control->Adopt(call);
      if (!info.ok()) return info.status();
      start.issued[static_cast<size_t>(index)] = info->applied_sequence;
      infos[static_cast<size_t>(index)] = *std::move(info);
      return absl::OkStatus();
    });
    if (!status.ok()) return NameNodeOfSession(status, node.control->address());
  }
  RETURN_IF_ERROR(CheckInfos(*make(), infos));
  AdoptedSession adopted;
  start.end = CommittedEnd(placement, options.model.kv_heads, infos);
  adopted.session = make();
  RETURN_IF_ERROR(Truncate(adopted.session.get(), start.end));
  // Asked again, because rows that were cut off may have had ids as well.
  ASSIGN_OR_RETURN(infos, DescribeEverywhere(id, tenant));
  RETURN_IF_ERROR(CheckInfos(*adopted.session, infos));
  if (HaveAllTokens(placement, start.end, infos)) {
    ASSIGN_OR_RETURN(adopted.tokens, FetchTokens(adopted.session.get(), {0, start.end}));
  }
  Remember(adopted.session);
  std::lock_guard lock(open_mutex_);
  last_epoch_ = std::max(last_epoch_, start.epoch);
  return adopted;
}

}  // namespace sounder::gpu_worker
