// Attention of one query over a sample of a segment's rows, each weighted by the inverse of its
// inclusion probability. Two passes: logits and probabilities from K, then the weighted sum of V.
// Pure, thread safe.
#ifndef SOUNDER_KV_NODE_KERNELS_SAMPLED_ATTENTION_H_
#define SOUNDER_KV_NODE_KERNELS_SAMPLED_ATTENTION_H_

#include <cstdint>
#include <span>

#include "common/kernels/kernel_schedule.h"
#include "common/memory/rows_view.h"

namespace sounder::kv_node {

// Arrays a kernel below writes one value per sampled row to need room for this many more.
inline constexpr int64_t kSamplePadding = 64;

struct SampledLogitsArgs {
  const float* query = nullptr;  // [dim]
  memory::RowsView keys;
  std::span<const uint16_t> rows;  // the sample
  float scale = 1;                 // logit = scale * (query . key)
  const float* mean = nullptr;     // [dim], what keys were centred by for hashing
  const float* norms = nullptr;    // |key - mean| by row
  std::span<const float> log_u;    // lsh::InclusionTable values
  kernels::KernelSchedule schedule = {};
};

// logits[i] and log_u[i] (log of the inclusion probability, from the angle between the query and
// the centred key) of the i-th sampled row. A zero query or centred key is at a right angle.
void SampledLogits(const SampledLogitsArgs& args, float* logits, float* log_u);

// For a row that any of several queries may sample, independently: u[i] becomes
// u[i] + (1 - u[i]) exp(log_u[i]), at least e^-70 (1 / u, summed over a segment, fits an f32).
void UniteProbabilities(const float* log_u, size_t count, float* u);

// output f32[dim] = sum_i w_i v_i / sum_i w_i with w_i = exp(logits[i] - log_u[i]), lse =
// log sum_i w_i. No rows: (0, -inf). Overwrites logits with w_i / max w.
void WeightedValues(const memory::RowsView& values, std::span<const uint16_t> rows, float* logits,
                    const float* log_u, float* output, float* lse,
                    const kernels::KernelSchedule& schedule = {});

// The same from fewer rows of values: a row of less than 1 / kRouletteRows of the sum of weights is
// read with a chance in proportion to its weight, and then counts for that share. At most
// 2 kRouletteRows are read, and the weighted sum of values stays unbiased; lse is the same.
// `start`: a uniform number of 32 bits, where the systematic draw of the light rows starts. kept
// f32[rows]: the weights that rows count with, 0 for those not read, relative to the largest
// weight. Which rows are kept hangs on rounding, and so may differ between SIMD levels.
inline constexpr int kRouletteRows = 256;
void WeightedValuesByRoulette(const memory::RowsView& values, std::span<const uint16_t> rows,
                              uint32_t start, float* logits, const float* log_u, float* kept,
                              float* output, float* lse,
                              const kernels::KernelSchedule& schedule = {});

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_KERNELS_SAMPLED_ATTENTION_H_
