#include "kv_node/store/segment_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {
namespace {

// A longer run of pages is several reads, so that they are in flight together.
constexpr uint64_t kMaxReadPages = 256;

// The pages of one RowRead, and where they are in the batch's buffer.
struct PlannedRows {
  std::vector<uint32_t> pages;  // distinct row pages, ascending
  size_t buffer_page = 0;       // of the first; the others follow it
  size_t first_read = 0;        // its reads of the disk
  size_t num_reads = 0;
};

// First and last row page of a row.
std::pair<uint32_t, uint32_t> PagesOf(const SegmentReader& segment, uint16_t row) {
  const size_t bytes = segment.shape().row_bytes();
  const size_t begin = row * bytes;
  return {static_cast<uint32_t>(begin / kPageBytes),
          static_cast<uint32_t>((begin + bytes - 1) / kPageBytes)};
}

std::vector<uint32_t> DistinctPages(const RowRead& read) {
  std::vector<uint32_t> pages;
  for (const uint16_t row : read.rows) {
    CHECK(row < read.segment->shape().num_rows) << row;
    const auto [first, last] = PagesOf(*read.segment, row);
    for (uint32_t page = first; page <= last; ++page) pages.push_back(page);
  }
  std::sort(pages.begin(), pages.end());
  pages.erase(std::unique(pages.begin(), pages.end()), pages.end());
  return pages;
}

// What is between the call and the callback.
struct RowBatch {
  std::vector<RowRead> reads;
  std::vector<PlannedRows> planned;
  PageBuffer buffer;
  RowReadCounts counts;
  RowsDone done;
};

std::vector<DiskRead> DiskReadsOf(RowBatch& batch) {
  std::vector<DiskRead> disk_reads;
  for (size_t i = 0; i < batch.reads.size(); ++i) {
    const SegmentReader& segment = *batch.reads[i].segment;
    PlannedRows& planned = batch.planned[i];
    planned.first_read = disk_reads.size();
    const std::vector<uint32_t>& pages = planned.pages;
    for (size_t begin = 0; begin < pages.size();) {
      size_t end = begin + 1;
      while (end < pages.size() && pages[end] == pages[end - 1] + 1 &&
             end - begin < kMaxReadPages) {
        ++end;
      }
      disk_reads.push_back({segment.file(),
                            segment.offset() + (SegmentLayout::kRows + pages[begin]) * kPageBytes,
                            batch.buffer.bytes().subspan((planned.buffer_page + begin) * kPageBytes,
                                                         (end - begin) * kPageBytes)});
      begin = end;
    }
    planned.num_reads = disk_reads.size() - planned.first_read;
  }
  return disk_reads;
}

// Checks the pages of a RowRead and copies its rows out of them.
absl::Status Gather(const RowRead& read, const PlannedRows& planned, const std::byte* buffer) {
  const SegmentReader& segment = *read.segment;
  const std::byte* const first = buffer + planned.buffer_page * kPageBytes;
  for (size_t i = 0; i < planned.pages.size(); ++i) {
    RETURN_IF_ERROR(CheckRowPage(segment.shape(), segment.tail(), planned.pages[i],
                                 {first + i * kPageBytes, kPageBytes}));
  }
  const size_t row_bytes = segment.shape().row_bytes(), half = row_bytes / 2;
  for (size_t i = 0; i < read.rows.size(); ++i) {
    const uint32_t page = PagesOf(segment, read.rows[i]).first;
    const auto at = std::lower_bound(planned.pages.begin(), planned.pages.end(), page);
    // A row that goes on in the next page does so in the buffer as well: that page is there too.
    const std::byte* const row = first +
                                 static_cast<size_t>(at - planned.pages.begin()) * kPageBytes +
                                 read.rows[i] * row_bytes % kPageBytes;
    const size_t place = read.places.empty() ? i : read.places[i];
    std::memcpy(read.keys.data() + place * half, row, half);
    std::memcpy(read.values.data() + place * half, row + half, half);
  }
  return absl::OkStatus();
}

void FinishRows(RowBatch& batch, std::span<const absl::Status> disk_statuses) {
  std::vector<absl::Status> statuses(batch.reads.size());
  for (size_t i = 0; i < batch.reads.size(); ++i) {
    const PlannedRows& planned = batch.planned[i];
    for (size_t r = 0; r < planned.num_reads; ++r) {
      statuses[i].Update(disk_statuses[planned.first_read + r]);
    }
    if (statuses[i].ok()) statuses[i] = Gather(batch.reads[i], planned, batch.buffer.data());
    if (!statuses[i].ok()) {
      statuses[i] = base::Annotate(statuses[i], batch.reads[i].segment->Describe());
    }
  }
  batch.reads.clear();  // the segments are not held for longer than the callback knows
  batch.done(statuses, batch.counts);
}

std::string DescribePlace(const DiskFile& file, uint64_t offset) {
  return absl::StrCat(file.name(), ": segment at ", offset);
}

}  // namespace

SegmentReader::SegmentReader(std::shared_ptr<DiskFile> file, uint64_t offset,
                             const StoredShape& shape, SegmentTail tail)
    : file_(std::move(file)),
      offset_(offset),
      shape_(shape),
      layout_(shape),
      tail_(std::move(tail)) {}

size_t SegmentReader::bytes() const {
  return sizeof(SegmentReader) + tail_.row_checksums.capacity() * sizeof(uint64_t) +
         tail_.index.capacity();
}

std::string SegmentReader::Describe() const { return DescribePlace(*file_, offset_); }

void SegmentReader::Open(Disk& disk, std::shared_ptr<DiskFile> file, uint64_t offset,
                         const StoredShape& shape, Opened opened) {
  CHECK(CheckShape(shape).ok()) << CheckShape(shape).ToString();
  const SegmentLayout layout(shape);
  // shared_ptr: std::function wants to be copied.
  auto buffer = std::make_shared<PageBuffer>(kPageBytes + layout.tail_bytes());
  const std::span<std::byte> header = buffer->bytes().first(kPageBytes);
  const std::span<std::byte> tail = buffer->bytes().subspan(kPageBytes);
  disk.Read({{file, offset, header}, {file, offset + layout.tail_begin(), tail}},
            [file, offset, shape, buffer, header, tail,
             opened = std::move(opened)](std::span<const absl::Status> statuses) {
              absl::Status status = statuses[0];
              status.Update(statuses[1]);
              auto parsed = status.ok() ? ParseSegmentTail(shape, header, tail)
                                        : absl::StatusOr<SegmentTail>(status);
              if (parsed.ok()) {
                opened(std::make_shared<SegmentReader>(file, offset, shape, *std::move(parsed)));
              } else {
                opened(base::Annotate(parsed.status(), DescribePlace(*file, offset)));
              }
            });
}

std::shared_ptr<SegmentReader> SegmentReader::OfWritten(std::shared_ptr<DiskFile> file,
                                                        uint64_t offset, const StoredShape& shape,
                                                        std::vector<uint64_t> row_checksums) {
  SegmentTail tail{.row_checksums = std::move(row_checksums), .index = {}};
  return std::make_shared<SegmentReader>(std::move(file), offset, shape, std::move(tail));
}

uint64_t MostPageBytes(const SegmentReader& segment, uint64_t rows) {
  const size_t bytes = segment.shape().row_bytes();
  // Of a row that begins anywhere; those that divide a page never cross into the next.
  const uint64_t each = bytes <= kPageBytes && kPageBytes % bytes == 0
                            ? 1
                            : (bytes + kPageBytes - 2) / kPageBytes + 1;
  return std::min(rows * each, segment.layout().row_pages()) * kPageBytes;
}

void ReadRows(Disk& disk, std::vector<RowRead> reads, RowsDone done) {
  auto batch = std::make_shared<RowBatch>();
  batch->done = std::move(done);
  for (const RowRead& read : reads) {
    const size_t half = read.segment->shape().row_bytes() / 2;
    size_t places = read.rows.size();
    if (!read.places.empty()) {
      CHECK(read.places.size() == read.rows.size()) << read.places.size();
      places = size_t{*std::max_element(read.places.begin(), read.places.end())} + 1;
    }
    CHECK(read.keys.size() == read.values.size() && read.keys.size() >= places * half)
        << read.keys.size() << " and " << read.values.size() << " bytes for " << places << " rows";
    batch->planned.push_back({.pages = DistinctPages(read), .buffer_page = batch->counts.pages});
    batch->counts.pages += batch->planned.back().pages.size();
  }
  batch->reads = std::move(reads);
  batch->buffer = PageBuffer(batch->counts.pages * kPageBytes);
  std::vector<DiskRead> disk_reads = DiskReadsOf(*batch);
  batch->counts.reads = disk_reads.size();
  disk.Read(std::move(disk_reads),
            [batch](std::span<const absl::Status> statuses) { FinishRows(*batch, statuses); });
}

}  // namespace sounder::kv_node
