#include "cli/baselines/exact_logits.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sounder::cli {
namespace {

// dim is a multiple of 8. Eight partial sums, so that the compiler may use vectors.
float Dot(const float* x, const float* y, int dim) {
  float sums[8] = {};
  for (int i = 0; i < dim; i += 8) {
    for (int k = 0; k < 8; ++k) sums[k] += x[i + k] * y[i + k];
  }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

}  // namespace

std::vector<QueryLogits> ExactLogits(const memory::RowsView& keys,
                                     const kv_node::GroupQuery& query) {
  const auto visible = static_cast<size_t>(query.row_end - query.row_begin);
  std::vector<QueryLogits> all(query.group);
  for (QueryLogits& one : all) one.logits.resize(visible);
  std::vector<float> key(keys.dim);
  for (size_t i = 0; i < visible; ++i) {
    const int64_t row = query.row_begin + static_cast<int64_t>(i);
    for (int c = 0; c < keys.dim; ++c) key[c] = keys.At(row, c);
    for (int q = 0; q < query.group; ++q) {
      const float logit =
          query.scale * Dot(query.queries + int64_t{q} * keys.dim, key.data(), keys.dim);
      all[q].logits[i] = std::isfinite(logit) ? logit : std::numeric_limits<float>::lowest();
    }
  }
  for (QueryLogits& one : all) {
    one.max = *std::max_element(one.logits.begin(), one.logits.end());
    for (const float logit : one.logits) one.sum += std::exp(double{logit} - one.max);
  }
  return all;
}

double ShareOf(const QueryLogits& query, size_t row) {
  return std::exp(double{query.logits[row]} - query.max) / query.sum;
}

}  // namespace sounder::cli
