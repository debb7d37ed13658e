#include "kv_node/server/byte_quota.h"

#include <utility>

#include "common/base/check.h"

namespace sounder::kv_node {

bool ByteQuota::Take(uint64_t bytes, const Granted& granted) {
  std::lock_guard lock(mutex_);
  if (waiting_.empty() && Fits(bytes)) {
    held_ += bytes;
    return true;
  }
  waiting_.push_back({bytes, granted});
  return false;
}

void ByteQuota::Give(uint64_t bytes) { Settle(bytes, 0); }

void ByteQuota::Settle(uint64_t taken, uint64_t needed) {
  std::vector<Granted> granted;
  {
    std::lock_guard lock(mutex_);
    CHECK(held_ >= taken) << held_ << " < " << taken;
    held_ = held_ - taken + needed;
    while (!waiting_.empty() && Fits(waiting_.front().bytes)) {
      held_ += waiting_.front().bytes;
      granted.push_back(std::move(waiting_.front().granted));
      waiting_.pop_front();
    }
  }
  for (const Granted& each : granted) each();
}

uint64_t ByteQuota::held() const {
  std::lock_guard lock(mutex_);
  return held_;
}

bool ByteQuota::Busy(uint64_t bytes) const {
  std::lock_guard lock(mutex_);
  return !waiting_.empty() || held_ >= bytes;
}

}  // namespace sounder::kv_node
