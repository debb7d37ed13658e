#include "kv_node/server/intake.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace sounder::kv_node {

void Intake::Hold::Shrink(uint64_t bytes) {
  if (bytes >= bytes_) return;
  intake_->Give(connection_, bytes_ - bytes);
  bytes_ = bytes;
}

absl::StatusOr<Intake::SharedHold> Intake::Take(transport::ConnectionId connection,
                                                uint64_t bytes) {
  {
    std::lock_guard lock(mutex_);
    if (!bytes_.Take(connection, bytes)) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "a request of ", bytes, " bytes with its answer; the node holds ", bytes_.held(),
          " bytes of messages, ", bytes_.held_by(connection),
          " of this connection (answers it has not taken included), at most ", bytes_.limit(),
          " in all and for one as much as is left free (--message-memory)"));
    }
  }
  probe_->MessageBytes(static_cast<double>(bytes));
  return std::make_shared<Hold>(this, connection, bytes);
}

void Intake::Give(transport::ConnectionId connection, uint64_t bytes) {
  {
    std::lock_guard lock(mutex_);
    bytes_.Give(connection, bytes);
  }
  probe_->MessageBytes(-static_cast<double>(bytes));
}

Intake::BareAnswer Intake::AddBare(transport::ConnectionId connection) {
  std::lock_guard lock(mutex_);
  Bare& bare = bare_[connection];
  if (bare.slow) return BareAnswer::kDrop;
  bare.slow = ++bare.unsent > options_.bare_answers;
  return bare.slow ? BareAnswer::kTooMany : BareAnswer::kSend;
}

void Intake::BareGone(transport::ConnectionId connection) {
  std::lock_guard lock(mutex_);
  const auto found = bare_.find(connection);
  if (found == bare_.end() || found->second.slow) return;
  if (--found->second.unsent == 0) bare_.erase(found);
}

bool Intake::Slow(transport::ConnectionId connection) const {
  std::lock_guard lock(mutex_);
  const auto found = bare_.find(connection);
  return found != bare_.end() && found->second.slow;
}

void Intake::Forget(transport::ConnectionId connection) {
  std::lock_guard lock(mutex_);
  bare_.erase(connection);
}

uint64_t Intake::held_by(transport::ConnectionId connection) const {
  std::lock_guard lock(mutex_);
  return bytes_.held_by(connection);
}

}  // namespace sounder::kv_node
