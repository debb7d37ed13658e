// One way to keep the rows of segments on disk, for comparison with others on the same disk.
#ifndef SOUNDER_BENCH_STORE_ROW_STORE_H_
#define SOUNDER_BENCH_STORE_ROW_STORE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace sounder::store_bench {

// Every segment has the same shape: rows of K and V, row_bytes together, a page of rows holding a
// whole number of them.
struct SegmentSize {
  size_t rows = 4096;
  size_t row_bytes = 512;  // d = 128, bf16

  size_t bytes() const { return rows * row_bytes; }
};

// The rows of segment `number`, side by side, incompressible, the same every time.
void FillSegment(const SegmentSize& size, size_t number, std::span<std::byte> rows);

// Failures end the process: a figure of a store that lost something is worth nothing. One thread.
class RowStore {
 public:
  virtual ~RowStore() = default;

  // Adds segments and returns when all of them are durable. rows[i] is segment first + i.
  virtual void Write(size_t first, std::span<const std::span<const std::byte>> rows) = 0;
  // Reads rows, in this order, from disk and checks them in whatever way this store can.
  virtual void ReadRows(size_t segment, std::span<const uint16_t> rows,
                        std::span<std::byte> into) = 0;
  virtual void ReadSegment(size_t segment, std::span<std::byte> into) = 0;
  virtual void Delete(size_t segment) = 0;
  // Returns when nothing runs behind the calls above (compactions).
  virtual void Wait() {}
  // The same, and nothing is left to be done.
  virtual void Settle() {}
  // All that can be done for getting space back now.
  virtual void Compact() {}
};

// The log of segments, in an empty folder of its own.
struct SegmentStoreOptions {
  bool uring = true;
  // Of the log: 1 is a file for each segment.
  uint64_t file_bytes = uint64_t{256} << 20;
};
std::unique_ptr<RowStore> NewSegmentStore(const std::string& folder, const SegmentSize& size,
                                          const SegmentStoreOptions& options);
// Pages of rows as values, in tables with XXH3 checksums or in blob files.
std::unique_ptr<RowStore> NewRocksStore(const std::string& folder, const SegmentSize& size,
                                        bool blobs);
// One file, rows one after the other, a pread per row's page, no checksums.
std::unique_ptr<RowStore> NewAppendStore(const std::string& folder, const SegmentSize& size);

}  // namespace sounder::store_bench

#endif  // SOUNDER_BENCH_STORE_ROW_STORE_H_
