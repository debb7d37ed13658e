// Exact attention of a few or many queries over stored rows, with log-sum-exp: the kernel behind
// dense layers, tails, windows and prefill. Streaming softmax in f32: K and V are read once for all
// queries of the call. Pure, thread safe.
#ifndef SOUNDER_COMMON_KERNELS_EXACT_ATTENTION_H_
#define SOUNDER_COMMON_KERNELS_EXACT_ATTENTION_H_

#include <cstdint>
#include <span>

#include "common/kernels/kernel_schedule.h"
#include "common/memory/rows_view.h"

namespace sounder::kernels {

struct ExactAttentionArgs {
  const float* queries = nullptr;  // [num_queries, dim]
  int64_t query_stride = 0;        // elements from one query to the next
  int num_queries = 0;
  memory::RowsView keys = {};    // dim a multiple of 8, <= 512; f32, bf16 or f16; any stride
  memory::RowsView values = {};  // the same rows, dim and dtype; its own stride
  float scale = 1;               // logit = scale * (query . key)
  // Empty: every query sees every row. Else query i sees rows [0, visible_rows[i]).
  std::span<const int64_t> visible_rows = {};
  KernelSchedule schedule = {};
};

// outputs f32[num_queries, dim], packed; lse f32[num_queries], natural log. A query that sees no
// row gets (0, -inf). Results do not depend on the other queries of the call. Finite inputs with
// logits below 1e38 give finite results.
void ExactAttention(const ExactAttentionArgs& args, float* outputs, float* lse);

}  // namespace sounder::kernels

#endif  // SOUNDER_COMMON_KERNELS_EXACT_ATTENTION_H_
