#include "common/policy/append_credit.h"

#include <algorithm>

namespace sounder::policy {

uint64_t GrantAppendCredit(const AppendPressure& pressure) {
  const uint64_t room = std::min(pressure.memory_free / 2, pressure.message_bytes_max / 2);
  const uint64_t share = room / std::max<uint64_t>(1, pressure.writers);
  const int64_t bound = std::max<int64_t>(1, pressure.backlog_bound);
  const int64_t used = std::clamp<int64_t>(pressure.backlog_rows, 0, bound);
  const double unused = static_cast<double>(bound - used) / static_cast<double>(bound);
  const double credit = unused * static_cast<double>(std::min(share, kMaxAppendCredit));
  return std::max(kMinAppendCredit, static_cast<uint64_t>(credit));
}

}  // namespace sounder::policy
