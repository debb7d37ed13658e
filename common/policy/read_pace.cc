#include "common/policy/read_pace.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/policy/retry.h"
#include "common/policy/usable_time.h"

namespace sounder::policy {
namespace {

// A measurement takes so long, and is believed by so much.
constexpr base::Duration kWindow = std::chrono::milliseconds(50);
constexpr double kNewest = 0.25;

}  // namespace

base::Duration ReadPace::TimeOf(uint64_t bytes) const {
  if (bytes_per_nano_ == 0) return base::Duration(0);
  return base::Duration(
      static_cast<int64_t>(std::min(static_cast<double>(bytes) / bytes_per_nano_, 1e18)));
}

ReadPace::Admission ReadPace::Offer(FlowId flow, uint64_t bytes, bool full, base::Time now,
                                    base::Time deadline) {
  const auto found = of_flow_.find(flow);
  const uint64_t own = found == of_flow_.end() ? 0 : found->second;
  Admission admission;
  admission.wait = TimeOf(pending_ + own);
  admission.work = TimeOf(bytes);
  const base::Duration late = admission.wait + admission.work - UsableTime(now, deadline);
  if (full && pending_ > 0 && late > base::Duration(0)) {
    admission.retry_after = std::clamp(late, kMinRetryAfter, kMaxRetryAfter);
    return admission;
  }
  admission.taken = true;
  pending_ += bytes;
  of_flow_[flow] += bytes;
  return admission;
}

void ReadPace::Read(uint64_t bytes, bool full, base::Time now) {
  if (!std::exchange(measuring_, full) || !full) {
    since_ = now;
    read_ = 0;
    return;
  }
  read_ += bytes;
  if (now - since_ < kWindow) return;
  const double newest = static_cast<double>(read_) / static_cast<double>((now - since_).count());
  bytes_per_nano_ += (bytes_per_nano_ == 0 ? 1 : kNewest) * (newest - bytes_per_nano_);
  since_ = now;
  read_ = 0;
}

void ReadPace::End(FlowId flow, uint64_t bytes) {
  if (bytes == 0) return;
  const auto found = of_flow_.find(flow);
  CHECK(found != of_flow_.end() && found->second >= bytes) << "flow " << flow << ": " << bytes;
  found->second -= bytes;
  if (found->second == 0) of_flow_.erase(found);
  pending_ -= bytes;
  if (pending_ == 0) measuring_ = false;
}

}  // namespace sounder::policy
