// Attention over a few hundred rows by groups of correlated queries, with the truth in float64, and
// what samplers make of it: shared by the tests of calibration and of its mutants.
#ifndef SOUNDER_TESTS_KV_NODE_SAMPLER_CALIBRATION_H_
#define SOUNDER_TESTS_KV_NODE_SAMPLER_CALIBRATION_H_

#include <cmath>
#include <memory>
#include <vector>

#include "common/attention/partial_output.h"
#include "tests/kv_node/sampler/conformance.h"
#include "tests/kv_node/sampler/testing.h"

namespace sounder::kv_node {

class Problem {
 public:
  static constexpr int kDim = 32;
  static constexpr int64_t kRows = 1024;
  static constexpr int kHeads = 4;    // query heads of a group
  static constexpr int kGroups = 12;  // independent groups
  static constexpr int kQueries = kHeads * kGroups;

  // rho: the correlation of the queries of a group, dimension by dimension.
  explicit Problem(double rho) : scale_(1 / std::sqrt(static_cast<float>(kDim))) {
    const auto fill = [](std::vector<float>& out, int64_t count, const RowFunction& value) {
      for (int64_t i = 0; i < count; ++i) out.push_back(value(0, 0));
    };
    // Keys share an offset, as real keys do.
    fill(keys_, kRows * kDim, Gaussian(1, 1, .5));
    fill(values_, kRows * kDim, Gaussian(2));
    fill(direction_, kDim, Gaussian(4, 1 / std::sqrt(double{kDim})));
    const RowFunction normal = Gaussian(3);
    for (int g = 0; g < kGroups; ++g) {
      std::vector<float> common;
      fill(common, kDim, normal);
      for (int i = 0; i < kHeads * kDim; ++i) {
        queries_.push_back(static_cast<float>(
            1.5 * (std::sqrt(rho) * common[i % kDim] + std::sqrt(1 - rho) * normal(0, 0))));
      }
    }
    for (int q = 0; q < kQueries; ++q) {
      double z = 0;
      double numerator = 0;
      for (int64_t r = 0; r < kRows; ++r) {
        double dot = 0;
        for (int c = 0; c < kDim; ++c) {
          dot += double{queries_[q * kDim + c]} * keys_[r * kDim + c];
        }
        logits_.push_back(dot * scale_);
        z += std::exp(logits_.back());
        numerator += std::exp(logits_.back()) * Along(values_.data() + r * kDim);
      }
      z_.push_back(z);
      numerators_.push_back(numerator);
    }
  }

  double logit(int query, int64_t row) const { return logits_[query * kRows + row]; }
  double z(int query) const { return z_[query]; }
  double numerator(int query) const { return numerators_[query]; }
  const float* query(int query) const { return queries_.data() + query * kDim; }
  const float* key(int64_t row) const { return keys_.data() + row * kDim; }
  // A value along a fixed random direction.
  double Along(const float* value) const {
    double dot = 0;
    for (int c = 0; c < kDim; ++c) dot += double{value[c]} * direction_[c];
    return dot;
  }

  // The rows in `count` segments of about the same number of rows, none a multiple of 64.
  std::vector<std::unique_ptr<Segment>> Segments(const Sampler& sampler, int count) const {
    std::vector<std::unique_ptr<Segment>> segments;
    int64_t begin = 0;
    for (int s = 1; s <= count; ++s) {
      const int64_t end = s == count ? kRows : kRows * s / count + 5;
      segments.push_back(MakeSegment(
          sampler, end - begin, kDim, base::DType::kF32,
          [&](int64_t r, int c) { return keys_[(begin + r) * kDim + c]; },
          [&](int64_t r, int c) { return values_[(begin + r) * kDim + c]; }, begin));
      begin = end;
    }
    return segments;
  }

  // The queries of one group, signed.
  Group Signed(const Sampler& sampler, int group) const {
    return Group(sampler, kHeads, kDim, [&](int64_t head, int c) {
      return query(group * kHeads + static_cast<int>(head))[c];
    });
  }

  std::vector<float> TrueLse(int group) const {
    std::vector<float> lse;
    for (int h = 0; h < kHeads; ++h) {
      lse.push_back(static_cast<float>(std::log(z_[group * kHeads + h])));
    }
    return lse;
  }

 private:
  const float scale_;
  std::vector<float> keys_;
  std::vector<float> values_;
  std::vector<float> queries_;
  std::vector<float> direction_;
  std::vector<double> logits_;      // [query, row]
  std::vector<double> z_;           // [query]
  std::vector<double> numerators_;  // [query], of the sum of weighted values along the direction
};

// Partial outputs of a group's queries, merged as nodes and workers merge them.
struct Merged {
  Merged() : outputs(Problem::kHeads * Problem::kDim), lse(Problem::kHeads, attention::kEmptyLse) {}
  void Add(const float* more_outputs, const float* more_lse) {
    constexpr int kDim = Problem::kDim;
    for (int h = 0; h < Problem::kHeads; ++h) {
      attention::MergePartial(&outputs[h * kDim], &lse[h], more_outputs + h * kDim, more_lse[h],
                              kDim);
    }
  }
  std::vector<float> outputs;
  std::vector<float> lse;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_SAMPLER_CALIBRATION_H_
