// What happens to requests as time passes: they are sent again when a node advised it, and given up
// at their deadlines.
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/policy/retry.h"
#include "common/wire/codec.h"
#include "common/wire/data_client.h"

namespace sounder::wire {
namespace {

std::string Milliseconds(base::Duration duration) {
  return absl::StrCat(duration.count() / 1000000, " ms");
}

}  // namespace

base::TimerId DataClient::At(base::Time when, std::function<void()> call) {
  return executor_->RunAt(when, [gate = gate_, call = std::move(call)] {
    std::lock_guard entered(gate->mutex);
    if (gate->open) call();
  });
}

void DataClient::CancelTimers(const Pending& pending) {
  executor_->Cancel(pending.timer);
  executor_->Cancel(pending.retry);
}

void DataClient::EndCall(transport::ConnectionId connection) {
  std::lock_guard lock(mutex_);
  in_call_.erase(connection);
  call_done_.notify_all();
}

// Whether a request that was refused with advice will be sent again.
bool DataClient::RetryLater(uint64_t ticket, const Envelope& refusal) {
  Pending& pending = pending_.at(ticket);
  if (pending.retry != 0) return true;  // a copy of the refusal
  if (pending.again.header.empty()) return false;
  const std::optional<base::Duration> delay =
      policy::RetryDelay(pending.tries, std::chrono::microseconds(refusal.retry_after_us),
                         pending.until - executor_->clock().Now(), random_.Next64());
  if (!delay.has_value()) return false;
  ++pending.tries;
  pending.retry = At(executor_->clock().Now() + *delay, [this, ticket] { Retry(ticket); });
  return true;
}

void DataClient::Retry(uint64_t ticket) {
  transport::Message message;
  transport::ConnectionId connection = 0;
  {
    std::lock_guard lock(mutex_);
    const auto found = pending_.find(ticket);
    if (found == pending_.end()) return;  // its connection broke
    Pending& pending = found->second;
    pending.retry = 0;
    connection = pending.connection;
    message = CopyOf(pending.again);
    SetDeadline(DeadlineMicros(pending.until - executor_->clock().Now()), &message);
    ++counters_.retries;
    CountSent(pending, message);
    in_call_.insert(connection);
  }
  transport_->Send(connection, std::move(message), transport::SendMode::kAuto, nullptr);
  EndCall(connection);
}

void DataClient::OnDeadline(uint64_t ticket) {
  Pending late;
  std::vector<Pending> lost;  // with it, by a node that said nothing
  std::string address;
  bool silent = false;
  {
    std::lock_guard lock(mutex_);
    const auto found = pending_.find(ticket);
    if (found == pending_.end()) return;
    late = std::move(found->second);
    pending_.erase(found);
    ++counters_.failures;
    Node& node = *nodes_.at(late.node);
    address = node.address;
    silent = late.connection != 0 && node.connection == late.connection &&
             executor_->clock().Now() - node.heartbeat.last_heard() >= late.deadline;
    if (silent) {  // before the callback, which may try again
      MarkAway(late.node, node.heartbeat.last_heard(),
               absl::StrCat("it said nothing within ", Milliseconds(late.deadline)));
      lost = TakeAll(late.connection);
      in_call_.insert(late.connection);
    }
  }
  if (silent) {
    transport_->Close(late.connection);
    EndCall(late.connection);
  }
  executor_->Cancel(late.retry);
  late.finish(absl::DeadlineExceededError(
      absl::StrCat("node ", address, " did not answer within ", Milliseconds(late.deadline))));
  Fail(std::move(lost), absl::UnavailableError("the node went silent"));
}

}  // namespace sounder::wire
