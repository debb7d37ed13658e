// A directory of a real file system, read by io_uring and past the page cache where the system
// allows it. What it does not allow is found out once, in Start, and said in properties().
#ifndef SOUNDER_KV_NODE_STORE_LINUX_DISK_H_
#define SOUNDER_KV_NODE_STORE_LINUX_DISK_H_

#include <memory>
#include <string>
#include <vector>

#include "kv_node/store/disk.h"
#include "kv_node/store/read_queue.h"

namespace sounder::kv_node {

struct LinuxDiskOptions {
  bool uring = true;   // false: threads, even where io_uring is allowed
  bool direct = true;  // false: through the page cache
  // Reads in flight at once with io_uring; a power of two. More keep a fast disk busier and cost
  // about 100 B each.
  unsigned queue_depth = 256;
  // Reads in flight at once without it.
  int threads = 16;
};

class LinuxDisk final : public Disk {
 public:
  // Makes the directory, durably, if there is none (its parent must be there: NOT_FOUND). Fails
  // where the directory cannot be written to.
  static absl::StatusOr<std::unique_ptr<LinuxDisk>> Start(const std::string& directory,
                                                          LinuxDiskOptions options = {});
  ~LinuxDisk() override;
  LinuxDisk(const LinuxDisk&) = delete;
  LinuxDisk& operator=(const LinuxDisk&) = delete;

  const DiskProperties& properties() const override { return properties_; }
  absl::StatusOr<std::shared_ptr<DiskFile>> Create(const std::string& name) override;
  absl::StatusOr<std::shared_ptr<DiskFile>> Open(const std::string& name) override;
  absl::Status Remove(const std::string& name) override;
  absl::StatusOr<std::vector<std::string>> List() override;
  absl::Status SyncDirectory() override;
  absl::StatusOr<uint64_t> FreeBytes() override;
  void Read(std::vector<DiskRead> reads, ReadsDone done) override;

 private:
  LinuxDisk(std::string directory, int directory_fd);
  absl::Status Probe(const LinuxDiskOptions& options);
  // The descriptor.
  absl::StatusOr<int> OpenFile(const std::string& name, int flags);
  std::string PathOf(const std::string& name) const { return directory_ + "/" + name; }

  const std::string directory_;
  const int directory_fd_;
  DiskProperties properties_;
  std::unique_ptr<ReadQueue> reads_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_LINUX_DISK_H_
