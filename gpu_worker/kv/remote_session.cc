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
  if (!failed_.ok() || !cut_.has_value()) return failed_;
  return absl::FailedPreconditionError(
      absl::StrCat("session ", options_.id.ToString(), ": its truncation to position ",
                   cut_->position, " has not reached every node; truncate it again"));
}

void RemoteSession::Fail(const absl::Status& status) {
  {
    std::lock_guard lock(mutex_);
    if (failed_.ok()) failed_ = status;
  }
  changed_->NotifyAll();
}

base::Position RemoteSession::end() const {
  std::lock_guard lock(mutex_);
  return end_;
}

void RemoteSession::Extend(base::Position end) {
  std::lock_guard lock(mutex_);
  end_ = std::max(end_, end);
}

absl::StatusOr<RemoteSession::NodeSequences> RemoteSession::BeginTruncate(base::Position position) {
  std::lock_guard lock(mutex_);
  if (!failed_.ok()) return failed_;
  if (cut_.has_value()) {
    if (cut_->position == position) return cut_->left;
    return absl::FailedPreconditionError(
        absl::StrCat("session ", options_.id.ToString(), ": its truncation to position ",
                     cut_->position, " is not finished, position ", position, " was asked for"));
  }
  if (position < 0 || position > end_) {
    return absl::OutOfRangeError(absl::StrCat("session ", options_.id.ToString(),
                                              " ends at position ", end_, "; position ", position,
                                              " lies beyond"));
  }
  Cut& cut = cut_.emplace();
  cut.position = position;
  for (const int node : placement_.Nodes()) {
    cut.left.emplace_back(node, ++nodes_.at(static_cast<size_t>(node)).issued);
  }
  return cut.left;
}

void RemoteSession::OnTruncated(int node, const absl::Status& status) {
  {
    std::lock_guard lock(mutex_);
    if (!cut_.has_value()) return;
    if (status.ok()) {
      std::erase_if(cut_->left, [node](const auto& entry) { return entry.first == node; });
      if (!cut_->left.empty()) return;
      end_ = cut_->position;
    } else if (failed_.ok()) {
      failed_ = status;
    }
    cut_.reset();
  }
  changed_->NotifyAll();
}

}  // namespace sounder::gpu_worker
