// A folder whose names and files are durable only when synced: what UnsyncedFiles shows to RocksDB.
#ifndef SOUNDER_KV_NODE_STORE_UNSYNCED_FOLDER_H_
#define SOUNDER_KV_NODE_STORE_UNSYNCED_FOLDER_H_

#include <rocksdb/io_status.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kv_node/store/disk_faults.h"

namespace sounder::kv_node {

// Thread safe. Names are of files in the folder; LOCK is none of them.
class UnsyncedFolder {
 public:
  // A file, whatever its name is now; the folder's.
  struct Node {
    std::string bytes;
    size_t synced = 0;   // survive as soon as a name does
    size_t flushed = 0;  // are on the disk
    std::string below;   // its name on the disk; empty: none (yet, or any more)
    bool was_below = false;
    bool broken = false;  // a sync failed
  };
  using NodePtr = std::shared_ptr<Node>;

  UnsyncedFolder(std::string path, uint64_t seed, const DiskFaultProbabilities& probability)
      : path_(std::move(path)), faults_(probability, seed) {}

  // Reads what there is; makes the folder if it is not there. Once, before all else.
  absl::Status Load();
  const std::string& path() const { return path_; }

  void SetCapacity(uint64_t bytes, bool quota);
  void Arm(DiskFault fault, uint64_t nth);
  uint64_t Bytes();
  void Crash();
  void CrashAt(uint64_t nth);

  // Replaces what has the name.
  rocksdb::IOStatus Create(const std::string& name, NodePtr* node);
  rocksdb::IOStatus Find(const std::string& name, NodePtr* node);
  rocksdb::IOStatus Remove(const std::string& name);
  rocksdb::IOStatus Rename(const std::string& from, const std::string& to);
  // With their sizes.
  rocksdb::IOStatus List(std::vector<std::pair<std::string, uint64_t>>* files);
  rocksdb::IOStatus SyncNames();

  rocksdb::IOStatus Append(Node& node, const std::string& name, const rocksdb::Slice& data);
  rocksdb::IOStatus Sync(Node& node, const std::string& name);
  rocksdb::IOStatus Read(const Node& node, uint64_t offset, size_t n, rocksdb::Slice* result,
                         char* scratch);
  uint64_t SizeOf(const Node& node);

 private:
  // A change of names that is not durable. from empty: created; to empty: removed.
  struct Change {
    NodePtr node;
    std::string from;
    std::string to;
  };
  using Names = std::map<std::string, NodePtr>;

  std::string PathOf(const std::string& name) const { return path_ + "/" + name; }
  // The rest with mutex_ held.
  rocksdb::IOStatus FindLocked(const std::string& name, NodePtr* node) const;
  uint64_t NamedBytes() const;
  // Before each change: whether it comes after the power went, which may be now.
  bool StopsHere();
  void CrashLocked();
  void Tear(Node& node, bool sectors);
  // Makes the change on the disk.
  void Apply(const Change& change);
  // Writes bytes up to `synced`, if the file has a name on the disk.
  void Flush(Node& node);

  const std::string path_;
  std::mutex mutex_;  // guards what follows, and all nodes
  DiskFaults faults_;
  bool quota_ = false;  // what a full disk is said to be
  Names names_;         // as RocksDB sees them
  Names durable_;       // as on the disk
  std::vector<Change> changes_;
  uint64_t crash_in_ = 0;  // changes; 0: not armed
  bool off_ = false;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_UNSYNCED_FOLDER_H_
