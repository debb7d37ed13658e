// The rows and indexes of segments on disk, each for as long as somebody holds it: whoever lets go
// of a stored segment last gives its space back, unless records (record_store.h) name it: those are
// what a restart finds.
#ifndef SOUNDER_KV_NODE_STORE_SEGMENT_STORE_H_
#define SOUNDER_KV_NODE_STORE_SEGMENT_STORE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/executor.h"
#include "kv_node/store/disk.h"
#include "kv_node/store/segment_log.h"
#include "kv_node/store/segment_reader.h"

namespace sounder::kv_node {

class SegmentStore;

// A hold on a segment's space. Thread safe; the store outlives it.
class StoredSegment {
 public:
  StoredSegment(SegmentStore* store, const StoredShape& shape, const SegmentPlace& place)
      : store_(store), shape_(shape), place_(place) {}
  ~StoredSegment();
  StoredSegment(const StoredSegment&) = delete;
  StoredSegment& operator=(const StoredSegment&) = delete;

  const StoredShape& shape() const { return shape_; }
  const SegmentPlace& place() const { return place_; }
  LiveSegment live() const { return {place_, SegmentLayout(shape_).bytes()}; }
  // Records that name it, or may: counted before they are committed, until their removal is.
  void AddName() const { ++names_; }
  void RemoveName() const { --names_; }

 private:
  SegmentStore* const store_;
  const StoredShape shape_;
  const SegmentPlace place_;
  mutable std::atomic<int> names_{0};
};

struct SegmentStoreCounts {
  uint64_t written_segments = 0;
  uint64_t written_bytes = 0;  // to the disk, of them
  uint64_t freed_segments = 0;
  uint64_t failed_frees = 0;  // their space comes back at the next start
};

// Thread safe.
class SegmentStore {
 public:
  // `io` runs what blocks: frees of space. It is idle, or has ended, when the store is destroyed;
  // `disk` and `log` outlive the store.
  SegmentStore(Disk* disk, SegmentLog* log, base::Executor* io);

  struct Written {
    std::shared_ptr<const StoredSegment> stored;
    std::shared_ptr<SegmentReader> reader;
  };
  // Blocks. The tag of `content` is the store's to give. Statuses as of SegmentLog::Append.
  absl::StatusOr<Written> Write(SegmentContent content);
  // Blocks. See SegmentLog::MakeDurable.
  absl::Status MakeDurable(std::span<const std::shared_ptr<const StoredSegment>> segments);
  // A hold on a segment that records name: one for all of them, which are to be counted.
  std::shared_ptr<const StoredSegment> Adopt(const StoredShape& shape, const SegmentPlace& place);
  // Reads all but the rows. `opened` is called once, also inside the call; see
  // SegmentReader::Open.
  void Open(const StoredSegment& segment, SegmentReader::Opened opened);

  Disk& disk() const { return *disk_; }
  const SegmentLog& log() const { return *log_; }
  base::Executor* io() const { return io_; }
  SegmentStoreCounts counts() const;

 private:
  friend class StoredSegment;
  void Free(const LiveSegment& segment);
  SegmentTag NewTag();

  Disk* const disk_;
  SegmentLog* const log_;
  base::Executor* const io_;
  const uint64_t run_;  // random: tags of two runs differ
  std::atomic<uint64_t> last_tag_{0};
  std::atomic<uint64_t> written_segments_{0};
  std::atomic<uint64_t> written_bytes_{0};
  std::atomic<uint64_t> freed_segments_{0};
  std::atomic<uint64_t> failed_frees_{0};
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_SEGMENT_STORE_H_
