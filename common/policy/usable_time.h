// How much of the time that a request has left may be planned for: estimates err, and the answer
// has to travel. kv_node/server/DESIGN.md has what other shares do.
#ifndef SOUNDER_COMMON_POLICY_USABLE_TIME_H_
#define SOUNDER_COMMON_POLICY_USABLE_TIME_H_

#include <algorithm>
#include <cstdint>

#include "common/base/clock.h"

namespace sounder::policy {

inline constexpr double kUsable = 0.7;

// 0 when the deadline has passed.
inline base::Duration UsableTime(base::Time now, base::Time deadline) {
  const base::Duration left = std::max(deadline - now, base::Duration(0));
  return base::Duration(static_cast<int64_t>(kUsable * static_cast<double>(left.count())));
}

}  // namespace sounder::policy

#endif  // SOUNDER_COMMON_POLICY_USABLE_TIME_H_
