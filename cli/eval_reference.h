// Exact attention in float64 for `sounderctl eval`: many queries over the same rows, each row
// converted once. Pure, thread safe.
#ifndef SOUNDER_CLI_EVAL_REFERENCE_H_
#define SOUNDER_CLI_EVAL_REFERENCE_H_

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "common/memory/rows_view.h"

namespace sounder::cli {

// A softmax over growing sets of rows: numerator and denominator relative to exp(max).
class ReferenceState {
 public:
  explicit ReferenceState(int dim) : sums_(dim) {}
  void Add(double logit, const double* value);
  // -inf for no rows.
  double Lse() const;
  // Zeros for no rows.
  std::vector<double> Output() const;
  // The union with another, disjoint set.
  void Merge(const ReferenceState& other);

 private:
  void Rescale(double max);
  double max_ = -std::numeric_limits<double>::infinity();
  double z_ = 0;
  std::vector<double> sums_;
};

// One state per query over all rows of the views. queries [num_queries][dim].
std::vector<ReferenceState> ReferenceAttention(std::span<const float* const> queries,
                                               const memory::RowsView& keys,
                                               const memory::RowsView& values, double scale);

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_EVAL_REFERENCE_H_
