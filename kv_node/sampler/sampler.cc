#include "kv_node/sampler/sampler.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "kv_node/sampler/exact_sampler.h"
#include "kv_node/sampler/lsh_split_sampler.h"
#include "kv_node/sampler/lsh_tables_sampler.h"
#include "kv_node/sampler/sketch_sampler.h"

namespace sounder::kv_node {

namespace {

// Queries of a large block whose rows are selected before any is attended: working memory does not
// grow with what a request asks for.
constexpr int kSelectedTogether = base::kMaxGroup;
constexpr size_t kSeenBytes = base::kMaxSegmentRows / 8;

void CheckVisible(const Segment& segment, const GroupQuery& query) {
  CHECK(query.row_begin >= 0 && query.row_begin <= query.row_end &&
        query.row_end <= segment.num_rows())
      << query.row_begin << " to " << query.row_end << " of " << segment.num_rows();
}

// The rows of a selection by their places among `ids`, ascending; those of a single part are at
// 0, 1, 2, ...
std::span<const uint16_t> PlacesOf(const Selection& selection, const std::vector<uint16_t>& ids,
                                   Scratch& scratch) {
  std::vector<uint16_t>& places = scratch.places();
  places.resize(selection.rows.size());
  for (const SelectedPart& part : selection.parts) {
    size_t next = 0;
    for (size_t i = part.begin; i < part.begin + part.count; ++i) {
      while (next < ids.size() && ids[next] < selection.rows[i]) ++next;
      CHECK(next < ids.size() && ids[next] == selection.rows[i])
          << "row " << selection.rows[i] << " was selected and is not among those gathered";
      places[i] = static_cast<uint16_t>(next);
    }
  }
  return places;
}

}  // namespace

void Sampler::Select(const Segment& segment, const SegmentRows* rows, const GroupQuery& query,
                     Scratch& scratch, Selection* selection) const {
  CheckVisible(segment, query);
  selection->Clear();
  selection->row_begin = query.row_begin;
  selection->row_end = query.row_end;
  if (ReadsAll(segment)) {
    const int64_t visible = query.row_end - query.row_begin;
    selection->all_visible = true;
    selection->stats = {.rows_read = visible * query.group, .rows_loaded = visible, .exact = true};
    return;
  }
  std::memset(scratch.seen(), 0, kSeenBytes);
  SelectQueries(segment, rows, query, 0, query.group, scratch, selection);
}

void Sampler::AttendSelected(const Segment& segment, const GroupQuery& query,
                             const Selection& selection, const SelectedRows& rows, Scratch& scratch,
                             float* outputs, float* lse, ErrorTerms* errors) const {
  if (selection.all_visible) {
    AttendExactly(query, selection, rows, scratch, outputs, lse, errors);
    return;
  }
  const std::span<const uint16_t> places =
      rows.ids == nullptr ? selection.rows : PlacesOf(selection, *rows.ids, scratch);
  AttendParts({segment, query, selection, rows, places}, scratch, outputs, lse, errors);
}

void Sampler::Attend(const Segment& segment, const SegmentRows& rows, const GroupQuery& query,
                     Scratch& scratch, float* outputs, float* lse, ErrorTerms* errors,
                     AttendStats* stats) const {
  Selection& selection = scratch.selection();
  const SelectedRows source = SelectedRows::Of(rows);
  if (query.group <= kSelectedTogether || shared_queries() >= query.group || ReadsAll(segment)) {
    Select(segment, &rows, query, scratch, &selection);
    AttendSelected(segment, query, selection, source, scratch, outputs, lse, errors);
    if (stats != nullptr) *stats = selection.stats;
    return;
  }
  CheckVisible(segment, query);
  std::memset(scratch.seen(), 0, kSeenBytes);
  AttendStats total;
  const int together = kSelectedTogether / shared_queries() * shared_queries();
  for (int first = 0; first < query.group; first += together) {
    selection.Clear();
    SelectQueries(segment, &rows, query, first, std::min(together, query.group - first), scratch,
                  &selection);
    AttendParts({segment, query, selection, source, selection.rows}, scratch, outputs, lse, errors);
    total.Add(selection.stats);
  }
  if (stats != nullptr) *stats = total;
}

void Sampler::Attend(const Segment& segment, const GroupQuery& query, Scratch& scratch,
                     float* outputs, float* lse, ErrorTerms* errors, AttendStats* stats) const {
  const std::shared_ptr<const SegmentRows> rows = segment.rows();
  CHECK(rows != nullptr) << "the rows are not in memory";
  Attend(segment, *rows, query, scratch, outputs, lse, errors, stats);
}

std::vector<Candidate> Sampler::Candidates(const Segment& segment, const GroupQuery& query,
                                           int member, Scratch& scratch) const {
  std::vector<Candidate> candidates;
  if (ReadsAll(segment)) {
    for (int64_t row = query.row_begin; row < query.row_end; ++row) {
      candidates.push_back({.row = row, .u = 1});
    }
    return candidates;
  }
  const std::shared_ptr<const SegmentRows> rows = segment.rows();
  CHECK(rows != nullptr) << "the rows are not in memory";
  const int first = member / shared_queries() * shared_queries();
  Selection selection;
  std::memset(scratch.seen(), 0, kSeenBytes);
  SelectQueries(segment, rows.get(), query, first, std::min(shared_queries(), query.group - first),
                scratch, &selection);
  const SelectedRows source = SelectedRows::Of(*rows);
  std::vector<double> u(selection.probabilities.begin(), selection.probabilities.end());
  if (u.empty()) {
    InclusionProbabilities({segment, query, selection, source, selection.rows},
                           selection.parts.at(0), scratch, &u);
  }
  for (size_t i = 0; i < selection.rows.size(); ++i) {
    candidates.push_back({.row = selection.rows[i], .u = u[i]});
  }
  return candidates;
}

memory::AlignedBuffer Sampler::EncodeIndex(const SegmentIndex&) const {
  CHECK(false) << base::ToAbsl(name()) << " builds no index to keep";
  return {};
}

absl::StatusOr<std::unique_ptr<SegmentIndex>> Sampler::DecodeIndex(
    const SegmentShape&, std::span<const std::byte>) const {
  return absl::FailedPreconditionError(
      absl::StrCat("an index for ", base::ToAbsl(name()), ", which reads none"));
}

void Sampler::InclusionProbabilities(const SelectedWork&, const SelectedPart& part, Scratch&,
                                     std::vector<double>*) const {
  CHECK(part.count == 0) << "a sampler that draws says with which probability";
}

std::string_view NameOf(SamplerKind kind) {
  switch (kind) {
    case SamplerKind::kExact:
      return "exact";
    case SamplerKind::kLshTables:
      return "lsh_tables";
    case SamplerKind::kSketch:
      return "sketch";
  }
  return "unknown";
}

namespace {

absl::StatusOr<std::unique_ptr<Sampler>> MakeSketchSampler(const SamplerSpec& spec) {
  const SketchParams& params = spec.sketch;
  if (params.bits != 64 && params.bits != 128 && params.bits != 256) {
    return absl::InvalidArgumentError(
        absl::StrCat("sketches of ", params.bits, " bits, expected 64, 128 or 256"));
  }
  if (spec.dim < 8 || spec.dim > base::kMaxHeadDim || spec.dim % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("dim is ", spec.dim, ", expected a multiple of 8, 8 to ", base::kMaxHeadDim));
  }
  if (!(params.row_fraction > 0 && params.row_fraction <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a share of ", params.row_fraction, " of the rows, expected (0, 1]"));
  }
  return std::make_unique<SketchSampler>(params, spec.dim, spec.min_indexed_rows);
}

absl::StatusOr<std::unique_ptr<Sampler>> MakeLshSampler(const SamplerSpec& spec) {
  ASSIGN_OR_RETURN(lsh::Projection projection, lsh::Projection::Create(spec.lsh, spec.dim));
  if (!spec.lsh_tables.split) {
    return std::make_unique<LshTablesSampler>(std::move(projection), spec.min_indexed_rows,
                                              spec.lsh_tables.value_roulette);
  }
  if (spec.lsh_tables.value_roulette) {
    return absl::InvalidArgumentError("value_roulette with split tables, expected one of them");
  }
  if (spec.group < 1 || spec.group > base::kMaxGroup) {
    return absl::InvalidArgumentError(
        absl::StrCat("group is ", spec.group, ", expected 1 to ", base::kMaxGroup));
  }
  if (spec.lsh.projection != lsh::ProjectionKind::kGaussian) {
    return absl::InvalidArgumentError(
        absl::StrCat("split tables need independent directions: projection is ",
                     base::ToAbsl(lsh::NameOf(spec.lsh.projection)), ", expected gaussian"));
  }
  if (spec.lsh.num_tables / spec.group < spec.lsh.min_collisions) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_tables is ", spec.lsh.num_tables, ", divided among ", spec.group, " query heads that ",
        "need at least ", spec.lsh.min_collisions, " each (min_collisions)"));
  }
  return std::make_unique<LshSplitSampler>(std::move(projection), spec.group,
                                           spec.min_indexed_rows);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Sampler>> MakeSampler(const SamplerSpec& spec) {
  if (spec.min_indexed_rows < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("min_indexed_rows is ", spec.min_indexed_rows, ", expected 1 or more"));
  }
  if (spec.kind == SamplerKind::kExact) return std::make_unique<ExactSampler>();
  if (spec.kind == SamplerKind::kSketch) return MakeSketchSampler(spec);
  return MakeLshSampler(spec);
}

}  // namespace sounder::kv_node
