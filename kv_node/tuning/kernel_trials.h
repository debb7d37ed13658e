// Short pieces of every kernel's work on rows made up for the purpose, to be timed with one
// schedule and another.
#ifndef SOUNDER_KV_NODE_TUNING_KERNEL_TRIALS_H_
#define SOUNDER_KV_NODE_TUNING_KERNEL_TRIALS_H_

#include <cstdint>
#include <vector>

#include "common/kernels/kernel_schedule.h"
#include "common/memory/aligned_buffer.h"
#include "common/memory/rows_view.h"
#include "kv_node/kernels/int8_rows.h"
#include "kv_node/kernels/sketch.h"
#include "kv_node/kernels/sketch_scan.h"

namespace sounder::kv_node {

// Not thread safe. Holds about 100 MiB: every run works on memory that the runs before did not
// touch, as far as it goes, for what is tuned is the way to memory.
class KernelTrials {
 public:
  KernelTrials();

  // CPU time of one run, in microseconds.
  double Exact(const kernels::KernelSchedule& schedule);
  double SampledInt8(const kernels::KernelSchedule& schedule);
  double SampledAsAppended(const kernels::KernelSchedule& schedule);
  double Lsh(const kernels::KernelSchedule& schedule);
  double Scan(const kernels::KernelSchedule& schedule);

  // Reads other memory, so that the rows of the next runs are not in the caches.
  void Evict();

 private:
  double Sampled(const kernels::KernelSchedule& schedule, bool int8);
  void ChooseRows(int64_t rows);
  memory::RowsView Slice(const memory::AlignedBuffer& rows, int64_t begin, int64_t count) const;

  memory::AlignedBuffer keys_;
  memory::AlignedBuffer values_;
  memory::AlignedBuffer records_;
  std::vector<float> queries_;
  std::vector<float> mean_;
  std::vector<float> norms_;
  std::vector<float> probabilities_;
  std::vector<uint16_t> sample_;
  std::vector<float> logits_;
  std::vector<float> log_u_;
  std::vector<float> workspace_;
  std::vector<float> outputs_;
  std::vector<float> lse_;
  std::vector<uint8_t> factors_;
  std::vector<int8_t> scores_;
  SketchRotation rotation_;
  SketchTables tables_;
  std::vector<float> inclusion_;
  int64_t run_ = 0;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_TUNING_KERNEL_TRIALS_H_
