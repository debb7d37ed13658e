// Where segments are written: files that many segments share, one after the other. A file is
// appended to until it is full and never again after a restart; freed segments leave holes, and a
// file with nothing left in it is removed. Which segments there are is not in these files: the
// store's records say so, and what they do not name is freed at the next start.
#ifndef SOUNDER_KV_NODE_STORE_SEGMENT_LOG_H_
#define SOUNDER_KV_NODE_STORE_SEGMENT_LOG_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kv_node/store/disk.h"
#include "kv_node/store/segment_reader.h"

namespace sounder::kv_node {

// For the store's records, with the segment's shape.
struct SegmentPlace {
  uint64_t file = 0;  // its number
  uint64_t offset = 0;

  bool operator==(const SegmentPlace&) const = default;
};

struct LiveSegment {
  SegmentPlace place;
  uint64_t bytes = 0;  // SegmentLayout::bytes()
};

struct WrittenSegment {
  SegmentPlace place;
  std::shared_ptr<SegmentReader> reader;  // ready to be read
};

struct SegmentLogOptions {
  // A file that has reached this takes no more segments. Larger ones: fewer open files; smaller
  // ones: on file systems without holes space comes back sooner.
  uint64_t file_bytes = uint64_t{256} << 20;
};

struct SegmentLogCounts {
  uint64_t files = 0;
  uint64_t live_bytes = 0;  // of segments that are not freed
  // Of what no record named, at the start.
  uint64_t removed_files = 0;
  uint64_t freed_bytes = 0;
};

// Thread safe; calls block on the disk.
class SegmentLog {
 public:
  // `disk` outlives the log, and only the log writes to its directory. `live`: all segments that
  // records name, in any order. Everything else in the log's files is freed. Live segments are not
  // read: whether they are there shows when they are opened.
  static absl::StatusOr<std::unique_ptr<SegmentLog>> Open(Disk* disk,
                                                          std::span<const LiveSegment> live,
                                                          SegmentLogOptions options = {});
  SegmentLog(const SegmentLog&) = delete;
  SegmentLog& operator=(const SegmentLog&) = delete;

  // Not durable yet. After an error it can be tried again: after RESOURCE_EXHAUSTED, when there is
  // space, at the same place, otherwise in another file.
  absl::StatusOr<WrittenSegment> Append(const SegmentContent& content);
  // Returns when the segments are durable; one sync of the disk serves everybody who waits for it.
  // After an error any of them that were not durable before may be lost with the power, though they
  // can be read: Append them again (another file is taken) and Free these.
  absl::Status MakeDurable(std::span<const SegmentPlace> places);
  // After the segment's record is durably gone and nobody reads it any more.
  absl::Status Free(const LiveSegment& segment);
  // The file of a segment, for SegmentReader::Open. DATA_LOSS if it is missing.
  absl::StatusOr<std::shared_ptr<DiskFile>> FileOf(const SegmentPlace& place) const;

  SegmentLogCounts counts() const;

 private:
  struct File {
    std::shared_ptr<DiskFile> file;
    uint64_t live_bytes = 0;  // of what is being appended as well
    uint64_t synced = 0;      // bytes
    bool name_synced = false;
    absl::Status broken;  // the sync that failed
  };

  SegmentLog(Disk* disk, SegmentLogOptions options) : disk_(disk), options_(options) {}
  // Opens the file of this name, or removes it. Only at the start.
  absl::Status Adopt(const std::string& name, uint64_t number, std::span<const LiveSegment> live);
  // A file that takes another segment, of so many bytes, which are counted as live: number and
  // file. append_mutex_ held.
  absl::StatusOr<std::pair<uint64_t, std::shared_ptr<DiskFile>>> FileForAppend(uint64_t bytes);
  absl::Status SyncFile(uint64_t number, uint64_t end);
  // The file takes no more segments. True if it is forgotten and is to be removed, as nothing is in
  // it. mutex_ held.
  bool Leave(uint64_t number);

  Disk* const disk_;
  const SegmentLogOptions options_;
  // Locked in this order.
  std::mutex append_mutex_;
  std::mutex sync_mutex_;
  mutable std::mutex mutex_;  // guards what follows, for a moment
  std::map<uint64_t, File> files_;
  uint64_t current_ = 0;  // appended to; 0: none
  uint64_t next_ = 1;
  uint64_t removed_files_ = 0;
  uint64_t freed_bytes_ = 0;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_SEGMENT_LOG_H_
