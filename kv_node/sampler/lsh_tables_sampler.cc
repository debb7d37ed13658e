#include "kv_node/sampler/lsh_tables_sampler.h"

#include <bit>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "kv_node/kernels/sampled_attention.h"
#include "kv_node/sampler/draw_start.h"

namespace sounder::kv_node {
namespace {

constexpr int64_t kSeenWords = base::kMaxSegmentRows / 64;

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

LshTablesSampler::LshTablesSampler(lsh::Projection projection, int64_t min_indexed_rows,
                                   bool value_roulette)
    : projection_(std::move(projection)),
      inclusion_(projection_),
      min_indexed_rows_(min_indexed_rows),
      value_roulette_(value_roulette) {}

absl::StatusOr<BuiltIndex> LshTablesSampler::BuildIndex(const SegmentRows& rows,
                                                        Scratch& scratch) const {
  if (rows.shape().dim != projection_.dim()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a segment of dim ", rows.shape().dim, ", expected ", projection_.dim()));
  }
  BuiltIndex built;
  if (rows.shape().num_rows < min_indexed_rows_) return built;
  built.index = std::make_unique<LshTablesIndex>(projection_, rows.keys(), scratch);
  return built;
}

size_t LshTablesSampler::IndexBytesBound(int64_t rows) const {
  return rows < min_indexed_rows_ ? 0 : LshTablesIndex::BytesFor(projection_, rows);
}

IndexIdentity LshTablesSampler::IdentityOf(int64_t rows) const {
  const lsh::LshParams& params = projection_.params();
  return {.kind = SamplerKind::kLshTables,
          .rows = rows,
          .dim = projection_.dim(),
          .seed = params.seed,
          .bits = params.bits_per_table,
          .tables = params.num_tables,
          .projection = static_cast<int>(params.projection)};
}

memory::AlignedBuffer LshTablesSampler::EncodeIndex(const SegmentIndex& index) const {
  const auto& tables = static_cast<const LshTablesIndex&>(index);
  return EncodeIndexBytes(IdentityOf(tables.tables().rows), 0, tables.Arrays());
}

absl::StatusOr<std::unique_ptr<SegmentIndex>> LshTablesSampler::DecodeIndex(
    const SegmentShape& shape, std::span<const std::byte> bytes) const {
  RETURN_IF_ERROR(shape.Validate());
  ASSIGN_OR_RETURN(IndexArrays stored,
                   DecodeIndexBytes(bytes, IdentityOf(shape.num_rows),
                                    LshTablesIndex::ArrayBytes(projection_, shape.num_rows)));
  return LshTablesIndex::Restore(projection_, shape.num_rows, std::move(stored));
}

int64_t LshTablesSampler::RowsSeen(Scratch& scratch) {
  int64_t rows = 0;
  for (int64_t i = 0; i < kSeenWords; ++i) rows += std::popcount(scratch.seen()[i]);
  return rows;
}

void LshTablesSampler::SelectQueries(const Segment& segment, const SegmentRows*,
                                     const GroupQuery& query, int first, int count,
                                     Scratch& scratch, Selection* selection) const {
  const lsh::LshParams& params = projection_.params();
  CHECK(query.signatures != nullptr) << "lsh_tables needs the queries' signatures";
  const BucketTables tables = static_cast<const LshTablesIndex&>(*segment.index()).tables();
  AttendStats& stats = selection->stats;
  const int64_t seen = first == 0 ? 0 : RowsSeen(scratch);
  for (int member = first; member < first + count; ++member) {
    stats.ids_walked += CountCollisions(tables, query.signatures + int64_t{member} * params.words(),
                                        params.probe_distance, scratch.counts());
    stats.tables_walked += tables.num_tables * BucketsProbed(params);
    const int64_t found =
        TakeCandidates(scratch.counts(), tables.rows, params.min_collisions, query.row_begin,
                       query.row_end, scratch.candidates(), scratch.seen());
    selection->AddPart(member, 1, scratch.candidates(), nullptr, found);
    stats.rows_read += found;
  }
  stats.rows_loaded += RowsSeen(scratch) - seen;
}

const float* LshTablesSampler::NormsOf(const SelectedWork& work, Scratch& scratch) {
  const auto& index = static_cast<const LshTablesIndex&>(*work.segment.index());
  if (work.source.ids == nullptr) return index.norms().data();
  std::vector<float>& norms = scratch.gathered();
  norms.clear();
  for (const uint16_t row : *work.source.ids) norms.push_back(index.norms()[row]);
  return norms.data();
}

void LshTablesSampler::Weigh(const SelectedWork& work, const SelectedPart& part, const float* norms,
                             Scratch& scratch) const {
  const auto& index = static_cast<const LshTablesIndex&>(*work.segment.index());
  SampledLogits({.query = work.query.queries + int64_t{part.first_query} * work.segment.dim(),
                 .keys = work.source.keys,
                 .rows = work.RowsOf(part),
                 .scale = work.query.scale,
                 .mean = index.mean().data(),
                 .norms = norms,
                 .log_u = inclusion_.values(),
                 .schedule = scratch.schedule()},
                scratch.logits(), scratch.log_u());
}

void LshTablesSampler::AttendParts(const SelectedWork& work, Scratch& scratch, float* outputs,
                                   float* lse, ErrorTerms* errors) const {
  const float* norms = NormsOf(work, scratch);
  const memory::RowsView& values = work.source.values;
  for (const SelectedPart& part : work.selection.parts) {
    const int member = part.first_query;
    const std::span<const uint16_t> rows = work.RowsOf(part);
    Weigh(work, part, norms, scratch);
    float* output = outputs + int64_t{member} * work.segment.dim();
    const float* kept = scratch.logits();
    if (value_roulette_) {
      const uint32_t start = DrawStart(work.query, work.segment.first_position(), DrawKind::kValues,
                                       static_cast<uint32_t>(member) % 65536);
      kept = scratch.workspace(rows.size());
      WeightedValuesByRoulette(values, rows, start, scratch.logits(), scratch.log_u(),
                               scratch.workspace(rows.size()), output, &lse[member],
                               scratch.schedule());
    } else {
      WeightedValues(values, rows, scratch.logits(), scratch.log_u(), output, &lse[member],
                     scratch.schedule());
    }
    if (errors != nullptr) {
      errors[member] = ErrorTermsOf(values, rows, scratch.logits(), kept, scratch.log_u(), output);
    }
  }
}

void LshTablesSampler::InclusionProbabilities(const SelectedWork& work, const SelectedPart& part,
                                              Scratch& scratch, std::vector<double>* u) const {
  Weigh(work, part, NormsOf(work, scratch), scratch);
  for (size_t i = 0; i < part.count; ++i) u->push_back(std::exp(double{scratch.log_u()[i]}));
}

}  // namespace sounder::kv_node
