// Exact attention in float64, written to be obviously right. Every attention kernel and every
// estimator is tested against it; nothing on a hot path calls it. Pure, thread safe.
#ifndef SOUNDER_COMMON_ATTENTION_ATTENTION_REF_H_
#define SOUNDER_COMMON_ATTENTION_ATTENTION_REF_H_

#include <cstdint>
#include <span>

#include "common/memory/rows_view.h"

namespace sounder::attention {

// Query i attends to rows [visible_begin[i], visible_end[i]); an empty span means 0 and all rows.
struct AttentionRefArgs {
  const float* queries = nullptr;  // [num_queries, dim]
  int64_t query_stride = 0;        // elements from one query to the next
  int num_queries = 0;
  memory::RowsView keys = {};
  memory::RowsView values = {};
  double scale = 1;  // logit = scale * (query . key)
  std::span<const int64_t> visible_begin = {};
  std::span<const int64_t> visible_end = {};
};

// outputs [num_queries, values.dim], lse [num_queries], natural log. No visible row: (0, -inf).
void AttentionRef(const AttentionRefArgs& args, double* outputs, double* lse);

}  // namespace sounder::attention

#endif  // SOUNDER_COMMON_ATTENTION_ATTENTION_REF_H_
