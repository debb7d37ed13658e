#include "kv_node/sampler/exact_sampler.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/kernels/exact_attention.h"

namespace sounder::kv_node {

void AttendExactly(const GroupQuery& query, const Selection& selection, const SelectedRows& rows,
                   const Scratch& scratch, float* outputs, float* lse, ErrorTerms* errors) {
  // Gathered rows begin with the first visible one.
  const int64_t begin = rows.ids == nullptr ? selection.row_begin : 0;
  const int64_t end = begin + selection.row_end - selection.row_begin;
  CHECK(rows.ids == nullptr || static_cast<int64_t>(rows.ids->size()) == end) << rows.ids->size();
  kernels::ExactAttention({.queries = query.queries,
                           .query_stride = rows.keys.dim,
                           .num_queries = query.group,
                           .keys = rows.keys.Slice(begin, end),
                           .values = rows.values.Slice(begin, end),
                           .scale = query.scale,
                           .visible_rows = {},
                           .schedule = scratch.schedule()},
                          outputs, lse);
  if (errors != nullptr) std::fill(errors, errors + query.group, ErrorTerms{});
}

void ExactSampler::SelectQueries(const Segment&, const SegmentRows*, const GroupQuery&, int, int,
                                 Scratch&, Selection*) const {
  CHECK(false) << "every row is read";
}

void ExactSampler::AttendParts(const SelectedWork&, Scratch&, float*, float*, ErrorTerms*) const {
  CHECK(false) << "every row is read";
}

}  // namespace sounder::kv_node
