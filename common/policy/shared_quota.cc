#include "common/policy/shared_quota.h"

#include "common/base/check.h"

namespace sounder::policy {

bool SharedQuota::Allows(FlowId flow, uint64_t amount) const {
  const uint64_t free = limit_ - held_;
  return amount <= free && held_by(flow) <= free - amount;
}

bool SharedQuota::Take(FlowId flow, uint64_t amount) {
  if (!Allows(flow, amount)) return false;
  if (amount == 0) return true;
  by_flow_[flow] += amount;
  held_ += amount;
  return true;
}

void SharedQuota::Give(FlowId flow, uint64_t amount) {
  if (amount == 0) return;
  const auto found = by_flow_.find(flow);
  CHECK(found != by_flow_.end() && found->second >= amount) << "flow " << flow << ": " << amount;
  found->second -= amount;
  held_ -= amount;
  if (found->second == 0) by_flow_.erase(found);
}

uint64_t SharedQuota::held_by(FlowId flow) const {
  const auto found = by_flow_.find(flow);
  return found == by_flow_.end() ? 0 : found->second;
}

}  // namespace sounder::policy
