#include "gpu_worker/kv/remote_session.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/policy/append_credit.h"

namespace sounder::gpu_worker {

uint64_t RemoteSession::NextSequence(int node, base::Position first, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  Node& entry = nodes_.at(static_cast<size_t>(node));
  entry.in_flight.push_back({++entry.issued, first});
  entry.bytes_in_flight += bytes;
  return entry.issued;
}

uint64_t RemoteSession::IssuedSequence(int node) const {
  std::lock_guard lock(mutex_);
  return nodes_.at(static_cast<size_t>(node)).issued;
}

void RemoteSession::OnAppended(int node, uint64_t sequence, uint64_t bytes, uint64_t credit,
                               const absl::Status& status) {
  {
    std::lock_guard lock(mutex_);
    Node& entry = nodes_.at(static_cast<size_t>(node));
    std::vector<InFlight>& in_flight = entry.in_flight;
    in_flight.erase(std::remove_if(in_flight.begin(), in_flight.end(),
                                   [&](const InFlight& op) { return op.sequence == sequence; }),
                    in_flight.end());
    entry.bytes_in_flight -= bytes;
    if (credit > 0) entry.credit = credit;
    if (failed_.ok()) failed_ = status;
  }
  changed_->NotifyAll();
}

uint64_t RemoteSession::Credit(int node) const {
  std::lock_guard lock(mutex_);
  return nodes_.at(static_cast<size_t>(node)).credit;
}

bool RemoteSession::WaitForCredit(int node, uint64_t bytes, base::Duration deadline) {
  std::unique_lock lock(mutex_);
  const Node& entry = nodes_.at(static_cast<size_t>(node));
  return changed_->WaitFor(lock, deadline, [&] {
    return policy::MaySend(entry.bytes_in_flight, bytes, entry.credit) || !failed_.ok();
  });
}

absl::Status RemoteSession::WaitAcknowledged(base::Position position, base::Duration deadline) {
  std::unique_lock lock(mutex_);
  const auto ended = [&] { return !failed_.ok() || LaggingNode(position) < 0; };
  if (!changed_->WaitFor(lock, deadline, ended)) {
    return absl::DeadlineExceededError(
        absl::StrCat("rows before position ", position, " were not acknowledged in time"));
  }
  return failed_;
}

int RemoteSession::LaggingNode(base::Position position) const {
  for (size_t node = 0; node < nodes_.size(); ++node) {
    for (const InFlight& op : nodes_[node].in_flight) {
      if (op.first < position) return static_cast<int>(node);
    }
  }
  return -1;
}

int RemoteSession::FirstUnacknowledged(base::Position position) const {
  std::lock_guard lock(mutex_);
  return LaggingNode(position);
}

absl::Status RemoteSession::status() const {
  std::lock_guard lock(mutex_);
  return failed_;
}

}  // namespace sounder::gpu_worker
