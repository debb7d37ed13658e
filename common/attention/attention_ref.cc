#include "common/attention/attention_ref.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace sounder::attention {

void AttentionRef(const AttentionRefArgs& args, double* outputs, double* lse) {
  const int key_dim = args.keys.dim;
  const int value_dim = args.values.dim;
  for (int i = 0; i < args.num_queries; ++i) {
    const float* query = args.queries + i * args.query_stride;
    double* output = outputs + int64_t{i} * value_dim;
    std::fill(output, output + value_dim, 0.0);
    lse[i] = -std::numeric_limits<double>::infinity();
    const int64_t begin = args.visible_begin.empty() ? 0 : args.visible_begin[i];
    const int64_t end = args.visible_end.empty() ? args.keys.rows : args.visible_end[i];
    if (end <= begin) continue;
    std::vector<double> logits;
    for (int64_t row = begin; row < end; ++row) {
      double dot = 0;
      for (int c = 0; c < key_dim; ++c) dot += double{query[c]} * args.keys.At(row, c);
      logits.push_back(dot * args.scale);
    }
    const double max = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (int64_t row = begin; row < end; ++row) {
      const double weight = std::exp(logits[row - begin] - max);
      sum += weight;
      for (int c = 0; c < value_dim; ++c) output[c] += weight * args.values.At(row, c);
    }
    for (int c = 0; c < value_dim; ++c) output[c] /= sum;
    lse[i] = max + std::log(sum);
  }
}

}  // namespace sounder::attention
