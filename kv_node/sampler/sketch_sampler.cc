#include "kv_node/sampler/sketch_sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/kernels/row_statistics.h"
#include "kv_node/kernels/pps_sample.h"
#include "kv_node/kernels/sketch_scan.h"
#include "kv_node/sampler/draw_start.h"
#include "kv_node/sampler/exact_sampler.h"

namespace sounder::kv_node {
namespace {

// What is read of a sampled row, counted from row `first`.
std::array<RowMemory, 2> MemoryOf(const Segment& segment, const SketchIndex& index, int64_t first) {
  if (index.has_int8_rows()) {
    const Int8Rows rows = index.int8_rows();
    const auto stride = static_cast<int64_t>(rows.record_bytes());
    return {RowMemory{rows.Record(first), stride, rows.record_bytes() / 2},
            RowMemory{rows.Record(first) + stride / 2, stride, rows.record_bytes() / 2}};
  }
  const memory::RowsView keys = segment.keys();
  const memory::RowsView values = segment.values();
  const size_t bytes = keys.dim * base::SizeOf(keys.dtype);
  return {RowMemory{keys.Row(first), keys.row_stride, bytes},
          RowMemory{values.Row(first), values.row_stride, bytes}};
}

// How many rows of the segment to read in expectation; `sizes`: of its visible rows.
double WantedRows(const GroupQuery& query, const SketchParams& params, const GroupSizes& sizes) {
  const double visible = static_cast<double>(query.row_end - query.row_begin);
  const double fraction = query.row_fraction > 0 ? query.row_fraction : params.row_fraction;
  double wanted = fraction * visible;
  if (!query.lse_hints.empty() && query.mean_size_hint > 0) {
    const double mass = std::ldexp(static_cast<double>(sizes.total), -kFullSizeBits);
    wanted = fraction * (params.floor_share * visible +
                         (1 - params.floor_share) * mass / double{query.mean_size_hint});
  }
  if (query.row_cap > 0) wanted = std::min(wanted, static_cast<double>(query.row_cap));
  return std::min(wanted, visible);
}

// log2 of the sum of a query's weights, in scores: over the visible rows as estimated, or over the
// session's as the hint has it, if that is more.
int16_t OffsetOf(const GroupQuery& query, int q, std::span<const float> mean, double log_sum,
                 int step) {
  double units = log_sum;
  if (!query.lse_hints.empty()) {
    double dot = 0;
    const float* x = query.queries + static_cast<size_t>(q) * mean.size();
    for (size_t i = 0; i < mean.size(); ++i) dot += double{x[i]} * mean[i];
    const double nats = double{query.lse_hints[q]} - double{query.scale} * dot;
    const double hint = kScoreUnit * std::numbers::log2e * nats;
    if (hint > units) units = hint;  // not where the hint is not a number
  }
  const double offset = std::nearbyint(units / step);
  return static_cast<int16_t>(std::clamp(offset, -127.0, 1000.0));
}

// The queries from `begin` on, as many as share a sample.
GroupQuery PartOf(const GroupQuery& query, int begin, int dim) {
  GroupQuery part = query;
  part.queries += static_cast<ptrdiff_t>(begin) * dim;
  part.group = std::min(kSketchSharedQueries, query.group - begin);
  if (!query.lse_hints.empty()) part.lse_hints = query.lse_hints.subspan(begin, part.group);
  return part;
}

struct PreparedTables : PreparedQueries {
  SketchTables tables;
};

}  // namespace

SketchIndex::SketchIndex(const SketchRotation& rotation, const Segment& segment, bool int8_rows)
    : rows_(segment.num_rows()),
      dim_(segment.dim()),
      bits_(rotation.bits()),
      mean_(dim_ * sizeof(float)),
      blocks_(SketchView::BlockBytes(rows_, bits_)),
      factors_(SketchView::PaddedRows(rows_)) {
  float* mean = mean_.As<float>().data();
  kernels::MeanOfRows(segment.keys(), mean);
  factor_exponent_ = BuildSketch(rotation, segment.keys(), mean, blocks_.As<uint8_t>().data(),
                                 factors_.As<uint8_t>().data());
  if (!int8_rows) return;
  int8_rows_ = memory::AlignedBuffer(rows_ * Int8Rows::RecordBytes(dim_));
  QuantizeRows(segment.keys(), segment.values(), mean, int8_rows_.data());
}

size_t SketchIndex::bytes() const {
  return sizeof(SketchIndex) + mean_.allocated() + blocks_.allocated() + factors_.allocated();
}

size_t SketchIndex::BytesFor(const SketchRotation& rotation, int64_t rows, bool int8_rows) {
  constexpr auto kAllocated = memory::AlignedBuffer::Allocated;
  return sizeof(SketchIndex) + kAllocated(rotation.dim() * sizeof(float)) +
         kAllocated(SketchView::BlockBytes(rows, rotation.bits())) +
         kAllocated(SketchView::PaddedRows(rows)) +
         (int8_rows ? kAllocated(rows * Int8Rows::RecordBytes(rotation.dim())) : 0);
}

SketchView SketchIndex::sketches() const {
  return {.rows = rows_,
          .bits = bits_,
          .blocks = blocks_.As<uint8_t>().data(),
          .factors = factors_.As<uint8_t>().data(),
          .factor_exponent = factor_exponent_};
}

Int8Rows SketchIndex::int8_rows() const {
  return {.data = int8_rows_.data(), .rows = rows_, .dim = dim_};
}

SketchSampler::SketchSampler(const SketchParams& params, int dim, int64_t min_indexed_rows)
    : params_(params),
      rotation_(dim, params.bits, params.seed),
      min_indexed_rows_(min_indexed_rows) {}

absl::StatusOr<std::unique_ptr<SegmentIndex>> SketchSampler::BuildIndex(const Segment& segment,
                                                                        Scratch&) const {
  if (segment.dim() != rotation_.dim()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a segment of dim ", segment.dim(), ", expected ", rotation_.dim()));
  }
  if (segment.num_rows() < min_indexed_rows_) return std::unique_ptr<SegmentIndex>();
  return std::make_unique<SketchIndex>(rotation_, segment, params_.int8_rows);
}

size_t SketchSampler::IndexBytesBound(int64_t rows) const {
  return rows < min_indexed_rows_ ? 0 : SketchIndex::BytesFor(rotation_, rows, params_.int8_rows);
}

int64_t SketchSampler::Sample(const Segment& segment, const SketchIndex& index,
                              const GroupQuery& query, Scratch& scratch, double* mass) const {
  const int64_t visible = query.row_end - query.row_begin;
  *mass = 0;
  if (visible == 0) return 0;
  const uint32_t start = DrawStart(query, segment.first_position(), DrawKind::kSketch);
  if (query.uniform_fraction > 0) {
    const double wanted = std::min(1.0, query.uniform_fraction) * static_cast<double>(visible);
    return DrawAlike(query.row_begin, query.row_end, wanted, start, MemoryOf(segment, index, 0),
                     scratch.candidates(), scratch.probabilities());
  }
  // Whole pairs of blocks that hold the visible rows.
  const int64_t first = query.row_begin / kSketchPairRows * kSketchPairRows;
  const GroupSizes sizes = Measure(index, query, first, scratch);
  *mass = std::ldexp(static_cast<double>(sizes.total), -kFullSizeBits);
  const PpsPlan plan = PlanSample(sizes, visible, WantedRows(query, params_, sizes),
                                  params_.floor_share, scratch.large_sizes());
  const int64_t count = DrawSystematic(sizes, plan, start, MemoryOf(segment, index, first),
                                       scratch.candidates(), scratch.probabilities());
  for (int64_t i = 0; i < count; ++i) {
    scratch.candidates()[i] = static_cast<uint16_t>(scratch.candidates()[i] + first);
  }
  return count;
}

GroupSizes SketchSampler::Measure(const SketchIndex& index, const GroupQuery& query, int64_t first,
                                  Scratch& scratch) const {
  const SketchView sketches = index.sketches();
  const int64_t padded = SketchView::PaddedRows(query.row_end) - first;
  const int64_t stride = SketchView::PaddedRows(sketches.rows);
  const SketchTables* tables = &scratch.sketch_tables();
  if (query.prepared != nullptr) {
    tables = &static_cast<const PreparedTables*>(query.prepared)->tables;
  } else {
    scratch.sketch_tables().Prepare(rotation_, query.queries, query.group, query.scale);
  }
  CHECK(tables->count() == query.group) << tables->count() << " queries prepared";
  const int step = ScoreStep(sketches, *tables);
  int8_t* scores = scratch.scores(static_cast<size_t>(stride) * query.group);
  std::vector<double>& log_sums = scratch.log_sums();
  log_sums.resize(query.group);
  ScanSketches(sketches, *tables, query.row_begin, query.row_end, step, scores, stride,
               log_sums.data(), scratch.schedule());
  std::vector<int16_t>& offsets = scratch.offsets();
  offsets.resize(query.group);
  for (int q = 0; q < query.group; ++q) {
    offsets[q] = OffsetOf(query, q, index.mean(), log_sums[q], step);
  }
  GroupSizes sizes = {.shares = scratch.shares(), .sums = scratch.size_sums()};
  MeasureSizes({.scores = scores + first,
                .stride = stride,
                .padded_rows = padded,
                .step = step,
                .offsets = offsets},
               &sizes);
  return sizes;
}

std::unique_ptr<PreparedQueries> SketchSampler::Prepare(const float* queries, int group,
                                                        float scale) const {
  if (group > kSketchSharedQueries) return nullptr;  // part by part, in scratch
  auto prepared = std::make_unique<PreparedTables>();
  prepared->tables.Prepare(rotation_, queries, group, scale);
  return prepared;
}

void SketchSampler::Attend(const Segment& segment, const GroupQuery& query, Scratch& scratch,
                           float* outputs, float* lse, ErrorTerms* errors,
                           AttendStats* stats) const {
  if (segment.index() == nullptr) {
    AttendExactly(segment, query, scratch, outputs, lse, errors, stats);
    return;
  }
  const auto& index = static_cast<const SketchIndex&>(*segment.index());
  AttendStats total;
  for (int begin = 0; begin < query.group; begin += kSketchSharedQueries) {
    AttendStats of_part;
    AttendPart(segment, index, PartOf(query, begin, segment.dim()), scratch,
               outputs + static_cast<ptrdiff_t>(begin) * segment.dim(), lse + begin,
               errors == nullptr ? nullptr : errors + begin, &of_part);
    total.Add(of_part);
  }
  if (stats != nullptr) *stats = total;
}

void SketchSampler::AttendPart(const Segment& segment, const SketchIndex& index,
                               const GroupQuery& query, Scratch& scratch, float* outputs,
                               float* lse, ErrorTerms* errors, AttendStats* stats) const {
  double mass = 0;
  const auto count = static_cast<size_t>(Sample(segment, index, query, scratch, &mass));
  const GroupSample sample = {.queries = query.queries,
                              .num_queries = query.group,
                              .dim = segment.dim(),
                              .scale = query.scale,
                              .rows = {scratch.candidates(), count},
                              .probabilities = {scratch.probabilities(), count},
                              .schedule = scratch.schedule()};
  float* workspace = scratch.workspace(GroupAttentionWorkspace(count));
  static_assert(sizeof(ErrorTerms) == 3 * sizeof(float));
  float* terms = errors == nullptr ? nullptr : &errors->a;
  if (index.has_int8_rows()) {
    GroupAttention(sample, index.int8_rows(), index.mean().data(), workspace, outputs, lse, terms);
  } else {
    GroupAttention(sample, segment.keys(), segment.values(), workspace, outputs, lse, terms);
  }
  *stats = {.rows_read = static_cast<int64_t>(count) * query.group,
            .rows_loaded = static_cast<int64_t>(count),
            .mass = mass};
}

std::vector<Candidate> SketchSampler::Candidates(const Segment& segment, const GroupQuery& query,
                                                 int member, Scratch& scratch) const {
  if (segment.index() == nullptr) return AllVisibleRows(query);
  const auto& index = static_cast<const SketchIndex&>(*segment.index());
  double mass = 0;
  const GroupQuery part =
      PartOf(query, member / kSketchSharedQueries * kSketchSharedQueries, segment.dim());
  const int64_t count = Sample(segment, index, part, scratch, &mass);
  std::vector<Candidate> candidates;
  for (int64_t i = 0; i < count; ++i) {
    candidates.push_back({.row = scratch.candidates()[i], .u = scratch.probabilities()[i]});
  }
  return candidates;
}

}  // namespace sounder::kv_node
