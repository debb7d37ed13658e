#include "kv_node/segment/segment.h"

#include <utility>

#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {

absl::StatusOr<std::unique_ptr<Segment>> Segment::Create(base::Position first_position,
                                                         int64_t num_rows, int dim,
                                                         base::DType dtype,
                                                         memory::AlignedBuffer keys,
                                                         memory::AlignedBuffer values) {
  const SegmentShape shape = {first_position, num_rows, dim, dtype};
  ASSIGN_OR_RETURN(std::shared_ptr<const SegmentRows> rows,
                   SegmentRows::Create(shape, std::move(keys), std::move(values)));
  auto segment = std::unique_ptr<Segment>(new Segment(shape));
  segment->SetRows(std::move(rows));
  return segment;
}

absl::StatusOr<std::unique_ptr<Segment>> Segment::CreateWithoutRows(const SegmentShape& shape) {
  RETURN_IF_ERROR(shape.Validate());
  return std::unique_ptr<Segment>(new Segment(shape));
}

std::shared_ptr<const SegmentRows> Segment::rows() const {
  std::lock_guard lock(mutex_);
  return rows_;
}

void Segment::SetRows(std::shared_ptr<const SegmentRows> rows) {
  CHECK(rows == nullptr || rows->shape() == shape_) << "rows of another segment";
  if (rows != nullptr && rows->copies().empty() && copies_ != nullptr) {
    rows = rows->WithCopies(copies_);
  }
  std::lock_guard lock(mutex_);
  rows_.swap(rows);  // what was there goes without the lock
}

memory::RowsView Segment::keys() const {
  const std::shared_ptr<const SegmentRows> held = rows();
  CHECK(held != nullptr) << "the rows are not in memory";
  return held->keys();
}

memory::RowsView Segment::values() const {
  const std::shared_ptr<const SegmentRows> held = rows();
  CHECK(held != nullptr) << "the rows are not in memory";
  return held->values();
}

void Segment::SetIndex(BuiltIndex built) {
  CHECK(index_ == nullptr) << "the index is set once";
  CHECK(built.index != nullptr || built.copies.empty()) << "copies without an index";
  index_ = std::move(built.index);
  if (built.copies.empty()) return;
  copies_ = std::make_shared<const memory::AlignedBuffer>(std::move(built.copies));
  std::lock_guard lock(mutex_);
  if (rows_ != nullptr) rows_ = rows_->WithCopies(copies_);
}

size_t Segment::row_bytes() const {
  const std::shared_ptr<const SegmentRows> held = rows();
  return (held == nullptr ? 0 : held->bytes()) + (copies_ == nullptr ? 0 : copies_->allocated());
}

}  // namespace sounder::kv_node
