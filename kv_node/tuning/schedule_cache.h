// A kernel schedule found once is kept in a file, for the next start on the same machine.
#ifndef SOUNDER_KV_NODE_TUNING_SCHEDULE_CACHE_H_
#define SOUNDER_KV_NODE_TUNING_SCHEDULE_CACHE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/config/environment.h"
#include "common/kernels/kernel_schedule.h"

namespace sounder::kv_node {

// What a schedule was found on; it is good for nothing else.
struct ScheduleOrigin {
  std::string cpu;      // base::CpuModel
  std::string simd;     // kernels::CurrentSimdLevel
  std::string version;  // config::Version
  bool operator==(const ScheduleOrigin&) const = default;
};

// kernel_schedule.yaml in CACHE_DIRECTORY (a service under systemd), XDG_CACHE_HOME/sounder or
// HOME/.cache/sounder; empty where the environment has none of them.
std::string DefaultScheduleFile(const config::Environment& environment);

// NOT_FOUND where there is no file; FAILED_PRECONDITION where it is of another origin;
// INVALID_ARGUMENT, with the file's name, where it cannot be understood.
absl::StatusOr<kernels::KernelSchedule> ReadSchedule(const std::string& path,
                                                     const ScheduleOrigin& origin);
// Makes the directory where there is none; replaces the file in one step.
absl::Status WriteSchedule(const std::string& path, const ScheduleOrigin& origin,
                           const kernels::KernelSchedule& schedule);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_TUNING_SCHEDULE_CACHE_H_
