#include "common/policy/liveness.h"

#include <algorithm>

namespace sounder::policy {

Heartbeat::Action Heartbeat::Check(const HeartbeatOptions& options, base::Time now) {
  if (options.interval.count() <= 0) {
    due_ = base::kNever;
    return Action::kWait;
  }
  const bool stood_still = due_ != base::kNever && now - due_ > options.timeout / 2;
  if (probed_ && !stood_still) {
    due_ = std::min(now + options.interval, give_up_at_);
    return now < give_up_at_ ? Action::kWait : Action::kGiveUp;
  }
  if (!probed_ && now - last_heard_ < options.interval) {
    due_ = last_heard_ + options.interval;
    return Action::kWait;
  }
  probed_ = true;
  give_up_at_ = now + options.timeout;
  due_ = std::min(now + options.interval, give_up_at_);  // by then it may be silent anew
  return Action::kProbe;
}

base::Duration BackoffDelay(const BackoffOptions& options, int attempt, double random) {
  base::Duration delay = std::min(options.first, options.most);
  for (int i = 0; i < attempt && delay < options.most; ++i) {
    delay = std::min(delay * 2, options.most);
  }
  return delay - std::chrono::duration_cast<base::Duration>(delay * (random / 2));
}

}  // namespace sounder::policy
