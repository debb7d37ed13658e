// How a DataServer's connections end: for silence, and when the node ends.
#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/wire/codec.h"
#include "kv_node/server/data_server.h"

namespace sounder::kv_node {

void DataServer::StartHeartbeats(const policy::HeartbeatOptions& options) {
  if (options.interval.count() <= 0) return;
  heartbeat_ = options;
  CheckSilence();
}

// All connections in turn: who is due is found at most a quarter of an interval late.
void DataServer::CheckSilence() {
  using Action = policy::Heartbeat::Action;
  std::vector<transport::ConnectionId> silent;
  std::vector<std::pair<transport::ConnectionId, std::string>> gone;
  const base::Time now = executor_->clock().Now();
  {
    std::lock_guard lock(mutex_);
    for (auto& [connection, peer] : peers_) {
      const Action action = peer.heartbeat.Check(heartbeat_, now);
      if (action == Action::kProbe) silent.push_back(connection);
      if (action != Action::kGiveUp) continue;
      const std::chrono::duration<double> silence = now - peer.heartbeat.last_heard();
      gone.emplace_back(connection,
                        absl::StrFormat("%s: silent for %.1f s, no answer to a ping within %.1f s",
                                        peer.address, silence.count(),
                                        std::chrono::duration<double>(heartbeat_.timeout).count()));
      peer.heartbeat.Heard(now);  // closing takes a moment, and is said once
    }
  }
  wire::Envelope ping;
  ping.kind = wire::MessageKind::kPing;
  for (const transport::ConnectionId connection : silent) {
    transport_->Send(connection, wire::EncodeBare(ping), transport::SendMode::kEager, nullptr);
  }
  for (const auto& [connection, what] : gone) {
    probe_->ConnectionRefused("data", "silent", what);
    transport_->Close(connection);
  }
  executor_->RunAt(now + std::min(heartbeat_.interval, heartbeat_.timeout) / 4,
                   [this] { CheckSilence(); });
}

void DataServer::CountTaken() {
  std::lock_guard lock(mutex_);
  ++unanswered_;
  ++in_work_;
}

void DataServer::OnAnswered() {
  std::lock_guard lock(mutex_);
  --unanswered_;
  changed_->NotifyAll();
}

void DataServer::OnDone() {
  std::lock_guard lock(mutex_);
  if (--in_work_ == 0) changed_->NotifyAll();
}

void DataServer::Stop() {
  std::lock_guard taking(taking_mutex_);
  stopped_ = true;
}

bool DataServer::WaitAnswered(base::Time deadline) {
  std::unique_lock lock(mutex_);
  return changed_->WaitFor(lock, deadline - executor_->clock().Now(),
                           [this] { return unanswered_ == 0; });
}

void DataServer::WaitIdle() {
  {
    std::unique_lock lock(mutex_);
    while (!changed_->WaitFor(lock, std::chrono::seconds(1), [this] { return in_work_ == 0; })) {
    }
  }
  // The last of an attend's reads may have been used up by a runner that was there already.
  if (rows_ != nullptr) rows_->WaitIdle();
}

bool DataServer::CloseConnections(base::Time deadline) {
  std::vector<transport::ConnectionId> open;
  {
    std::lock_guard lock(mutex_);
    leaving_ = true;
    for (const auto& [connection, peer] : peers_) open.push_back(connection);
  }
  for (const transport::ConnectionId connection : open) transport_->Close(connection);
  std::unique_lock lock(mutex_);
  return changed_->WaitFor(lock, deadline - executor_->clock().Now(),
                           [this] { return peers_.empty(); });
}

}  // namespace sounder::kv_node
