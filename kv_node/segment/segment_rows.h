// The rows of a segment while they are in memory: K and V as they were appended (not centred), each
// packed, and where the sampler reads sampled rows from copies of its own, those, one record of
// fixed size per row. A segment outlives its rows: position, size and index stay while they are
// dropped and brought back. Whoever reads rows holds a snapshot of them for as long.
#ifndef SOUNDER_KV_NODE_SEGMENT_SEGMENT_ROWS_H_
#define SOUNDER_KV_NODE_SEGMENT_SEGMENT_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "common/memory/aligned_buffer.h"
#include "common/memory/rows_view.h"

namespace sounder::kv_node {

// What is known of a segment without its rows.
struct SegmentShape {
  base::Position first_position = 0;
  int64_t num_rows = 0;
  int dim = 0;
  base::DType dtype = base::DType::kBF16;

  // InvalidArgument where dim is no multiple of 8 or above 512, num_rows is not in [1, 65536], or
  // the position is negative.
  absl::Status Validate() const;
  // Bytes of a row of K, and of V.
  size_t row_bytes() const { return static_cast<size_t>(dim) * base::SizeOf(dtype); }

  friend bool operator==(const SegmentShape&, const SegmentShape&) = default;
};

// Packed records, shared by the rows they were made of and by the segment.
using RowCopies = std::shared_ptr<const memory::AlignedBuffer>;

// Immutable, thread safe. Buffers are shared with what WithCopies returns.
class SegmentRows {
 public:
  // Takes packed arrays of [num_rows, dim] elements. InvalidArgument where sizes do not fit each
  // other or the shape is impossible.
  static absl::StatusOr<std::shared_ptr<const SegmentRows>> Create(const SegmentShape& shape,
                                                                   memory::AlignedBuffer keys,
                                                                   memory::AlignedBuffer values);
  // The same K and V with copies of the rows: num_rows records of the same size. Null: without.
  std::shared_ptr<const SegmentRows> WithCopies(RowCopies copies) const;

  const SegmentShape& shape() const { return shape_; }
  memory::RowsView keys() const { return ViewOf(*keys_); }
  memory::RowsView values() const { return ViewOf(*values_); }
  // [num_rows, record bytes], or empty.
  std::span<const std::byte> copies() const {
    return copies_ == nullptr ? std::span<const std::byte>() : copies_->bytes();
  }
  // Bytes allocated for K and V.
  size_t bytes() const { return keys_->allocated() + values_->allocated(); }

 private:
  using Buffer = std::shared_ptr<const memory::AlignedBuffer>;
  SegmentRows(const SegmentShape& shape, Buffer keys, Buffer values, RowCopies copies);
  memory::RowsView ViewOf(const memory::AlignedBuffer& buffer) const;

  const SegmentShape shape_;
  const Buffer keys_;
  const Buffer values_;
  const RowCopies copies_;  // or null
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SEGMENT_SEGMENT_ROWS_H_
