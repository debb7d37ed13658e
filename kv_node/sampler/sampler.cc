#include "kv_node/sampler/sampler.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kv_node/sampler/exact_sampler.h"
#include "kv_node/sampler/lsh_tables_sampler.h"

namespace sounder::kv_node {

void AttendStats::Add(const AttendStats& other) {
  rows_read += other.rows_read;
  rows_loaded += other.rows_loaded;
  ids_walked += other.ids_walked;
  tables_walked += other.tables_walked;
  exact = exact && other.exact;
}

std::string_view NameOf(SamplerKind kind) {
  return kind == SamplerKind::kExact ? "exact" : "lsh_tables";
}

std::optional<SamplerKind> ParseSamplerKind(std::string_view name) {
  if (name == "exact") return SamplerKind::kExact;
  if (name == "lsh" || name == "lsh_tables") return SamplerKind::kLshTables;
  return std::nullopt;
}

absl::StatusOr<std::unique_ptr<Sampler>> MakeSampler(const SamplerSpec& spec) {
  if (spec.min_indexed_rows < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("min_indexed_rows is ", spec.min_indexed_rows, ", expected 1 or more"));
  }
  if (spec.kind == SamplerKind::kExact) return std::make_unique<ExactSampler>();
  ASSIGN_OR_RETURN(lsh::Projection projection, lsh::Projection::Create(spec.lsh, spec.dim));
  return std::make_unique<LshTablesSampler>(std::move(projection), spec.min_indexed_rows);
}

}  // namespace sounder::kv_node
