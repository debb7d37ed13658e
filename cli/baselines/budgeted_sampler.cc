#include "cli/baselines/budgeted_sampler.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "kv_node/kernels/group_attention.h"

namespace sounder::cli {

using kv_node::GroupQuery;
using kv_node::Scratch;
using kv_node::Segment;

absl::StatusOr<kv_node::BuiltIndex> BudgetedSampler::BuildIndex(const kv_node::SegmentRows& rows,
                                                                Scratch&) const {
  if (rows.shape().dim != spec_.dim) {
    return absl::InvalidArgumentError(
        absl::StrCat("a segment of dim ", rows.shape().dim, ", expected ", spec_.dim));
  }
  return kv_node::BuiltIndex();
}

void BudgetedSampler::SelectQueries(const Segment& segment, const kv_node::SegmentRows* rows,
                                    const GroupQuery& query, int first, int count, Scratch& scratch,
                                    kv_node::Selection* selection) const {
  CHECK(first == 0 && count == query.group) << "one choice for the whole group";
  CHECK(rows != nullptr || selects_without_rows()) << name_ << " looks at all rows";
  const auto visible = static_cast<double>(query.row_end - query.row_begin);
  const double fraction = query.row_fraction > 0 ? query.row_fraction : spec_.sketch.row_fraction;
  double wanted = std::min(1.0, fraction) * visible;
  if (query.row_cap > 0) wanted = std::min(wanted, static_cast<double>(query.row_cap));
  const int64_t chosen = wanted > 0 ? Choose(segment, rows, query, wanted, scratch) : 0;
  selection->AddPart(0, count, scratch.candidates(), scratch.probabilities(), chosen);
  selection->stats = {.rows_read = chosen * count, .rows_loaded = chosen};
}

void BudgetedSampler::AttendParts(const kv_node::SelectedWork& work, Scratch& scratch,
                                  float* outputs, float* lse, kv_node::ErrorTerms* errors) const {
  const kv_node::SelectedPart& part = work.selection.parts.at(0);
  kv_node::GroupAttention({.queries = work.query.queries,
                           .num_queries = part.num_queries,
                           .dim = work.segment.dim(),
                           .scale = work.query.scale,
                           .rows = work.RowsOf(part),
                           .probabilities = work.ProbabilitiesOf(part),
                           .schedule = scratch.schedule()},
                          work.source.keys, work.source.values,
                          scratch.workspace(kv_node::GroupAttentionWorkspace(part.count)), outputs,
                          lse, errors == nullptr ? nullptr : &errors->a);
}

}  // namespace sounder::cli
