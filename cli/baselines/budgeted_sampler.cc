#include "cli/baselines/budgeted_sampler.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kv_node/kernels/group_attention.h"
#include "kv_node/sampler/exact_sampler.h"

namespace sounder::cli {

using kv_node::GroupQuery;
using kv_node::Scratch;
using kv_node::Segment;

absl::StatusOr<std::unique_ptr<kv_node::SegmentIndex>> BudgetedSampler::BuildIndex(
    const Segment& segment, Scratch&) const {
  if (segment.dim() != spec_.dim) {
    return absl::InvalidArgumentError(
        absl::StrCat("a segment of dim ", segment.dim(), ", expected ", spec_.dim));
  }
  return std::unique_ptr<kv_node::SegmentIndex>();
}

int64_t BudgetedSampler::ChooseAny(const Segment& segment, const GroupQuery& query,
                                   Scratch& scratch) const {
  const auto visible = static_cast<double>(query.row_end - query.row_begin);
  const double fraction = query.row_fraction > 0 ? query.row_fraction : spec_.sketch.row_fraction;
  double wanted = std::min(1.0, fraction) * visible;
  if (query.row_cap > 0) wanted = std::min(wanted, static_cast<double>(query.row_cap));
  return wanted > 0 ? Choose(segment, query, wanted, scratch) : 0;
}

void BudgetedSampler::Attend(const Segment& segment, const GroupQuery& query, Scratch& scratch,
                             float* outputs, float* lse, kv_node::ErrorTerms* errors,
                             kv_node::AttendStats* stats) const {
  if (IsShort(segment)) {
    kv_node::AttendExactly(segment, query, scratch, outputs, lse, errors, stats);
    return;
  }
  const auto count = static_cast<size_t>(ChooseAny(segment, query, scratch));
  kv_node::GroupAttention({.queries = query.queries,
                           .num_queries = query.group,
                           .dim = segment.dim(),
                           .scale = query.scale,
                           .rows = {scratch.candidates(), count},
                           .probabilities = {scratch.probabilities(), count},
                           .schedule = scratch.schedule()},
                          segment.keys(), segment.values(),
                          scratch.workspace(kv_node::GroupAttentionWorkspace(count)), outputs, lse,
                          errors == nullptr ? nullptr : &errors->a);
  if (stats == nullptr) return;
  *stats = {.rows_read = static_cast<int64_t>(count) * query.group,
            .rows_loaded = static_cast<int64_t>(count)};
}

std::vector<kv_node::Candidate> BudgetedSampler::Candidates(const Segment& segment,
                                                            const GroupQuery& query, int,
                                                            Scratch& scratch) const {
  if (IsShort(segment)) return kv_node::AllVisibleRows(query);
  const int64_t count = ChooseAny(segment, query, scratch);
  std::vector<kv_node::Candidate> candidates;
  for (int64_t i = 0; i < count; ++i) {
    candidates.push_back({.row = scratch.candidates()[i], .u = scratch.probabilities()[i]});
  }
  return candidates;
}

}  // namespace sounder::cli
