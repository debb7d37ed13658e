#include "common/policy/retry.h"

#include <algorithm>

namespace sounder::policy {

std::optional<base::Duration> RetryDelay(int tries, base::Duration advice, base::Duration remaining,
                                         uint64_t random) {
  if (tries > kMaxRetries) return std::nullopt;
  const base::Duration doubled = std::max(advice, kMinRetryAfter * (int64_t{1} << (tries - 1)));
  const base::Duration wait = std::clamp(doubled, kMinRetryAfter, kMaxRetryAfter);
  const auto jitter = static_cast<int64_t>(random % static_cast<uint64_t>(wait.count() / 2));
  const base::Duration delay = wait + base::Duration(jitter);
  if (delay >= remaining) return std::nullopt;
  return delay;
}

}  // namespace sounder::policy
