#include "kv_node/session/token_runs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {

absl::Status TokenRuns::Put(base::Position first, std::span<const int32_t> tokens) {
  if (tokens.empty()) return absl::OkStatus();
  if (runs_.empty() || first > runs_.back().end()) {
    runs_.push_back({first, {}, Reservation(budget_)});
  }
  Run& run = runs_.back();
  const base::Position end = first + static_cast<int64_t>(tokens.size());
  if (first < run.first) {
    return absl::FailedPreconditionError(
        absl::StrCat("tokens of position ", first, " behind those of ", run.first));
  }
  const size_t size = static_cast<size_t>(std::max(end, run.end()) - run.first);
  if (size > run.tokens.capacity()) {
    const size_t grown = std::max({size, run.tokens.capacity() * 3 / 2, size_t{64}});
    const absl::Status status = run.reservation.Resize(grown * sizeof(int32_t));
    if (!status.ok()) {
      if (run.tokens.empty()) runs_.pop_back();
      return status;
    }
    run.tokens.reserve(grown);
  }
  count_ += size - run.tokens.size();
  run.tokens.resize(size);
  std::copy(tokens.begin(), tokens.end(), run.tokens.begin() + (first - run.first));
  return absl::OkStatus();
}

uint64_t TokenRuns::bytes() const {
  uint64_t bytes = 0;
  for (const Run& run : runs_) bytes += run.reservation.bytes();
  return bytes;
}

void TokenRuns::Clear() {
  runs_.clear();
  count_ = 0;
}

}  // namespace sounder::kv_node
