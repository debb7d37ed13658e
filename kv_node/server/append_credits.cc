#include "kv_node/server/append_credits.h"

#include <algorithm>
#include <chrono>

#include "common/policy/append_credit.h"

namespace sounder::kv_node {
namespace {

constexpr size_t kMostSessions = 65536;

}  // namespace

uint32_t AppendCredits::Grant(const base::SessionId& session, uint64_t bytes, base::Time now) {
  constexpr base::Duration kSecond = std::chrono::seconds(1);
  policy::AppendPressure pressure;
  {
    std::lock_guard lock(mutex_);
    if (now - second_begin_ >= kSecond) {
      writers_before_ = now - second_begin_ < 2 * kSecond ? writers_ : 0;
      second_begin_ = now;
      appended_.clear();
      writers_ = 0;
    }
    // Sessions that come and go within a second: those counted so far stay counted.
    if (appended_.size() >= kMostSessions) appended_.clear();
    uint64_t& appended = appended_[session];
    const bool counted = appended >= policy::kMinAppendCredit;
    appended += bytes;
    if (!counted && appended >= policy::kMinAppendCredit) ++writers_;
    pressure.writers = std::max({writers_, writers_before_, uint64_t{1}});
  }
  pressure.backlog_rows = sessions_->lane().waiting_rows();
  pressure.backlog_bound = sessions_->lane().backlog_rows();
  const MemoryBudget& budget = sessions_->budget();
  pressure.memory_free = budget.limit() - std::min(budget.limit(), budget.used());
  pressure.message_bytes_max = message_bytes_max_;
  const uint64_t credit = policy::GrantAppendCredit(pressure);
  probe_->CreditGranted(static_cast<double>(credit));
  static_assert(policy::kMaxAppendCredit <= UINT32_MAX);
  return static_cast<uint32_t>(credit);
}

}  // namespace sounder::kv_node
