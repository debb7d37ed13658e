#include "kv_node/sampler/exact_sampler.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/kernels/exact_attention.h"

namespace sounder::kv_node {

void AttendExactly(const Segment& segment, const GroupQuery& query, const Scratch& scratch,
                   float* outputs, float* lse, ErrorTerms* errors, AttendStats* stats) {
  CHECK(query.row_begin >= 0 && query.row_begin <= query.row_end &&
        query.row_end <= segment.num_rows())
      << query.row_begin << " to " << query.row_end << " of " << segment.num_rows();
  kernels::ExactAttention({.queries = query.queries,
                           .query_stride = segment.dim(),
                           .num_queries = query.group,
                           .keys = segment.keys().Slice(query.row_begin, query.row_end),
                           .values = segment.values().Slice(query.row_begin, query.row_end),
                           .scale = query.scale,
                           .visible_rows = {},
                           .schedule = scratch.schedule()},
                          outputs, lse);
  if (errors != nullptr) std::fill(errors, errors + query.group, ErrorTerms{});
  if (stats != nullptr) {
    const int64_t visible = query.row_end - query.row_begin;
    *stats = {.rows_read = visible * query.group, .rows_loaded = visible, .exact = true};
  }
}

std::vector<Candidate> AllVisibleRows(const GroupQuery& query) {
  std::vector<Candidate> candidates;
  for (int64_t row = query.row_begin; row < query.row_end; ++row) {
    candidates.push_back({.row = row, .u = 1});
  }
  return candidates;
}

absl::StatusOr<std::unique_ptr<SegmentIndex>> ExactSampler::BuildIndex(const Segment&,
                                                                       Scratch&) const {
  return std::unique_ptr<SegmentIndex>();
}

void ExactSampler::Attend(const Segment& segment, const GroupQuery& query, Scratch& scratch,
                          float* outputs, float* lse, ErrorTerms* errors,
                          AttendStats* stats) const {
  AttendExactly(segment, query, scratch, outputs, lse, errors, stats);
}

std::vector<Candidate> ExactSampler::Candidates(const Segment&, const GroupQuery& query, int,
                                                Scratch&) const {
  return AllVisibleRows(query);
}

}  // namespace sounder::kv_node
