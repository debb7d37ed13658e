#include "common/lsh/lsh_params.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"

namespace sounder::lsh {

std::string_view NameOf(ProjectionKind kind) {
  return kind == ProjectionKind::kGaussian ? "gaussian" : "hadamard";
}

std::optional<ProjectionKind> ParseProjectionKind(std::string_view name) {
  if (name == "gaussian") return ProjectionKind::kGaussian;
  if (name == "hadamard") return ProjectionKind::kHadamard;
  return std::nullopt;
}

namespace {

absl::Status CheckRange(const char* name, int value, int low, int high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, ", expected ", low, " to ", high));
}

}  // namespace

absl::Status LshParams::Validate(int dim) const {
  if (dim < 8 || dim > base::kMaxHeadDim || dim % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("dim is ", dim, ", expected a multiple of 8, 8 to ", base::kMaxHeadDim));
  }
  absl::Status status = CheckRange("bits_per_table", bits_per_table, 1, base::kMaxBitsPerTable);
  if (status.ok()) status = CheckRange("num_tables", num_tables, 1, base::kMaxTables);
  if (status.ok()) {
    status = CheckRange("min_collisions", min_collisions, 1, std::min(num_tables, 255));
  }
  if (status.ok()) status = CheckRange("probe_distance", probe_distance, 0, 1);
  if (status.ok() && projection != ProjectionKind::kGaussian &&
      projection != ProjectionKind::kHadamard) {
    status = absl::InvalidArgumentError(
        absl::StrCat("projection is ", static_cast<int>(projection), ", expected 0 or 1"));
  }
  return status;
}

}  // namespace sounder::lsh
