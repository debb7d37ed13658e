// Working memory of a sampler, kept from call to call so that a decode step allocates nothing. One
// per thread; its contents mean nothing between calls.
#ifndef SOUNDER_KV_NODE_SAMPLER_SCRATCH_H_
#define SOUNDER_KV_NODE_SAMPLER_SCRATCH_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/kernels/kernel_schedule.h"
#include "common/memory/aligned_buffer.h"
#include "kv_node/kernels/sketch_scan.h"
#include "kv_node/sampler/selection.h"

namespace sounder::kv_node {

class Scratch {
 public:
  // schedule: how kernels run that work in it.
  explicit Scratch(const kernels::KernelSchedule& schedule = {});
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const kernels::KernelSchedule& schedule() const { return schedule_; }
  uint8_t* counts() { return counts_.As<uint8_t>().data(); }  // kCountBytes, zero between uses
  uint16_t* candidates() { return candidates_.As<uint16_t>().data(); }
  float* logits() { return logits_.As<float>().data(); }
  float* log_u() { return log_u_.As<float>().data(); }
  // Of sketches.
  SketchTables& sketch_tables() { return sketch_tables_; }
  int8_t* scores(size_t count);  // grows
  int8_t* shares() { return shares_.As<int8_t>().data(); }
  std::vector<double>& log_sums() { return log_sums_; }
  std::vector<int16_t>& offsets() { return offsets_; }
  float* probabilities() { return probabilities_.As<float>().data(); }
  uint32_t* size_sums() { return size_sums_.As<uint32_t>().data(); }
  uint32_t* large_sizes() { return large_sizes_.As<uint32_t>().data(); }
  float* workspace(size_t count);                           // grows
  uint64_t* seen() { return seen_.As<uint64_t>().data(); }  // one bit per row of a segment
  // Of an attend whose two steps follow each other.
  Selection& selection() { return selection_; }
  // Of gathered rows: their places, and what an index knows of them.
  std::vector<uint16_t>& places() { return places_; }
  std::vector<float>& gathered() { return gathered_; }
  // Codes of a segment under construction; grows, at 2 bytes per row and table.
  uint16_t* codes(size_t count);
  // Gives the memory of the last construction back.
  void ReleaseCodes() { codes_ = memory::AlignedBuffer(); }

  size_t bytes() const;

 private:
  const kernels::KernelSchedule schedule_;
  memory::AlignedBuffer counts_;
  memory::AlignedBuffer candidates_;
  memory::AlignedBuffer logits_;
  memory::AlignedBuffer log_u_;
  memory::AlignedBuffer seen_;
  memory::AlignedBuffer codes_;
  SketchTables sketch_tables_;
  memory::AlignedBuffer scores_;
  memory::AlignedBuffer shares_;
  memory::AlignedBuffer size_sums_;
  memory::AlignedBuffer large_sizes_;
  memory::AlignedBuffer probabilities_;
  memory::AlignedBuffer workspace_;
  std::vector<int16_t> offsets_;
  std::vector<double> log_sums_;
  Selection selection_;
  std::vector<uint16_t> places_;
  std::vector<float> gathered_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SAMPLER_SCRATCH_H_
