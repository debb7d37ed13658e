#include "kv_node/sampler/lsh_tables_sampler.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/kernels/row_statistics.h"
#include "common/kernels/signature.h"
#include "kv_node/kernels/sampled_attention.h"
#include "kv_node/sampler/draw_start.h"
#include "kv_node/sampler/exact_sampler.h"

namespace sounder::kv_node {
namespace {

constexpr int64_t kSeenWords = base::kMaxSegmentRows / 64;

// Tables are written at this distance, in codes, so that the same row of different tables does not
// fall on the same cache set.
int64_t CodeStride(int64_t rows) { return (rows + 31) / 32 * 32 + 32; }

// The variance terms of a query whose weights (relative to the largest) and log u are given. kept:
// the weights of those rows whose values were read, others 0.
ErrorTerms ErrorTermsOf(const memory::RowsView& values, std::span<const uint16_t> rows,
                        const float* weights, const float* kept, const float* log_u,
                        const float* output) {
  double sum = 0;
  double a = 0;
  double b = 0;
  double concentration = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    sum += weights[i];
    if (weights[i] == 0) continue;
    const double square = double{weights[i]} * weights[i];
    const double term = -std::expm1(double{log_u[i]}) * square;
    concentration += square - term;
    b += term;
    if (kept[i] == 0) continue;
    double distance = 0;
    for (int c = 0; c < values.dim; ++c) {
      const double difference = double{values.At(rows[i], c)} - output[c];
      distance += difference * difference;
    }
    // Of a row kept by lot: its chance was that of being sampled times weight / kept.
    const double chance = std::exp(double{log_u[i]}) * weights[i] / kept[i];
    a += (kept[i] == weights[i] ? term : (1 - chance) * kept[i] * kept[i]) * distance;
  }
  if (sum == 0) return {};
  const double scale = 1 / (sum * sum);
  return {.a = static_cast<float>(a * scale),
          .b = static_cast<float>(b * scale),
          .concentration = static_cast<float>(concentration * scale)};
}

}  // namespace

int64_t BucketsProbed(const lsh::LshParams& params) {
  return params.probe_distance == 0 ? 1 : 1 + params.bits_per_table;
}

LshTablesIndex::LshTablesIndex(const lsh::Projection& projection, const memory::RowsView& keys,
                               Scratch& scratch)
    : rows_(keys.rows),
      bits_per_table_(projection.params().bits_per_table),
      num_tables_(projection.params().num_tables),
      mean_(keys.dim * sizeof(float)),
      norms_(keys.rows * sizeof(float)),
      starts_(num_tables_ * ((size_t{1} << bits_per_table_) + 1) * sizeof(uint16_t)),
      ids_(num_tables_ * keys.rows * sizeof(uint16_t)),
      full_bucket_(num_tables_ * sizeof(int32_t)) {
  float* mean = mean_.As<float>().data();
  kernels::MeanOfRows(keys, mean);
  kernels::CentredNorms(keys, mean, norms_.As<float>().data());
  const int64_t stride = CodeStride(rows_);
  uint16_t* codes = scratch.codes(num_tables_ * stride);
  kernels::SignRows(projection, keys, mean, codes, stride);
  BuildBucketTables(codes, stride, rows_, bits_per_table_, num_tables_,
                    starts_.As<uint16_t>().data(), ids_.As<uint16_t>().data(),
                    full_bucket_.As<int32_t>().data());
}

size_t LshTablesIndex::bytes() const {
  return sizeof(LshTablesIndex) + mean_.allocated() + norms_.allocated() + starts_.allocated() +
         ids_.allocated() + full_bucket_.allocated();
}

size_t LshTablesIndex::BytesFor(const lsh::Projection& projection, int64_t rows) {
  const size_t count = static_cast<size_t>(rows);
  const size_t tables = static_cast<size_t>(projection.params().num_tables);
  const size_t buckets = size_t{1} << projection.params().bits_per_table;
  constexpr auto kAllocated = memory::AlignedBuffer::Allocated;
  return sizeof(LshTablesIndex) + kAllocated(projection.dim() * sizeof(float)) +
         kAllocated(count * sizeof(float)) + kAllocated(tables * (buckets + 1) * sizeof(uint16_t)) +
         kAllocated(tables * count * sizeof(uint16_t)) + kAllocated(tables * sizeof(int32_t));
}

BucketTables LshTablesIndex::tables() const {
  return {.rows = rows_,
          .bits_per_table = bits_per_table_,
          .num_tables = num_tables_,
          .starts = starts_.As<uint16_t>().data(),
          .ids = ids_.As<uint16_t>().data(),
          .full_bucket = full_bucket_.As<int32_t>().data()};
}

LshTablesSampler::LshTablesSampler(lsh::Projection projection, int64_t min_indexed_rows,
                                   bool value_roulette)
    : projection_(std::move(projection)),
      inclusion_(projection_),
      min_indexed_rows_(min_indexed_rows),
      value_roulette_(value_roulette) {}

absl::StatusOr<std::unique_ptr<SegmentIndex>> LshTablesSampler::BuildIndex(const Segment& segment,
                                                                           Scratch& scratch) const {
  if (segment.dim() != projection_.dim()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a segment of dim ", segment.dim(), ", expected ", projection_.dim()));
  }
  if (segment.num_rows() < min_indexed_rows_) return std::unique_ptr<SegmentIndex>();
  return std::make_unique<LshTablesIndex>(projection_, segment.keys(), scratch);
}

int64_t LshTablesSampler::Sample(const Segment& segment, const LshTablesIndex& index,
                                 const GroupQuery& query, int member, Scratch& scratch,
                                 AttendStats& stats) const {
  const lsh::LshParams& params = projection_.params();
  CHECK(query.signatures != nullptr) << "lsh_tables needs the queries' signatures";
  const BucketTables tables = index.tables();
  stats.ids_walked += CountCollisions(tables, query.signatures + int64_t{member} * params.words(),
                                      params.probe_distance, scratch.counts());
  stats.tables_walked += tables.num_tables * BucketsProbed(params);
  const int64_t count =
      TakeCandidates(scratch.counts(), tables.rows, params.min_collisions, query.row_begin,
                     query.row_end, scratch.candidates(), scratch.seen());
  stats.rows_read += count;
  SampledLogits({.query = query.queries + int64_t{member} * segment.dim(),
                 .keys = segment.keys(),
                 .rows = {scratch.candidates(), static_cast<size_t>(count)},
                 .scale = query.scale,
                 .mean = index.mean().data(),
                 .norms = index.norms().data(),
                 .log_u = inclusion_.values(),
                 .schedule = scratch.schedule()},
                scratch.logits(), scratch.log_u());
  return count;
}

size_t LshTablesSampler::IndexBytesBound(int64_t rows) const {
  return rows < min_indexed_rows_ ? 0 : LshTablesIndex::BytesFor(projection_, rows);
}

void LshTablesSampler::Attend(const Segment& segment, const GroupQuery& query, Scratch& scratch,
                              float* outputs, float* lse, ErrorTerms* errors,
                              AttendStats* stats) const {
  if (segment.index() == nullptr) {
    AttendExactly(segment, query, scratch, outputs, lse, errors, stats);
    return;
  }
  const auto& index = static_cast<const LshTablesIndex&>(*segment.index());
  AttendStats counted;
  std::memset(scratch.seen(), 0, kSeenWords * sizeof(uint64_t));
  for (int member = 0; member < query.group; ++member) {
    const int64_t count = Sample(segment, index, query, member, scratch, counted);
    const std::span<const uint16_t> rows(scratch.candidates(), static_cast<size_t>(count));
    float* output = outputs + int64_t{member} * segment.dim();
    const float* kept = scratch.logits();
    if (value_roulette_) {
      const uint32_t start = DrawStart(query, segment.first_position(), DrawKind::kValues,
                                       static_cast<uint32_t>(member) % 65536);
      kept = scratch.workspace(rows.size());
      WeightedValuesByRoulette(segment.values(), rows, start, scratch.logits(), scratch.log_u(),
                               scratch.workspace(rows.size()), output, &lse[member],
                               scratch.schedule());
    } else {
      WeightedValues(segment.values(), rows, scratch.logits(), scratch.log_u(), output,
                     &lse[member], scratch.schedule());
    }
    if (errors != nullptr) {
      errors[member] =
          ErrorTermsOf(segment.values(), rows, scratch.logits(), kept, scratch.log_u(), output);
    }
  }
  if (stats == nullptr) return;
  for (int64_t i = 0; i < kSeenWords; ++i) {
    counted.rows_loaded += std::popcount(scratch.seen()[i]);
  }
  *stats = counted;
}

std::vector<Candidate> LshTablesSampler::Candidates(const Segment& segment, const GroupQuery& query,
                                                    int member, Scratch& scratch) const {
  if (segment.index() == nullptr) return AllVisibleRows(query);
  const auto& index = static_cast<const LshTablesIndex&>(*segment.index());
  AttendStats stats;
  const int64_t count = Sample(segment, index, query, member, scratch, stats);
  std::vector<Candidate> candidates;
  for (int64_t i = 0; i < count; ++i) {
    candidates.push_back(
        {.row = scratch.candidates()[i], .u = std::exp(double{scratch.log_u()[i]})});
  }
  return candidates;
}

}  // namespace sounder::kv_node
