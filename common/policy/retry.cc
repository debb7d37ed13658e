#include "common/policy/retry.h"

#include <algorithm>

namespace sounder::policy {

std::optional<base::Duration> RetryDelay(int tries, base::Duration advice, base::Duration remaining,
                                         uint64_t random) {
  if (tries > kMaxRetries) return std::nullopt;
  const base::Duration first = std::clamp(advice, kMinRetryAfter, kMaxRetryAfter);
  const base::Duration wait = std::min(first * (int64_t{1} << (tries - 1)), kMaxRetryAfter);
  const auto jitter = static_cast<int64_t>(random % static_cast<uint64_t>(wait.count() / 2));
  const base::Duration delay = wait + base::Duration(jitter);
  if (delay >= remaining) return std::nullopt;
  return delay;
}

}  // namespace sounder::policy
