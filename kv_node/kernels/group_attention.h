// Attention of the queries of a group over one sample of rows that all of them share: every query
// uses every sampled row with its exact logit and the inverse of the row's inclusion probability.
// Pure, thread safe.
#ifndef SOUNDER_KV_NODE_KERNELS_GROUP_ATTENTION_H_
#define SOUNDER_KV_NODE_KERNELS_GROUP_ATTENTION_H_

#include <cstdint>
#include <span>

#include "common/kernels/kernel_schedule.h"
#include "common/memory/rows_view.h"
#include "kv_node/kernels/int8_rows.h"

namespace sounder::kv_node {

struct GroupSample {
  const float* queries = nullptr;  // [num_queries, dim], packed
  int num_queries = 0;
  int dim = 0;
  float scale = 1;                       // logit = scale * (query . key)
  std::span<const uint16_t> rows;        // the sample
  std::span<const float> probabilities;  // of its rows, in (0, 1]
  kernels::KernelSchedule schedule = {};
};

// Floats of working memory the functions below need.
size_t GroupAttentionWorkspace(size_t sampled_rows);

// With w_i = exp(logit_i) / probability_i: outputs f32[num_queries, dim] = sum_i w_i v_i / sum_i
// w_i, lse f32[num_queries] = log sum_i w_i. No rows: (0, -inf). errors: f32[num_queries, 3] or
// null; with wn_i = w_i / sum w, sums over the sample of (1 - p_i) wn_i^2 |v_i - o|^2, of
// (1 - p_i) wn_i^2 and of p_i wn_i^2.
void GroupAttention(const GroupSample& sample, const memory::RowsView& keys,
                    const memory::RowsView& values, float* workspace, float* outputs, float* lse,
                    float* errors);
// The same from rows in eight bits; `mean`: what their keys were centred by.
void GroupAttention(const GroupSample& sample, const Int8Rows& rows, const float* mean,
                    float* workspace, float* outputs, float* lse, float* errors);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_KERNELS_GROUP_ATTENTION_H_
