// Which kernel schedule a program starts with.
#ifndef SOUNDER_KV_NODE_TUNING_START_SCHEDULE_H_
#define SOUNDER_KV_NODE_TUNING_START_SCHEDULE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/kernels/kernel_schedule.h"

namespace sounder::kv_node {

inline constexpr base::Duration kTuningBudget = std::chrono::seconds(1);

struct StartSchedule {
  kernels::KernelSchedule schedule;
  std::string source;  // for the log: where it comes from and what was found
};

// tuning: "off" (the defaults), "auto" (what `cache_file` holds for this CPU; else it is found, in
// kTuningBudget, and written there; an empty name: found at every start), or a schedule as
// kernels::ParseSchedule reads it. INVALID_ARGUMENT for any other text. A cache that cannot be read
// or written costs time only, and is named in `source`.
absl::StatusOr<StartSchedule> ScheduleAtStart(const std::string& tuning,
                                              const std::string& cache_file);
// The syntax of `tuning` alone.
absl::Status CheckTuning(const std::string& tuning);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_TUNING_START_SCHEDULE_H_
