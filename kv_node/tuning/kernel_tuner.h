// Finds the schedule of the kernels that this CPU runs fastest, in a fraction of a second.
#ifndef SOUNDER_KV_NODE_TUNING_KERNEL_TUNER_H_
#define SOUNDER_KV_NODE_TUNING_KERNEL_TUNER_H_

#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/kernels/kernel_schedule.h"

namespace sounder::kv_node {

// What was found out about one field.
struct FieldTrial {
  std::string field;
  int before = 0;
  int chosen = 0;
  // Time with `before` over time with the best other value tried, the median of neighbours.
  double gain = 1;
  int best_other = 0;
};

struct TuningReport {
  kernels::KernelSchedule schedule;
  std::vector<FieldTrial> trials;  // those there was time for
  // Time of attention over a sample: of rows in eight bits, over rows as appended (bf16). For
  // advice only: which rows a session samples from is said when it is opened, and answers depend on
  // it.
  double int8_over_appended = 0;
  base::Duration spent{};
  bool finished = false;  // every field was tried
};

// Field by field: candidates run in turns with the value so far, and one is taken where it is
// faster by more than kTuningMargin in the median and faster at all in three rounds of four. Stops
// where `budget` (wall time) is spent; fields not reached keep their defaults. Takes about 100 MiB
// of memory while it runs.
inline constexpr double kTuningMargin = 0.03;
TuningReport TuneKernels(base::Duration budget);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_TUNING_KERNEL_TUNER_H_
