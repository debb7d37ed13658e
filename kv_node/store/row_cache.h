// Rows of stored segments that recur: queries move slowly, so much of what one step samples the
// next one samples again. Rows are copied in and out; what is kept is never the only copy.
#ifndef SOUNDER_KV_NODE_STORE_ROW_CACHE_H_
#define SOUNDER_KV_NODE_STORE_ROW_CACHE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kv_node/store/segment_reader.h"

namespace sounder::kv_node {

struct RowCacheCounts {
  uint64_t hits = 0;    // rows that were asked for and there
  uint64_t misses = 0;  // or not
  uint64_t evicted = 0;
};

// Rows by (segment, row), the key and the value of a row side by side. Thread safe: a lock for each
// segment, and one for the list of segments, held to find one and to make room. Who goes is decided
// by a clock (GCLOCK) over the segments, and in each over its rows: a row stays for one round of
// the hand when it is put in, and for one more each time it is found, up to three. What is kept of
// a segment is dropped when room is needed or another segment comes after its last SegmentReader is
// gone.
class RowCache {
 public:
  // capacity: of bytes(). 0: nothing is kept.
  explicit RowCache(uint64_t capacity) : capacity_(capacity) {}
  RowCache(const RowCache&) = delete;
  RowCache& operator=(const RowCache&) = delete;

  // Copies what is kept of `rows` (ascending, distinct): row i's key to keys + i x row_bytes/2, its
  // value likewise. Appends the places of the others in `rows`, ascending, to `missing`.
  void Find(const std::shared_ptr<const SegmentReader>& segment, std::span<const uint16_t> rows,
            std::span<std::byte> keys, std::span<std::byte> values, std::vector<uint32_t>* missing);
  // Keeps the rows at `places` of the same arrays, if there is or can be made room for all of them.
  void Keep(const std::shared_ptr<const SegmentReader>& segment, std::span<const uint16_t> rows,
            std::span<const std::byte> keys, std::span<const std::byte> values,
            std::span<const uint32_t> places);

  uint64_t capacity() const { return capacity_; }
  // Of rows and what is needed to find them; never more than the capacity.
  uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  RowCacheCounts counts() const;

 private:
  struct Entry {
    std::unique_ptr<std::byte[]> bytes;  // key, value
    uint16_t row = 0;
    uint8_t stays = 1;  // so many more rounds of the hand
  };
  struct SegmentRows {
    explicit SegmentRows(const std::shared_ptr<const SegmentReader>& segment)
        : owner(segment), row_bytes(segment->shape().row_bytes()) {}
    const std::weak_ptr<const SegmentReader> owner;
    const size_t row_bytes;
    std::mutex mutex;            // guards what follows
    std::vector<Entry> entries;  // by row, ascending
    uint32_t hand = 0;           // the row it has come to
    bool dropped = false;        // takes no more rows
  };
  using Shared = std::shared_ptr<SegmentRows>;

  static bool Before(const Entry& entry, uint32_t row);
  static uint64_t EntryBytes(size_t row_bytes);
  // The rows of the segment; null: none are kept. mutex_ is held by the three below.
  Shared Of(const std::shared_ptr<const SegmentReader>& segment) const;
  bool MakeRoom(uint64_t bytes);
  void Drop(size_t place);
  // Moves a segment's hand on and evicts what it finds, until so many bytes are free: how many are.
  // True if the hand has come round.
  bool Evict(SegmentRows& rows, uint64_t wanted, uint64_t* freed);

  const uint64_t capacity_;
  std::atomic<uint64_t> bytes_{0};  // raised with mutex_ held
  std::atomic<uint64_t> hits_{0};
  std::atomic<uint64_t> misses_{0};
  std::atomic<uint64_t> evicted_{0};
  mutable std::mutex mutex_;  // guards what follows; before that of a segment
  absl::flat_hash_map<const SegmentReader*, Shared> segments_;
  std::vector<const SegmentReader*> ring_;  // the keys of segments_
  size_t hand_ = 0;                         // in ring_
  size_t swept_ = 0;                        // in ring_: where the last look for dead ones ended
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_ROW_CACHE_H_
