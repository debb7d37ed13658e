// All logits of a group over a segment's visible rows: what the baselines that cheat look at.
#ifndef SOUNDER_CLI_BASELINES_EXACT_LOGITS_H_
#define SOUNDER_CLI_BASELINES_EXACT_LOGITS_H_

#include <vector>

#include "kv_node/sampler/sampler.h"

namespace sounder::cli {

// Of one query over the visible rows, from row_begin on. f32, the same at every SIMD level.
struct QueryLogits {
  std::vector<float> logits;
  float max = 0;
  double sum = 0;  // of exp(logit - max)
};

// One per query of the group; there are visible rows. Logits that are not finite count as the
// lowest float.
std::vector<QueryLogits> ExactLogits(const memory::RowsView& keys,
                                     const kv_node::GroupQuery& query);

// The share of the query's attention over the visible rows that the row holds.
double ShareOf(const QueryLogits& query, size_t row);

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_BASELINES_EXACT_LOGITS_H_
