#include "kv_node/segment/segment_rows.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {

absl::Status SegmentShape::Validate() const {
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
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const SegmentRows>> SegmentRows::Create(
    const SegmentShape& shape, memory::AlignedBuffer keys, memory::AlignedBuffer values) {
  RETURN_IF_ERROR(shape.Validate());
  const size_t expected = static_cast<size_t>(shape.num_rows) * shape.row_bytes();
  if (keys.size() != expected || values.size() != expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rows of ", keys.size(), " (K) and ", values.size(), " (V) bytes, expected ", expected));
  }
  return std::shared_ptr<const SegmentRows>(
      new SegmentRows(shape, std::make_shared<const memory::AlignedBuffer>(std::move(keys)),
                      std::make_shared<const memory::AlignedBuffer>(std::move(values)), nullptr));
}

std::shared_ptr<const SegmentRows> SegmentRows::WithCopies(RowCopies copies) const {
  CHECK(copies == nullptr || copies->size() % static_cast<size_t>(shape_.num_rows) == 0)
      << copies->size() << " bytes of copies of " << shape_.num_rows << " rows";
  return std::shared_ptr<const SegmentRows>(
      new SegmentRows(shape_, keys_, values_, std::move(copies)));
}

SegmentRows::SegmentRows(const SegmentShape& shape, Buffer keys, Buffer values, RowCopies copies)
    : shape_(shape),
      keys_(std::move(keys)),
      values_(std::move(values)),
      copies_(std::move(copies)) {}

memory::RowsView SegmentRows::ViewOf(const memory::AlignedBuffer& buffer) const {
  return {.data = buffer.data(),
          .rows = shape_.num_rows,
          .row_stride = static_cast<int64_t>(shape_.row_bytes()),
          .dim = shape_.dim,
          .dtype = shape_.dtype};
}

}  // namespace sounder::kv_node
