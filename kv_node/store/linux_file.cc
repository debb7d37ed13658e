#include "kv_node/store/linux_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {

LinuxFile::LinuxFile(std::string name, int fd, uint64_t size)
    : name_(std::move(name)), fd_(fd), end_(WholePages(size)) {}

LinuxFile::~LinuxFile() { close(fd_); }

absl::Status LinuxFile::broken() const {
  const std::lock_guard lock(mutex_);
  return broken_;
}

absl::StatusOr<uint64_t> LinuxFile::Append(std::span<const std::byte> pages) {
  CHECK(pages.size() % kPageBytes == 0) << pages.size();
  CHECK(reinterpret_cast<uintptr_t>(pages.data()) % kPageBytes == 0) << "not at a page's boundary";
  const std::lock_guard append_lock(append_mutex_);
  RETURN_IF_ERROR(broken());
  const uint64_t begin = end_;
  size_t written = 0;
  while (written < pages.size()) {
    const ssize_t result = pwrite(fd_, pages.data() + written, pages.size() - written,
                                  static_cast<off_t>(begin + written));
    if (result < 0 && errno == EINTR) continue;
    const auto where = [&] {
      return absl::StrCat(name_, ": writing ", pages.size(), " bytes at ", begin);
    };
    if (result < 0) return DiskError(errno, where());
    written += static_cast<size_t>(result);
    // A write that stops inside a page cannot go on directly from there; the device is at fault.
    if (written % kPageBytes != 0 || result == 0) {
      return absl::DataLossError(absl::StrCat(where(), ": only ", written, " were written"));
    }
  }
  end_ = begin + written;
  return begin;
}

absl::Status LinuxFile::Sync() {
  const std::lock_guard sync_lock(sync_mutex_);
  RETURN_IF_ERROR(broken());
  int result = 0;
  do {
    result = fdatasync(fd_);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return absl::OkStatus();
  const int error = errno;
  const std::lock_guard lock(mutex_);
  broken_ = DiskError(error, name_ + ": fdatasync");
  return broken_;
}

absl::Status LinuxFile::Free(uint64_t offset, uint64_t bytes) {
  CHECK(offset % kPageBytes == 0 && bytes % kPageBytes == 0) << offset << " " << bytes;
  if (bytes == 0) return absl::OkStatus();
  int result = 0;
  do {
    result = fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                       static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  if (result == 0) return absl::OkStatus();
  const std::string what = absl::StrCat(name_, ": freeing ", bytes, " bytes at ", offset);
  if (errno == EOPNOTSUPP) return absl::UnimplementedError(what + ": not on this file system");
  return DiskError(errno, what);
}

absl::StatusOr<uint64_t> LinuxFile::AllocatedBytes() const {
  struct stat status {};
  if (fstat(fd_, &status) != 0) return DiskError(errno, name_ + ": fstat");
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

}  // namespace sounder::kv_node
