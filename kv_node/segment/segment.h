// A segment: a sealed, immutable run of at most 65,536 rows of one (session, layer, kv head), with
// the sampler's index over them. Rows are 16-bit ids from 0; K and V rows are stored separately, as
// they were appended (not centred), each packed and 64-byte aligned.
//
// Thread safety: immutable once its index is set and it is shared; then read from any thread.
#ifndef SOUNDER_KV_NODE_SEGMENT_SEGMENT_H_
#define SOUNDER_KV_NODE_SEGMENT_SEGMENT_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "common/memory/aligned_buffer.h"
#include "common/memory/rows_view.h"

namespace sounder::kv_node {

// What a sampler keeps about a segment's rows. Each sampler has its own; it is built once from the
// rows and never changed.
class SegmentIndex {
 public:
  virtual ~SegmentIndex() = default;
  // Memory held for finding rows.
  virtual size_t bytes() const = 0;
  // Memory held for copies of the rows.
  virtual size_t row_bytes() const { return 0; }
};

class Segment {
 public:
  // Takes rows as packed arrays of [num_rows, dim] elements. InvalidArgument where sizes do not fit
  // each other, dim is no multiple of 8 or above 512, or num_rows is not in [1, 65536].
  static absl::StatusOr<std::unique_ptr<Segment>> Create(base::Position first_position,
                                                         int64_t num_rows, int dim,
                                                         base::DType dtype,
                                                         memory::AlignedBuffer keys,
                                                         memory::AlignedBuffer values);
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  base::Position first_position() const { return first_position_; }
  int64_t num_rows() const { return num_rows_; }
  int dim() const { return dim_; }
  base::DType dtype() const { return dtype_; }
  memory::RowsView keys() const { return ViewOf(keys_); }
  memory::RowsView values() const { return ViewOf(values_); }

  // The sampler's index, or null: then the segment is attended exactly.
  const SegmentIndex* index() const { return index_.get(); }
  // Once, before the segment is shared.
  void SetIndex(std::unique_ptr<SegmentIndex> index);

  // Bytes allocated for rows and the index's copies of them, for the index otherwise, and for all.
  size_t row_bytes() const {
    return keys_.allocated() + values_.allocated() + (index_ == nullptr ? 0 : index_->row_bytes());
  }
  size_t index_bytes() const { return index_ == nullptr ? 0 : index_->bytes(); }
  size_t bytes() const { return sizeof(Segment) + row_bytes() + index_bytes(); }

 private:
  Segment(base::Position first_position, int64_t num_rows, int dim, base::DType dtype,
          memory::AlignedBuffer keys, memory::AlignedBuffer values);
  memory::RowsView ViewOf(const memory::AlignedBuffer& buffer) const;

  const base::Position first_position_;
  const int64_t num_rows_;
  const int dim_;
  const base::DType dtype_;
  const memory::AlignedBuffer keys_;
  const memory::AlignedBuffer values_;
  std::unique_ptr<SegmentIndex> index_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SEGMENT_SEGMENT_H_
