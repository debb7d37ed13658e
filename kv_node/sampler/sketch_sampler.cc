#include "kv_node/sampler/sketch_sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/kernels/row_statistics.h"
#include "kv_node/kernels/pps_sample.h"
#include "kv_node/kernels/sketch_scan.h"
#include "kv_node/sampler/draw_start.h"

namespace sounder::kv_node {
namespace {

Int8Rows Int8RowsOf(const std::byte* copies, const SegmentShape& shape) {
  return {.data = copies, .rows = shape.num_rows, .dim = shape.dim};
}

// What is read of a sampled row, counted from row `first`; nothing of rows that are elsewhere.
struct ReadMemory {
  ReadMemory(const SegmentRows* rows, bool int8, int64_t first) {
    if (rows == nullptr) return;
    count = 2;
    if (int8) {
      const Int8Rows copies = Int8RowsOf(rows->copies().data(), rows->shape());
      const auto stride = static_cast<int64_t>(copies.record_bytes());
      parts[0] = {copies.Record(first), stride, copies.record_bytes() / 2};
      parts[1] = {copies.Record(first) + stride / 2, stride, copies.record_bytes() / 2};
      return;
    }
    const memory::RowsView keys = rows->keys();
    const memory::RowsView values = rows->values();
    parts[0] = {keys.Row(first), keys.row_stride, rows->shape().row_bytes()};
    parts[1] = {values.Row(first), values.row_stride, rows->shape().row_bytes()};
  }
  std::span<const RowMemory> span() const { return {parts.data(), count}; }

  std::array<RowMemory, 2> parts;
  size_t count = 0;
};

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

// The queries from `begin` on.
GroupQuery PartOf(const GroupQuery& query, int begin, int count, int dim) {
  GroupQuery part = query;
  part.queries += static_cast<ptrdiff_t>(begin) * dim;
  part.group = count;
  if (!query.lse_hints.empty()) part.lse_hints = query.lse_hints.subspan(begin, count);
  return part;
}

struct PreparedTables : PreparedQueries {
  SketchTables tables;
};

}  // namespace

SketchIndex::SketchIndex(const SketchRotation& rotation, const memory::RowsView& keys)
    : rows_(keys.rows),
      bits_(rotation.bits()),
      mean_(keys.dim * sizeof(float)),
      blocks_(SketchView::BlockBytes(rows_, bits_)),
      factors_(SketchView::PaddedRows(rows_)) {
  float* mean = mean_.As<float>().data();
  kernels::MeanOfRows(keys, mean);
  factor_exponent_ = BuildSketch(rotation, keys, mean, blocks_.As<uint8_t>().data(),
                                 factors_.As<uint8_t>().data());
}

SketchIndex::SketchIndex(int64_t rows, int bits, IndexArrays stored)
    : rows_(rows),
      bits_(bits),
      mean_(std::move(stored.arrays.at(0))),
      blocks_(std::move(stored.arrays.at(1))),
      factors_(std::move(stored.arrays.at(2))),
      factor_exponent_(stored.exponent) {}

std::array<size_t, 3> SketchIndex::ArrayBytes(const SketchRotation& rotation, int64_t rows) {
  return {rotation.dim() * sizeof(float), SketchView::BlockBytes(rows, rotation.bits()),
          static_cast<size_t>(SketchView::PaddedRows(rows))};
}

std::array<std::span<const std::byte>, 3> SketchIndex::Arrays() const {
  return {mean_.bytes(), blocks_.bytes(), factors_.bytes()};
}

size_t SketchIndex::bytes() const {
  return sizeof(SketchIndex) + mean_.allocated() + blocks_.allocated() + factors_.allocated();
}

size_t SketchIndex::BytesFor(const SketchRotation& rotation, int64_t rows) {
  constexpr auto kAllocated = memory::AlignedBuffer::Allocated;
  return sizeof(SketchIndex) + kAllocated(rotation.dim() * sizeof(float)) +
         kAllocated(SketchView::BlockBytes(rows, rotation.bits())) +
         kAllocated(SketchView::PaddedRows(rows));
}

SketchView SketchIndex::sketches() const {
  return {.rows = rows_,
          .bits = bits_,
          .blocks = blocks_.As<uint8_t>().data(),
          .factors = factors_.As<uint8_t>().data(),
          .factor_exponent = factor_exponent_};
}

SketchSampler::SketchSampler(const SketchParams& params, int dim, int64_t min_indexed_rows)
    : params_(params),
      rotation_(dim, params.bits, params.seed),
      min_indexed_rows_(min_indexed_rows) {}

absl::StatusOr<BuiltIndex> SketchSampler::BuildIndex(const SegmentRows& rows, Scratch&) const {
  const SegmentShape& shape = rows.shape();
  if (shape.dim != rotation_.dim()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a segment of dim ", shape.dim, ", expected ", rotation_.dim()));
  }
  BuiltIndex built;
  if (shape.num_rows < min_indexed_rows_) return built;
  auto index = std::make_unique<SketchIndex>(rotation_, rows.keys());
  if (params_.int8_rows) {
    built.copies = memory::AlignedBuffer(shape.num_rows * Int8Rows::RecordBytes(shape.dim));
    QuantizeRows(rows.keys(), rows.values(), index->mean().data(), built.copies.data());
  }
  built.index = std::move(index);
  return built;
}

size_t SketchSampler::IndexBytesBound(int64_t rows) const {
  if (rows < min_indexed_rows_) return 0;
  const size_t copies = params_.int8_rows ? rows * Int8Rows::RecordBytes(rotation_.dim()) : 0;
  return SketchIndex::BytesFor(rotation_, rows) + memory::AlignedBuffer::Allocated(copies);
}

size_t SketchSampler::copy_bytes(const SegmentShape& shape) const {
  const bool copies = params_.int8_rows && shape.num_rows >= min_indexed_rows_;
  return copies ? Int8Rows::RecordBytes(shape.dim) : 0;
}

IndexIdentity SketchSampler::IdentityOf(int64_t rows) const {
  return {.kind = SamplerKind::kSketch,
          .rows = rows,
          .dim = rotation_.dim(),
          .seed = params_.seed,
          .bits = params_.bits};
}

memory::AlignedBuffer SketchSampler::EncodeIndex(const SegmentIndex& index) const {
  const auto& sketch = static_cast<const SketchIndex&>(index);
  const SketchView view = sketch.sketches();
  return EncodeIndexBytes(IdentityOf(view.rows), view.factor_exponent, sketch.Arrays());
}

absl::StatusOr<std::unique_ptr<SegmentIndex>> SketchSampler::DecodeIndex(
    const SegmentShape& shape, std::span<const std::byte> bytes) const {
  RETURN_IF_ERROR(shape.Validate());
  ASSIGN_OR_RETURN(IndexArrays stored,
                   DecodeIndexBytes(bytes, IdentityOf(shape.num_rows),
                                    SketchIndex::ArrayBytes(rotation_, shape.num_rows)));
  // Bits and factors may be any. The exponents of floats, and the eight bits of a factor below.
  constexpr int kLeast = -148 - 8;
  constexpr int kMost = 128 - 8;
  if (stored.exponent < kLeast || stored.exponent > kMost) {
    return absl::DataLossError(absl::StrCat("factors of sketches with exponent ", stored.exponent,
                                            ", expected ", kLeast, " to ", kMost));
  }
  return std::make_unique<SketchIndex>(shape.num_rows, params_.bits, std::move(stored));
}

int64_t SketchSampler::Sample(const Segment& segment, const SegmentRows* rows,
                              const GroupQuery& query, Scratch& scratch, double* mass) const {
  const auto& index = static_cast<const SketchIndex&>(*segment.index());
  const int64_t visible = query.row_end - query.row_begin;
  *mass = 0;
  if (visible == 0) return 0;
  const uint32_t start = DrawStart(query, segment.first_position(), DrawKind::kSketch);
  if (query.uniform_fraction > 0) {
    const double wanted = std::min(1.0, query.uniform_fraction) * static_cast<double>(visible);
    return DrawAlike(query.row_begin, query.row_end, wanted, start,
                     ReadMemory(rows, params_.int8_rows, 0).span(), scratch.candidates(),
                     scratch.probabilities());
  }
  // Whole pairs of blocks that hold the visible rows.
  const int64_t first = query.row_begin / kSketchPairRows * kSketchPairRows;
  const GroupSizes sizes = Measure(index, query, first, scratch);
  *mass = std::ldexp(static_cast<double>(sizes.total), -kFullSizeBits);
  const PpsPlan plan = PlanSample(sizes, visible, WantedRows(query, params_, sizes),
                                  params_.floor_share, scratch.large_sizes());
  const int64_t count =
      DrawSystematic(sizes, plan, start, ReadMemory(rows, params_.int8_rows, first).span(),
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

void SketchSampler::SelectQueries(const Segment& segment, const SegmentRows* rows,
                                  const GroupQuery& query, int first, int count, Scratch& scratch,
                                  Selection* selection) const {
  selection->from_copies = params_.int8_rows;
  for (int begin = first; begin < first + count; begin += kSketchSharedQueries) {
    const int queries = std::min(kSketchSharedQueries, first + count - begin);
    double mass = 0;
    const int64_t sampled =
        Sample(segment, rows, PartOf(query, begin, queries, segment.dim()), scratch, &mass);
    selection->AddPart(begin, queries, scratch.candidates(), scratch.probabilities(), sampled);
    selection->stats.rows_read += sampled * queries;
    selection->stats.rows_loaded += sampled;
    selection->stats.mass += mass;
  }
}

void SketchSampler::AttendParts(const SelectedWork& work, Scratch& scratch, float* outputs,
                                float* lse, ErrorTerms* errors) const {
  const int dim = work.segment.dim();
  static_assert(sizeof(ErrorTerms) == 3 * sizeof(float));
  for (const SelectedPart& part : work.selection.parts) {
    const ptrdiff_t at = static_cast<ptrdiff_t>(part.first_query) * dim;
    const GroupSample sample = {.queries = work.query.queries + at,
                                .num_queries = part.num_queries,
                                .dim = dim,
                                .scale = work.query.scale,
                                .rows = work.RowsOf(part),
                                .probabilities = work.ProbabilitiesOf(part),
                                .schedule = scratch.schedule()};
    float* workspace = scratch.workspace(GroupAttentionWorkspace(part.count));
    float* terms = errors == nullptr ? nullptr : &errors[part.first_query].a;
    if (work.selection.from_copies) {
      const auto& index = static_cast<const SketchIndex&>(*work.segment.index());
      GroupAttention(sample, Int8RowsOf(work.source.copies, work.segment.shape()),
                     index.mean().data(), workspace, outputs + at, lse + part.first_query, terms);
    } else {
      GroupAttention(sample, work.source.keys, work.source.values, workspace, outputs + at,
                     lse + part.first_query, terms);
    }
  }
}

}  // namespace sounder::kv_node
