// Reads stored segments (segment_format.h): first all but the rows, then any rows of many segments
// in one batch. Every page is checked against its checksum, every time.
#ifndef SOUNDER_KV_NODE_STORE_SEGMENT_READER_H_
#define SOUNDER_KV_NODE_STORE_SEGMENT_READER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kv_node/store/disk.h"
#include "kv_node/store/segment_format.h"

namespace sounder::kv_node {

// A segment whose rows are on disk, in a file that stays open: index and checksums (8 bytes per
// 4 KiB of rows) are in memory. Owned by whoever attends it, and by reads in
// flight. Immutable, thread safe.
class SegmentReader {
 public:
  using Opened = std::function<void(absl::StatusOr<std::shared_ptr<SegmentReader>>)>;

  // Reads what is not rows of the segment of this shape at `offset` of `file`. `opened` is called
  // once, like ReadsDone. DATA_LOSS and FAILED_PRECONDITION (segment_format.h) and the disk's
  // statuses; messages name file and offset.
  static void Open(Disk& disk, std::shared_ptr<DiskFile> file, uint64_t offset,
                   const StoredShape& shape, Opened opened);

  // A segment that was just written: nothing is read, and its index is not kept.
  static std::shared_ptr<SegmentReader> OfWritten(std::shared_ptr<DiskFile> file, uint64_t offset,
                                                  const StoredShape& shape,
                                                  std::vector<uint64_t> row_checksums);

  const std::shared_ptr<DiskFile>& file() const { return file_; }
  uint64_t offset() const { return offset_; }
  const StoredShape& shape() const { return shape_; }
  const SegmentLayout& layout() const { return layout_; }
  // Of one that was opened.
  std::span<const std::byte> index() const { return tail_.index; }
  // The index of one that was opened, which the reader has no more need of; before others get hold
  // of the reader.
  std::vector<std::byte> TakeIndex() { return std::exchange(tail_.index, {}); }
  const SegmentTail& tail() const { return tail_; }
  // Memory held.
  size_t bytes() const;
  // "FILE: segment at 4096", for messages.
  std::string Describe() const;

  // Use Open and OfWritten.
  SegmentReader(std::shared_ptr<DiskFile> file, uint64_t offset, const StoredShape& shape,
                SegmentTail tail);

 private:
  const std::shared_ptr<DiskFile> file_;
  const uint64_t offset_;
  const StoredShape shape_;
  const SegmentLayout layout_;
  SegmentTail tail_;
};

// Rows of one segment. rows: in any order, repeated or not, each below num_rows. Row i's key goes
// to keys + place x row_bytes/2, its value likewise: dim elements each. Its place is places[i], and
// i where there are no places. All memory is the caller's and belongs to the read until its
// callback.
struct RowRead {
  std::shared_ptr<const SegmentReader> segment;
  std::span<const uint16_t> rows;
  std::span<std::byte> keys;
  std::span<std::byte> values;
  std::span<const uint32_t> places{};
};

// Bytes of pages that a read of `rows` distinct rows has in memory until its callback, at most.
uint64_t MostPageBytes(const SegmentReader& segment, uint64_t rows);

struct RowReadCounts {
  uint64_t pages = 0;  // distinct ones
  uint64_t reads = 0;  // neighbouring pages are one read of the disk
};

// One status per RowRead: OK and all its rows are there, or DATA_LOSS (a page is not what was
// written) or the disk's, naming the segment, and its memory holds nothing of use. As ReadsDone.
using RowsDone =
    std::function<void(std::span<const absl::Status> statuses, const RowReadCounts& counts)>;

// All pages of all segments in one batch.
void ReadRows(Disk& disk, std::vector<RowRead> reads, RowsDone done);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_SEGMENT_READER_H_
