// When a request that was refused is sent again.
#ifndef SOUNDER_COMMON_POLICY_RETRY_H_
#define SOUNDER_COMMON_POLICY_RETRY_H_

#include <cstdint>
#include <optional>

#include "common/base/clock.h"

namespace sounder::policy {

inline constexpr int kMaxRetries = 10;
inline constexpr base::Duration kMinRetryAfter = std::chrono::milliseconds(1);
inline constexpr base::Duration kMaxRetryAfter = std::chrono::seconds(1);

// How long to wait before try number `tries` + 1 (tries >= 1 were refused), where the last refusal
// advised `advice` (> 0) and the caller still has `remaining`. The advice, doubled with
// each try after the first, within the constants above, and up to half as long again by `random`
// (any 64 bits), so that those refused together do not come back together. Nothing when it would
// not fit into `remaining`, or when there were kMaxRetries.
std::optional<base::Duration> RetryDelay(int tries, base::Duration advice, base::Duration remaining,
                                         uint64_t random);

}  // namespace sounder::policy

#endif  // SOUNDER_COMMON_POLICY_RETRY_H_
