// A segment: a sealed, immutable run of at most 65,536 rows of one (session, layer, kv head), with
// the sampler's index over them. Rows are 16-bit ids from 0. What is always in memory is here; the
// rows may be dropped and brought back (segment_rows.h).
//
// Thread safety: shape and index are immutable once the index is set and the segment is shared;
// then read from any thread. Rows may be taken and changed from any thread at any time.
#ifndef SOUNDER_KV_NODE_SEGMENT_SEGMENT_H_
#define SOUNDER_KV_NODE_SEGMENT_SEGMENT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "absl/status/statusor.h"
#include "kv_node/segment/segment_rows.h"

namespace sounder::kv_node {

// What a sampler keeps to find a segment's rows. Each sampler has its own; it is built once from
// the rows and never changed.
class SegmentIndex {
 public:
  virtual ~SegmentIndex() = default;
  // Memory held.
  virtual size_t bytes() const = 0;
};

// What a sampler makes of a segment's rows.
struct BuiltIndex {
  std::unique_ptr<SegmentIndex> index;  // null: the segment is attended exactly
  memory::AlignedBuffer copies;         // of the rows, to read sampled ones from

  size_t bytes() const { return (index == nullptr ? 0 : index->bytes()) + copies.allocated(); }
};

class Segment {
 public:
  // Of rows in memory, as SegmentRows::Create takes them.
  static absl::StatusOr<std::unique_ptr<Segment>> Create(base::Position first_position,
                                                         int64_t num_rows, int dim,
                                                         base::DType dtype,
                                                         memory::AlignedBuffer keys,
                                                         memory::AlignedBuffer values);
  // Of rows that are elsewhere. InvalidArgument for an impossible shape.
  static absl::StatusOr<std::unique_ptr<Segment>> CreateWithoutRows(const SegmentShape& shape);
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  const SegmentShape& shape() const { return shape_; }
  base::Position first_position() const { return shape_.first_position; }
  int64_t num_rows() const { return shape_.num_rows; }
  int dim() const { return shape_.dim; }
  base::DType dtype() const { return shape_.dtype; }

  // The rows as they are in memory now, or null. They stay as they are for whoever holds them.
  std::shared_ptr<const SegmentRows> rows() const;
  // Drops the rows (null; the copies that the index reads from stay) or brings them back.
  void SetRows(std::shared_ptr<const SegmentRows> rows);
  // For those who know that nobody drops the rows meanwhile; CHECKs that they are in memory.
  memory::RowsView keys() const;
  memory::RowsView values() const;

  // The sampler's index, or null: then the segment is attended exactly.
  const SegmentIndex* index() const { return index_.get(); }
  // Once, before the index is looked at.
  void SetIndex(BuiltIndex built);
  // Of the rows, that the index reads sampled ones from; empty where it reads the rows.
  std::span<const std::byte> copies() const {
    return copies_ == nullptr ? std::span<const std::byte>() : copies_->bytes();
  }

  // Bytes allocated for rows and copies of them in memory, for the index, and for all.
  size_t row_bytes() const;
  size_t index_bytes() const { return index_ == nullptr ? 0 : index_->bytes(); }
  size_t bytes() const { return sizeof(Segment) + row_bytes() + index_bytes(); }

 private:
  explicit Segment(const SegmentShape& shape) : shape_(shape) {}

  const SegmentShape shape_;
  std::unique_ptr<SegmentIndex> index_;
  RowCopies copies_;
  mutable std::mutex mutex_;
  std::shared_ptr<const SegmentRows> rows_;  // guarded by mutex_
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SEGMENT_SEGMENT_H_
