// Files of one directory, as the store writes and reads them: appended in whole pages, made durable
// by an explicit Sync, read at many places at once. Everything the store writes itself goes through
// here, so that tests can put a disk with faults in its place (faulty_disk.h).
//
// What is durable, after a loss of power: pages of a file appended before a Sync() of it that
// succeeded; names made or removed before a SyncDirectory() that succeeded. Of all else
// any part may be there, pages torn and zeroed included. A new file needs both.
//
// Statuses: RESOURCE_EXHAUSTED when the disk is full (or the quota), DATA_LOSS when the device
// failed (EIO) or a file is shorter than what is read of it, NOT_FOUND, ALREADY_EXISTS, otherwise
// that of the system call. Messages name the file.
#ifndef SOUNDER_KV_NODE_STORE_DISK_H_
#define SOUNDER_KV_NODE_STORE_DISK_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kv_node/store/page_buffer.h"

namespace sounder::kv_node {

// An open file. It stays readable after its name is removed. Thread safe.
class DiskFile {
 public:
  virtual ~DiskFile() = default;

  // As it was opened.
  virtual const std::string& name() const = 0;
  // Where the next Append goes: a multiple of kPageBytes.
  virtual uint64_t size() const = 0;

  // Writes `pages` (whole ones, from a page's boundary in memory) at the end and returns where they
  // begin. After an error the size is what it was, and the next Append writes to the same place.
  virtual absl::StatusOr<uint64_t> Append(std::span<const std::byte> pages) = 0;
  // After an error nobody knows which pages reached the disk: the file takes no more Append or Sync
  // and answers both with that error. It can be read.
  virtual absl::Status Sync() = 0;
  // Gives whole pages inside the file back to the file system; they read as zeros from now on, or,
  // after a loss of power, perhaps as before. UNIMPLEMENTED where the file system cannot.
  virtual absl::Status Free(uint64_t offset, uint64_t bytes) = 0;
  // Bytes of disk the file takes.
  virtual absl::StatusOr<uint64_t> AllocatedBytes() const = 0;
};

// One read of a batch: into.size() bytes from `offset`, all multiples of kPageBytes, and `into`
// from a page's boundary in memory. The memory belongs to the batch until its callback. The file is
// owned by whoever opened it and by every batch in flight.
struct DiskRead {
  std::shared_ptr<DiskFile> file;
  uint64_t offset = 0;
  std::span<std::byte> into;
};

// One status per read, in their order. DATA_LOSS: also where the file ends before the read does.
// Called once, on a thread of the disk's (never inside Read, except for an empty batch): must not
// block, and may call Read.
using ReadsDone = std::function<void(std::span<const absl::Status> statuses)>;

// How a disk does its work, for logs and status pages.
struct DiskProperties {
  std::string reads;        // "io_uring", "16 threads"
  std::string reads_why;    // why not io_uring; empty if it is
  bool direct = false;      // the page cache is bypassed
  std::string direct_why;   // why not; empty if it is
  std::string file_system;  // "ext4", or its magic number
};

// Names are those of files in the directory, without '/'. Thread safe.
class Disk {
 public:
  virtual ~Disk() = default;

  virtual const DiskProperties& properties() const = 0;

  // An empty file; ALREADY_EXISTS if there is one.
  virtual absl::StatusOr<std::shared_ptr<DiskFile>> Create(const std::string& name) = 0;
  // For reading and for appending at its end, from the next whole page on.
  virtual absl::StatusOr<std::shared_ptr<DiskFile>> Open(const std::string& name) = 0;
  virtual absl::Status Remove(const std::string& name) = 0;
  // Sorted.
  virtual absl::StatusOr<std::vector<std::string>> List() = 0;
  virtual absl::Status SyncDirectory() = 0;
  // Bytes that may still be written.
  virtual absl::StatusOr<uint64_t> FreeBytes() = 0;

  // All reads are in flight together, as far as the disk's queue goes. The disk is destroyed only
  // after their callback.
  virtual void Read(std::vector<DiskRead> reads, ReadsDone done) = 0;
};

// Reads and waits. Not for threads that must not block, nor for a ReadsDone.
std::vector<absl::Status> ReadAndWait(Disk& disk, std::vector<DiskRead> reads);

// Makes the folder if there is none, and syncs the one it lies in, so that its name is durable
// whoever made it. NOT_FOUND where that one is missing.
absl::Status MakeDurableFolder(const std::string& folder);

// ErrnoToStatus with the codes above: EIO is DATA_LOSS.
absl::Status DiskError(int error_number, const std::string& what);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_DISK_H_
