#include "kv_node/segment/segment.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"

namespace sounder::kv_node {

absl::StatusOr<std::unique_ptr<Segment>> Segment::Create(base::Position first_position,
                                                         int64_t num_rows, int dim,
                                                         base::DType dtype,
                                                         memory::AlignedBuffer keys,
                                                         memory::AlignedBuffer values) {
  if (first_position < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("first position is ", first_position, ", expected 0 or more"));
  }
  if (num_rows < 1 || num_rows > base::kMaxSegmentRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("a segment of ", num_rows, " rows, expected 1 to ", base::kMaxSegmentRows));
  }
  if (dim < 8 || dim > base::kMaxHeadDim || dim % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("dim is ", dim, ", expected a multiple of 8, 8 to ", base::kMaxHeadDim));
  }
  const size_t expected = static_cast<size_t>(num_rows) * dim * base::SizeOf(dtype);
  if (keys.size() != expected || values.size() != expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rows of ", keys.size(), " (K) and ", values.size(), " (V) bytes, expected ", expected));
  }
  return std::unique_ptr<Segment>(
      new Segment(first_position, num_rows, dim, dtype, std::move(keys), std::move(values)));
}

Segment::Segment(base::Position first_position, int64_t num_rows, int dim, base::DType dtype,
                 memory::AlignedBuffer keys, memory::AlignedBuffer values)
    : first_position_(first_position),
      num_rows_(num_rows),
      dim_(dim),
      dtype_(dtype),
      keys_(std::move(keys)),
      values_(std::move(values)) {}

void Segment::SetIndex(std::unique_ptr<SegmentIndex> index) {
  CHECK(index_ == nullptr) << "the index is set once";
  index_ = std::move(index);
}

memory::RowsView Segment::ViewOf(const memory::AlignedBuffer& buffer) const {
  return {.data = buffer.data(),
          .rows = num_rows_,
          .row_stride = static_cast<int64_t>(dim_ * base::SizeOf(dtype_)),
          .dim = dim_,
          .dtype = dtype_};
}

}  // namespace sounder::kv_node
