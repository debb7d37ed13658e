// The record store's files for tests of what it survives: loss of power and faults of the disk.
// Nothing is on the disk before it is synced: bytes of a file after its sync, names after a sync of
// their folder. What is not synced lies in memory, so killing the process loses all of it, and
// Crash() a random part. The same promises as Disk (disk.h) in RocksDB's terms; power_loss.h is the
// same for files of our own.
#ifndef SOUNDER_KV_NODE_STORE_UNSYNCED_FILES_H_
#define SOUNDER_KV_NODE_STORE_UNSYNCED_FILES_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kv_node/store/disk_faults.h"

namespace rocksdb {
class FileSystem;
}

namespace sounder::kv_node {

class UnsyncedFolder;

// Thread safe. What happens is a function of the seed and of the order of operations.
class UnsyncedFiles {
 public:
  // For the files in `folder`, which is made if it is not there. Nobody else changes it meanwhile.
  // All files are held in memory. Reads do not flip.
  static absl::StatusOr<std::unique_ptr<UnsyncedFiles>> Start(
      const std::string& folder, uint64_t seed, const DiskFaultProbabilities& probability = {});
  ~UnsyncedFiles();

  // Writes beyond so many bytes of named files are kNoSpace; `quota`: as if a quota were used up.
  void SetCapacity(uint64_t bytes, bool quota = false);
  // The operation that is the nth from now of those that can have the fault has it. nth >= 1.
  void Arm(DiskFault fault, uint64_t nth = 1);
  uint64_t Bytes() const;  // of named files
  // The power goes. Of changes of names since the last sync of the folder the first ones survive,
  // as file systems with a journal have it and RocksDB needs it; of bytes behind a file's last sync
  // none, all or some of the first, in logs without some sectors of 512 bytes. From here on
  // everything is an error: destroy the store, and start anew in the folder for what comes after.
  void Crash();
  // The same before the nth change from now: a write, a sync, a name. nth >= 1.
  void CrashAt(uint64_t nth);

  // For RecordStore.
  const std::shared_ptr<rocksdb::FileSystem>& file_system() const { return file_system_; }

 private:
  explicit UnsyncedFiles(std::shared_ptr<UnsyncedFolder> folder);

  const std::shared_ptr<UnsyncedFolder> folder_;
  const std::shared_ptr<rocksdb::FileSystem> file_system_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_UNSYNCED_FILES_H_
