// How a DataClient watches its nodes without requests of its users: heartbeats on connections, and
// trials of nodes that are away.
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/absl_text.h"
#include "common/config/logging.h"
#include "common/wire/codec.h"
#include "common/wire/data_client.h"

namespace sounder::wire {
namespace {

std::string Seconds(base::Duration duration) {
  return absl::StrFormat("%.1f s", std::chrono::duration<double>(duration).count());
}

transport::Message PingOf(uint64_t ticket, base::Duration deadline) {
  Envelope envelope;
  envelope.kind = MessageKind::kPing;
  envelope.ticket = ticket;
  envelope.deadline_us = DeadlineMicros(deadline);
  return EncodeBare(envelope);
}

}  // namespace

absl::Status DataClient::Reachable(NodeIndex node) const {
  std::lock_guard lock(mutex_);
  const Node& entry = *nodes_.at(node);
  return entry.away ? AwayStatus(entry) : absl::OkStatus();
}

absl::Status DataClient::AwayStatus(const Node& node) const {
  return absl::UnavailableError(absl::StrCat("node ", node.address, " is away, since ",
                                             Seconds(executor_->clock().Now() - node.away_since),
                                             ": ", node.away_reason));
}

void DataClient::OnStopping() {
  std::lock_guard gate(gate_->mutex);  // waits for a timer that is running
  gate_->stopping = true;
}

void DataClient::RunWatched(base::Time when, base::Work work) {
  executor_->RunAt(when, [gate = gate_, work = std::move(work)] {
    std::lock_guard entered(gate->mutex);
    if (gate->open && !gate->stopping) work();
  });
}

void DataClient::StartBeating(NodeIndex node) {
  Node& entry = *nodes_[node];
  if (!watches() || entry.beating) return;
  entry.beating = true;
  RunWatched(executor_->clock().Now() + options_.liveness.heartbeat.interval,
             [this, node] { Beat(node); });
}

void DataClient::Beat(NodeIndex node) {
  using Action = policy::Heartbeat::Action;
  transport::ConnectionId connection = 0;
  Action action = Action::kWait;
  std::vector<Pending> lost;
  std::string reason;
  transport::Message ping;
  {
    std::lock_guard lock(mutex_);
    Node& entry = *nodes_[node];
    connection = entry.connection;
    entry.beating = false;
    if (connection == 0) return;  // StartBeating comes with the next one
    const base::Time now = executor_->clock().Now();
    action = entry.heartbeat.Check(options_.liveness.heartbeat, now);
    if (action == Action::kGiveUp) {
      const base::Duration silence = now - entry.heartbeat.last_heard();
      reason = absl::StrCat("it said nothing for ", Seconds(silence));
      MarkAway(node, entry.heartbeat.last_heard(), reason);
      lost = TakeAll(connection);
    } else {
      if (action == Action::kProbe) {
        ping = PingOf(++last_ticket_, options_.liveness.heartbeat.timeout);
        counters_.bytes_sent += WireBytes(ping);
      }
      entry.beating = true;
      RunWatched(entry.heartbeat.due(), [this, node] { Beat(node); });
    }
  }
  if (action == Action::kProbe) {
    transport_->Send(connection, std::move(ping), transport::SendMode::kEager, nullptr);
  } else if (action == Action::kGiveUp) {
    transport_->Close(connection);
    Fail(std::move(lost), absl::UnavailableError(reason));
  }
}

void DataClient::MarkAway(NodeIndex node, base::Time since, std::string reason) {
  Node& entry = *nodes_[node];
  if (!watches() || entry.away) return;
  config::LogWarning(absl::StrCat("node ", entry.address, " is away: ", reason,
                                  "; trying again until it answers"));
  ++counters_.times_away;
  entry.away = true;
  entry.away_since = since;
  entry.away_reason = std::move(reason);
  entry.attempts = 0;
  ScheduleTrial(node);
}

void DataClient::ScheduleTrial(NodeIndex node) {
  const base::Duration delay = policy::BackoffDelay(
      options_.liveness.reconnect, nodes_[node]->attempts++, random_.NextUniform());
  RunWatched(executor_->clock().Now() + delay, [this, node] { Try(node); });
}

void DataClient::Try(NodeIndex node) {
  const uint64_t ticket = NewTicket();
  const base::Duration deadline = options_.liveness.heartbeat.timeout;
  // Callbacks also run inside timers, which hold the gate: what follows from them comes later.
  Finish finish = [this, node, executor = executor_,
                   gate = gate_](const absl::StatusOr<transport::Message>& pong) {
    absl::Status status = pong.status();
    if (pong.ok()) status = DecodeEnvelope(*pong)->status;  // it was read before
    executor->Run([this, node, gate, status = std::move(status)] {
      std::lock_guard entered(gate->mutex);
      if (gate->open && !gate->stopping) OnTried(node, status);
    });
  };
  Send(node, ticket, PingOf(ticket, deadline), transport::SendMode::kEager, deadline,
       /*attend=*/false, std::move(finish), /*trial=*/true);
}

void DataClient::OnTried(NodeIndex node, absl::Status result) {
  std::lock_guard lock(mutex_);
  Node& entry = *nodes_[node];
  if (!result.ok()) return ScheduleTrial(node);
  entry.away = false;
  config::LogInfo(absl::StrCat("node ", entry.address, " is back after ",
                               Seconds(executor_->clock().Now() - entry.away_since), " and ",
                               entry.attempts, " attempts"));
}

}  // namespace sounder::wire
