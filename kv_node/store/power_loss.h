// A directory in which nothing is on the disk before it is synced: what FaultyDisk keeps between
// the store and the real disk, like a cache that loses its content with the power. The disk below
// holds only what is durable, at every moment, so that killing the process loses all the rest, and
// Crash() a random part of it.
#ifndef SOUNDER_KV_NODE_STORE_POWER_LOSS_H_
#define SOUNDER_KV_NODE_STORE_POWER_LOSS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "kv_node/store/disk.h"

namespace sounder::kv_node {

// A file, also after its name was removed.
struct CachedFile {
  // On the disk below: null until a directory sync makes a name of the file durable.
  std::shared_ptr<DiskFile> below;
  uint64_t flushed = 0;         // bytes in `below`
  uint64_t synced = 0;          // bytes that survive as soon as a name does; >= flushed
  uint64_t size = 0;            // >= synced
  std::vector<std::byte> tail;  // from `flushed` to `size`, and what failed appends left behind it
  absl::Status broken;          // the failed sync
};

// Not thread safe. Names as of Disk.
class CachedDirectory {
 public:
  // `below` outlives the object, and nobody else changes its directory. Opens all its files.
  static absl::StatusOr<std::unique_ptr<CachedDirectory>> Open(Disk* below);

  absl::StatusOr<std::shared_ptr<CachedFile>> Create(const std::string& name);
  absl::StatusOr<std::shared_ptr<CachedFile>> Find(const std::string& name) const;
  absl::Status Remove(const std::string& name);
  std::vector<std::string> List() const;
  // Bytes of all files that have a name.
  uint64_t Bytes() const;

  // Faults of the disk below are returned; the cache is then as before.
  absl::Status SyncFile(CachedFile& file);
  absl::Status SyncDirectory();

  // The power goes: of names that changed since the last sync, and of pages appended since, some
  // survive, in any combination; sectors of 512 bytes that do not are zero or missing. Afterwards
  // the disk below is what a restart finds, and this object is of no more use.
  absl::Status Crash(base::PhiloxStream& random);

 private:
  // A change of names that is not durable.
  struct Change {
    std::shared_ptr<CachedFile> file;
    std::string name;
    bool removed = false;  // else created
  };
  using Names = std::map<std::string, std::shared_ptr<CachedFile>>;

  explicit CachedDirectory(Disk* below) : below_(below) {}
  absl::Status Apply(const Change& change);
  // Appends the tail up to `end` to the disk below.
  absl::Status Flush(CachedFile& file, uint64_t end);
  absl::Status Tear(CachedFile& file, base::PhiloxStream& random);

  Disk* const below_;
  Names names_;    // as the store sees them
  Names durable_;  // as on the disk below
  std::vector<Change> changes_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_POWER_LOSS_H_
