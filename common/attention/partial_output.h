// The algebra of partial outputs. A partial output is (output normalised over a set of rows,
// natural-log log-sum-exp of the logits of that set); the empty set is (0, -inf). Over disjoint
// sets of rows, merging is exact up to rounding, associative and commutative, with the empty set as
// identity. So attention may be cut over rows, segments and nodes, and put together again.
// Pure functions, thread safe.
#ifndef SOUNDER_COMMON_ATTENTION_PARTIAL_OUTPUT_H_
#define SOUNDER_COMMON_ATTENTION_PARTIAL_OUTPUT_H_

#include <cmath>
#include <limits>

namespace sounder::attention {

// lse of the empty set of rows.
inline constexpr float kEmptyLse = -std::numeric_limits<float>::infinity();

// The weights of two partial outputs in their merge and the lse of the union.
struct MergeWeights {
  float weight1;
  float weight2;
  float lse;
};

// weight1 + weight2 = 1 unless both are empty; then both are 0 and lse is -inf.
inline MergeWeights WeightsOfMerge(float lse1, float lse2) {
  const float high = lse1 > lse2 ? lse1 : lse2;
  if (high == kEmptyLse) return {0, 0, kEmptyLse};
  const float e1 = std::exp(lse1 - high);
  const float e2 = std::exp(lse2 - high);
  const float sum = e1 + e2;
  return {e1 / sum, e2 / sum, high + std::log(sum)};
}

// Merges (output2, lse2) into (output1, lse1); outputs are f32[dim]. An empty side contributes
// nothing, whatever its output holds; two empty sides give the empty partial output.
inline void MergePartial(float* output1, float* lse1, const float* output2, float lse2, int dim) {
  const MergeWeights w = WeightsOfMerge(*lse1, lse2);
  *lse1 = w.lse;
  if (w.weight2 == 0 && w.weight1 != 0) return;
  for (int i = 0; i < dim; ++i) {
    const float kept = w.weight1 == 0 ? 0 : w.weight1 * output1[i];
    output1[i] = w.weight2 == 0 ? kept : kept + w.weight2 * output2[i];
  }
}

}  // namespace sounder::attention

#endif  // SOUNDER_COMMON_ATTENTION_PARTIAL_OUTPUT_H_
