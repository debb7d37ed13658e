#include "cli/eval_reference.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace sounder::cli {
namespace {

// Eight interleaved sums, so that the compiler may use vectors without reordering.
double Dot(const float* query, const double* row, int dim) {
  std::array<double, 8> sums{};
  for (int i = 0; i < dim; i += 8) {
    for (int j = 0; j < 8; ++j) sums[j] += double{query[i + j]} * row[i + j];
  }
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

void Load(const memory::RowsView& rows, int64_t row, double* out) {
  for (int i = 0; i < rows.dim; ++i) out[i] = rows.At(row, i);
}

}  // namespace

void ReferenceState::Rescale(double max) {
  const double factor = std::exp(max_ - max);
  z_ *= factor;
  for (double& sum : sums_) sum *= factor;
  max_ = max;
}

void ReferenceState::Add(double logit, const double* value) {
  if (logit > max_) Rescale(logit);
  const double weight = std::exp(logit - max_);
  if (weight == 0) return;
  z_ += weight;
  for (size_t i = 0; i < sums_.size(); ++i) sums_[i] += weight * value[i];
}

double ReferenceState::Lse() const {
  return z_ == 0 ? -std::numeric_limits<double>::infinity() : max_ + std::log(z_);
}

std::vector<double> ReferenceState::Output() const {
  std::vector<double> output(sums_);
  for (double& value : output) value = z_ == 0 ? 0 : value / z_;
  return output;
}

void ReferenceState::Merge(const ReferenceState& other) {
  if (other.z_ == 0) return;
  if (other.max_ > max_) Rescale(other.max_);
  const double factor = std::exp(other.max_ - max_);
  z_ += factor * other.z_;
  for (size_t i = 0; i < sums_.size(); ++i) sums_[i] += factor * other.sums_[i];
}

std::vector<ReferenceState> ReferenceAttention(std::span<const float* const> queries,
                                               const memory::RowsView& keys,
                                               const memory::RowsView& values, double scale) {
  std::vector<ReferenceState> states(queries.size(), ReferenceState(values.dim));
  std::vector<double> key(keys.dim), value(values.dim);
  for (int64_t row = 0; row < keys.rows; ++row) {
    Load(keys, row, key.data());
    Load(values, row, value.data());
    for (size_t i = 0; i < queries.size(); ++i) {
      states[i].Add(scale * Dot(queries[i], key.data(), keys.dim), value.data());
    }
  }
  return states;
}

}  // namespace sounder::cli
