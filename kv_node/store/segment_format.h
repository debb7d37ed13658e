// The bytes of a stored segment: rows (K and V side by side), the sampler's index and a checksum
// of every page. FORMAT.md describes them byte for byte. A segment is written
// once and never changed; all its offsets are relative to its first byte, so any number of segments
// may share a file.
//
// Bytes from a disk are untrusted: whatever they are, they are refused with a reason or read within
// their bounds. Pure functions.
#ifndef SOUNDER_KV_NODE_STORE_SEGMENT_FORMAT_H_
#define SOUNDER_KV_NODE_STORE_SEGMENT_FORMAT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "common/memory/rows_view.h"
#include "kv_node/store/page_buffer.h"

namespace sounder::kv_node {

inline constexpr uint32_t kSegmentFormatVersion = 1;
inline constexpr uint64_t kMaxStoredIndexBytes = uint64_t{512} << 20;

// Whose rows these are, in the writer's own terms, unique among all segments of a store. Checksums
// depend on it, so pages of one segment never pass for another's.
using SegmentTag = std::array<std::byte, 16>;

// What a reader must know of a segment before it reads: it goes into the store's records.
struct StoredShape {
  SegmentTag tag{};
  base::Position first_position = 0;  // in [0, base::kMaxPositions]
  int64_t num_rows = 0;               // in [1, base::kMaxSegmentRows]
  int dim = 0;                        // a multiple of 8, at most base::kMaxHeadDim
  base::DType dtype = base::DType::kF32;
  uint64_t index_bytes = 0;  // at most kMaxStoredIndexBytes

  bool operator==(const StoredShape&) const = default;
  // Of K and V together.
  size_t row_bytes() const { return 2 * static_cast<size_t>(dim) * base::SizeOf(dtype); }
};

// INVALID_ARGUMENT names the field that is out of its range.
absl::Status CheckShape(const StoredShape& shape);

// In pages from the segment's first. Rows begin at page 1.
struct SegmentLayout {
  explicit SegmentLayout(const StoredShape& shape);

  static constexpr uint64_t kRows = 1;
  uint64_t index;
  uint64_t checksums;  // also the number of pages that have one
  uint64_t footer;

  uint64_t row_pages() const { return index - kRows; }
  uint64_t bytes() const { return (footer + 1) * kPageBytes; }
  // Index, checksums and footer, which are read together.
  uint64_t tail_begin() const { return index * kPageBytes; }
  uint64_t tail_bytes() const { return bytes() - tail_begin(); }
};

// What is written; borrowed for the call.
struct SegmentContent {
  SegmentTag tag{};
  base::Position first_position = 0;
  memory::RowsView keys;
  memory::RowsView values;
  std::span<const std::byte> index{};  // opaque
};

StoredShape ShapeOf(const SegmentContent& content);

// The segment, ready to be appended. The same content gives the same bytes. Content that CheckShape
// refuses and views of different shape are bugs.
PageBuffer EncodeSegment(const SegmentContent& content);

// The checksums of the row pages, which the bytes that EncodeSegment gave hold.
std::vector<uint64_t> RowChecksumsOf(const StoredShape& shape, std::span<const std::byte> segment);

// The checksum of the segment's page of this number.
uint64_t PageChecksum(const SegmentTag& tag, uint64_t page, std::span<const std::byte> bytes);

// The first page. DATA_LOSS if it is not a segment's; FAILED_PRECONDITION if it is one of another
// format version.
absl::StatusOr<StoredShape> ParseSegmentHeader(std::span<const std::byte> page);

// What a segment with rows on disk keeps in memory.
struct SegmentTail {
  std::vector<uint64_t> row_checksums;  // of the row pages
  std::vector<std::byte> index;
};

// Checks the header page against `shape`, and everything behind the rows (layout.tail_bytes() bytes
// from layout.tail_begin()). Statuses as above.
absl::StatusOr<SegmentTail> ParseSegmentTail(const StoredShape& shape,
                                             std::span<const std::byte> header,
                                             std::span<const std::byte> tail);

// DATA_LOSS naming the page, if it is not the row page of this number (0: the first of rows).
absl::Status CheckRowPage(const StoredShape& shape, const SegmentTail& tail, uint64_t row_page,
                          std::span<const std::byte> bytes);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_SEGMENT_FORMAT_H_
