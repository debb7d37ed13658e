// The figures of store_bench: what several ways of keeping segments on one disk cost, taken in
// turns, past the page cache.
#ifndef SOUNDER_BENCH_STORE_STORE_BENCH_H_
#define SOUNDER_BENCH_STORE_STORE_BENCH_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "bench/store/row_store.h"
#include "cli/table.h"

namespace sounder::store_bench {

struct StoreBenchSpec {
  SegmentSize size;
  size_t single = 64;    // segments made durable one by one, per store
  size_t grouped = 128;  // segments made durable `group` at a time
  size_t group = 8;
  size_t row_reads = 400;     // timed reads of rows_per_read scattered rows of a segment, per store
  size_t rows_per_read = 40;  // a sample of 1 % of 4,096
  size_t segment_reads = 100;  // timed reads of a whole segment, per store
  size_t commits = 300;        // of records, of each kind
};
// A hundredth of the work, for a look; its figures are not to be quoted.
StoreBenchSpec QuickStoreBench();

// Works in `folder`, which must be there; what it wrote is removed. Takes single + grouped segments
// of disk per store, and some for compactions. Keys of the record begin with the store's name.
// FAILED_PRECONDITION where the page cache cannot be bypassed.
absl::Status RunStoreBench(const StoreBenchSpec& spec, const std::string& folder,
                           cli::Record& record);

}  // namespace sounder::store_bench

#endif  // SOUNDER_BENCH_STORE_STORE_BENCH_H_
