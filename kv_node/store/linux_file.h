// A file of LinuxDisk.
#ifndef SOUNDER_KV_NODE_STORE_LINUX_FILE_H_
#define SOUNDER_KV_NODE_STORE_LINUX_FILE_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "kv_node/store/disk.h"

namespace sounder::kv_node {

// Thread safe. An append and a sync may overlap: the sync covers what was appended before it began.
class LinuxFile final : public DiskFile {
 public:
  // Takes the descriptor. `size`: of the file, in bytes.
  LinuxFile(std::string name, int fd, uint64_t size);
  ~LinuxFile() override;
  LinuxFile(const LinuxFile&) = delete;
  LinuxFile& operator=(const LinuxFile&) = delete;

  const std::string& name() const override { return name_; }
  uint64_t size() const override { return end_; }
  absl::StatusOr<uint64_t> Append(std::span<const std::byte> pages) override;
  absl::Status Sync() override;
  absl::Status Free(uint64_t offset, uint64_t bytes) override;
  absl::StatusOr<uint64_t> AllocatedBytes() const override;

  int fd() const { return fd_; }

 private:
  absl::Status broken() const;

  const std::string name_;
  const int fd_;
  std::mutex append_mutex_;  // one append at a time
  std::mutex sync_mutex_;    // one sync at a time
  std::atomic<uint64_t> end_;
  mutable std::mutex mutex_;  // guards what follows, for a moment
  absl::Status broken_;       // the failed Sync
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_LINUX_FILE_H_
