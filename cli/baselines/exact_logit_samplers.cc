#include "cli/baselines/exact_logit_samplers.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "cli/baselines/exact_logits.h"
#include "kv_node/kernels/pps_sample.h"
#include "kv_node/kernels/sketch_scan.h"
#include "kv_node/sampler/draw_start.h"

namespace sounder::cli {

using kv_node::GroupQuery;
using kv_node::Scratch;
using kv_node::Segment;

int64_t TopKSampler::Choose(const Segment&, const kv_node::SegmentRows* rows,
                            const GroupQuery& query, double wanted, Scratch& scratch) const {
  const std::vector<QueryLogits> queries = ExactLogits(rows->keys(), query);
  std::vector<double> sizes(queries[0].logits.size());
  for (const QueryLogits& one : queries) {
    for (size_t i = 0; i < sizes.size(); ++i) sizes[i] = std::max(sizes[i], ShareOf(one, i));
  }
  std::vector<uint32_t> order(sizes.size());
  std::iota(order.begin(), order.end(), 0);
  const auto larger = [&sizes](uint32_t a, uint32_t b) {
    return sizes[a] != sizes[b] ? sizes[a] > sizes[b] : a < b;
  };
  const size_t count = std::min(order.size(), static_cast<size_t>(std::ceil(wanted)));
  std::nth_element(order.begin(), order.begin() + static_cast<int64_t>(count) - 1, order.end(),
                   larger);
  std::sort(order.begin(), order.begin() + static_cast<int64_t>(count));
  for (size_t i = 0; i < count; ++i) {
    scratch.candidates()[i] = static_cast<uint16_t>(query.row_begin + order[i]);
    scratch.probabilities()[i] = 1;
  }
  return static_cast<int64_t>(count);
}

int64_t OracleSampler::Choose(const Segment& segment, const kv_node::SegmentRows* rows,
                              const GroupQuery& query, double wanted, Scratch& scratch) const {
  const std::vector<QueryLogits> queries = ExactLogits(rows->keys(), query);
  const auto visible = static_cast<int64_t>(queries[0].logits.size());
  constexpr int64_t kPadding = 2 * kv_node::kSizeBlockRows;
  const int64_t padded = (visible + kPadding - 1) / kPadding * kPadding;
  int8_t* scores = scratch.scores(static_cast<size_t>(padded * query.group));
  std::fill_n(scores, padded * query.group, kv_node::kNoScore);
  // Quarters of a binary order of magnitude below the query's largest logit, which has score kTop.
  constexpr int kStep = 32;
  constexpr int kTop = 127;
  constexpr double kUnit = kv_node::kScoreUnit * std::numbers::log2e / kStep;
  std::vector<int16_t>& offsets = scratch.offsets();
  offsets.clear();
  for (const QueryLogits& one : queries) {
    int8_t* out = scores + static_cast<int64_t>(offsets.size()) * padded;
    for (int64_t i = 0; i < visible; ++i) {
      const double score = kTop + std::nearbyint(kUnit * (double{one.logits[i]} - one.max));
      out[i] = static_cast<int8_t>(std::max(score, double{kv_node::kNoScore} + 1));
    }
    offsets.push_back(static_cast<int16_t>(kTop + std::nearbyint(kUnit * std::log(one.sum))));
  }
  kv_node::GroupSizes sizes = {.shares = scratch.shares(), .sums = scratch.size_sums()};
  kv_node::MeasureSizes({.scores = scores,
                         .stride = padded,
                         .padded_rows = padded,
                         .step = kStep,
                         .offsets = offsets},
                        &sizes);
  const kv_node::PpsPlan plan =
      kv_node::PlanSample(sizes, visible, wanted, spec().sketch.floor_share, scratch.large_sizes());
  const uint32_t start =
      kv_node::DrawStart(query, segment.first_position(), kv_node::DrawKind::kOracle);
  const int64_t count = kv_node::DrawSystematic(sizes, plan, start, {}, scratch.candidates(),
                                                scratch.probabilities());
  for (int64_t i = 0; i < count; ++i) {
    scratch.candidates()[i] = static_cast<uint16_t>(query.row_begin + scratch.candidates()[i]);
  }
  return count;
}

}  // namespace sounder::cli
