// The kernels whose instructions are counted, on prepared data: n = 65,536 rows of the generator's
// peaked family, d = 128, bf16, and the 4 queries of one decode step. Fixed seeds: a kernel does
// the same work in every process. Not thread safe.
#ifndef SOUNDER_BENCH_INSTRUCTIONS_KERNELS_H_
#define SOUNDER_BENCH_INSTRUCTIONS_KERNELS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kv_node/segment/segment.h"

namespace sounder::instructions {

inline constexpr int kDim = 128;
inline constexpr int kGroup = 4;

// One kernel, ready to run any number of times: each run is `prepare`, which is not counted (and
// may be empty), then `run`, which returns how many units it worked on.
struct Kernel {
  std::string name;
  std::string unit;  // "row", "key", "step"; what `run` returns the number of
  std::function<void()> prepare;
  std::function<int64_t()> run;
};

// The keys, values and queries every kernel works on.
struct Rows {
  explicit Rows(int64_t n);  // 1,024..65,536

  float scale() const;  // logit = scale * (query . key)

  std::unique_ptr<kv_node::Segment> segment;
  std::vector<float> queries;  // [kGroup, kDim]
};

// The kernels one by one; they keep references to `rows`.
std::vector<Kernel> AttentionKernels(const Rows& rows);  // exact attention, lsh tables
std::vector<Kernel> SketchKernels(const Rows& rows);
// Whole steps of a group through Sampler::Attend, over segments of n rows of their own.
std::vector<Kernel> StepKernels(int64_t n);

}  // namespace sounder::instructions

#endif  // SOUNDER_BENCH_INSTRUCTIONS_KERNELS_H_
