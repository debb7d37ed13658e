#include "kv_node/sampler/sampler.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "kv_node/sampler/exact_sampler.h"
#include "kv_node/sampler/lsh_split_sampler.h"
#include "kv_node/sampler/lsh_tables_sampler.h"
#include "kv_node/sampler/sketch_sampler.h"

namespace sounder::kv_node {

void AttendStats::Add(const AttendStats& other) {
  rows_read += other.rows_read;
  rows_loaded += other.rows_loaded;
  ids_walked += other.ids_walked;
  tables_walked += other.tables_walked;
  exact = exact && other.exact;
  mass += other.mass;
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
