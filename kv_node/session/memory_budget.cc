#include "kv_node/session/memory_budget.h"

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {

bool MemoryBudget::TryReserve(uint64_t bytes) {
  uint64_t used = used_.load(std::memory_order_relaxed);
  do {
    if (bytes > limit_ || used > limit_ - bytes) return false;
  } while (!used_.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
  return true;
}

absl::Status MemoryBudget::Reserve(uint64_t bytes) {
  if (TryReserve(bytes)) return absl::OkStatus();
  if (reclaim_ != nullptr && bytes <= limit_) {
    reclaim_(bytes);
    if (TryReserve(bytes)) return absl::OkStatus();  // others may have made room as well
  }
  return absl::ResourceExhaustedError(absl::StrCat("the node's memory is full: ", bytes,
                                                   " more bytes wanted, ", used(), " of ", limit_,
                                                   " in use (--memory)"));
}

void MemoryBudget::Release(uint64_t bytes) {
  const uint64_t before = used_.fetch_sub(bytes, std::memory_order_relaxed);
  CHECK(before >= bytes) << before << " bytes in use, " << bytes << " released";
}

absl::Status Reservation::Resize(uint64_t bytes) {
  if (bytes > bytes_) RETURN_IF_ERROR(budget_->Reserve(bytes - bytes_));
  if (bytes < bytes_) budget_->Release(bytes_ - bytes);
  bytes_ = bytes;
  return absl::OkStatus();
}

}  // namespace sounder::kv_node
