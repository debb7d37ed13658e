// Where rows of stored segments come from: the row cache as far as it has them, reads that are in
// flight for somebody else, and one batch of reads of the disk for the rest.
#ifndef SOUNDER_KV_NODE_STORE_ROW_SOURCE_H_
#define SOUNDER_KV_NODE_STORE_ROW_SOURCE_H_

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kv_node/store/disk.h"
#include "kv_node/store/row_cache.h"
#include "kv_node/store/segment_reader.h"

namespace sounder::kv_node {

// Rows of one segment, ascending and distinct: row i's key goes to keys + i x row_bytes/2, its
// value likewise. All memory is the caller's and belongs to the read until its callback.
struct RowRequest {
  std::shared_ptr<const SegmentReader> segment;
  std::span<const uint16_t> rows;
  std::span<std::byte> keys;
  std::span<std::byte> values;
  // A sample, which the next step will have much of: through the cache. Runs of rows are read past
  // it: they would throw out what recurs, and their pages have to be read in any case.
  bool recurring = false;
};

struct RowSourceCounts {
  uint64_t rows = 0;     // asked for
  uint64_t cached = 0;   // of those, found in the cache
  uint64_t joined = 0;   // or being read already, for another request
  uint64_t failed = 0;   // or not to be had
  uint64_t pages = 0;    // read from the disk
  uint64_t reads = 0;    // as so many runs of neighbours
  uint64_t batches = 0;  // of those, in flight together
  uint64_t bytes() const { return pages * kPageBytes; }
};

// Thread safe. Owns neither disk nor cache.
class RowSource {
 public:
  // One status per request: OK and all its rows are there, otherwise as RowsDone. Must not block.
  using RowsRead = std::function<void(std::span<const absl::Status> statuses)>;

  RowSource(Disk* disk, RowCache* cache) : disk_(disk), cache_(cache) {}
  // Waits as WaitIdle does.
  ~RowSource() { WaitIdle(); }

  // Calls `done` once: on a thread of the disk's, or before Read returns if nothing has to be read
  // or what was being read has come. Rows that another Read is reading are taken from it when it
  // has them; if it fails they are read again, since it may be for a row that only the other wants.
  void Read(std::vector<RowRequest> requests, RowsRead done);

  // Returns when no read is in flight: every callback has returned and is gone, and no segment is
  // held for one. Not for a callback.
  void WaitIdle();

  // Since it was made.
  RowSourceCounts counts() const;
  const RowCache& cache() const { return *cache_; }

 private:
  struct Part;
  struct Waiter;
  struct Reading;
  struct Batch;
  // What the cache does not have of a request.
  Part Look(const RowRequest& request, size_t index);
  // Takes the rows that are being read out of the part, and has its batch wait for them. mutex_ is
  // held.
  void Join(const std::shared_ptr<Batch>& batch, Part* part);
  void Start(const std::shared_ptr<Batch>& batch);
  void Finish(const std::shared_ptr<Batch>& batch, std::span<const absl::Status> statuses,
              const RowReadCounts& counts);
  void ReadAgain(Waiter waiter);
  void Arrived(const RowRequest& request, const absl::Status& status, const Part& part);
  void EndPart(Batch& batch);

  Disk* const disk_;
  RowCache* const cache_;
  std::atomic<uint64_t> rows_{0};
  std::atomic<uint64_t> cached_{0};
  std::atomic<uint64_t> joined_{0};
  std::atomic<uint64_t> failed_{0};
  std::atomic<uint64_t> pages_{0};
  std::atomic<uint64_t> reads_{0};
  std::atomic<uint64_t> batches_{0};
  std::mutex mutex_;  // guards what follows, and statuses and waiters
  std::condition_variable idle_;
  size_t in_flight_ = 0;  // batches
  absl::flat_hash_map<const SegmentReader*, std::vector<Reading*>> readings_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_ROW_SOURCE_H_
