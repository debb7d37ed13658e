// Sessions that may be on a node that did not answer when they were to be made or closed there.
#include <algorithm>
#include <vector>

#include "gpu_worker/kv/kv_client.h"

namespace sounder::gpu_worker {
namespace {

// A node goes on with what it was asked for after nobody waits any more, but not for so long.
constexpr base::Duration kLate = std::chrono::seconds(10);

}  // namespace

void KvClient::LeaveBehind(Node& node, const wire::SessionOp& op) {
  constexpr size_t kMost = 4096;  // the others end by their TTL
  std::lock_guard lock(away_mutex_);
  if (node.left_behind.size() >= kMost) return;
  node.left_behind.push_back({op, executor_->clock().Now() + kLate});
  node.left_behind.back().op.sequence = 0;  // nothing of it is in flight by then
}

void KvClient::OnAnswered(Node& node) {
  {
    std::lock_guard lock(away_mutex_);
    node.away_until = base::Time{};
  }
  CloseLeftBehind(node, nullptr).IgnoreError();
}

absl::Status KvClient::CloseLeftBehind(Node& node, const base::SessionId* only) {
  std::vector<LeftBehind> left;
  {
    std::lock_guard lock(away_mutex_);
    left = node.left_behind;
  }
  for (const LeftBehind& one : left) {
    const bool late = executor_->clock().Now() >= one.late;
    if (only == nullptr ? one.missed && !late : one.op.session.id != *only) continue;
    const absl::Status status = node.control->Close(one.op);
    NoteTimeout(node, status);
    if (IsAway(status)) return status;
    const auto is_it = [&one](const LeftBehind& other) {
      return other.op.session.id == one.op.session.id &&
             other.op.session.epoch == one.op.session.epoch;
    };
    std::lock_guard lock(away_mutex_);
    const auto found = std::find_if(node.left_behind.begin(), node.left_behind.end(), is_it);
    if (found == node.left_behind.end()) continue;
    if (absl::IsNotFound(status) && !late) {
      found->missed = true;
    } else {
      node.left_behind.erase(found);
    }
  }
  return absl::OkStatus();
}

}  // namespace sounder::gpu_worker
