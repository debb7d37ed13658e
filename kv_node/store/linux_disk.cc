#include "kv_node/store/linux_disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kv_node/store/linux_file.h"
#include "kv_node/store/thread_reads.h"
#include "kv_node/store/uring_reads.h"

namespace sounder::kv_node {
namespace {

constexpr char kProbeName[] = ".probe";
constexpr unsigned kXfsMagic = 0x58465342;  // not in linux/magic.h

std::string FileSystemName(unsigned magic) {
  switch (magic) {
    case EXT4_SUPER_MAGIC:
      return "ext4";
    case kXfsMagic:
      return "xfs";
    case BTRFS_SUPER_MAGIC:
      return "btrfs";
    case TMPFS_MAGIC:
      return "tmpfs";
    case OVERLAYFS_SUPER_MAGIC:
      return "overlayfs";
    case NFS_SUPER_MAGIC:
      return "nfs";
    default:
      return absl::StrCat("0x", absl::Hex(magic));
  }
}

// Writes a page of the open file and reads it back, aligned as a PageBuffer is; 0 or errno.
int TryOnePage(int fd) {
  PageBuffer page(kPageBytes);
  std::fill(page.bytes().begin(), page.bytes().end(), std::byte{0});
  if (pwrite(fd, page.data(), page.size(), kPageBytes) < 0) return errno;
  return pread(fd, page.data(), page.size(), kPageBytes) < 0 ? errno : 0;
}

void CheckName(const std::string& name) {
  CHECK(!name.empty() && name != "." && name != ".." && name.find('/') == name.npos) << name;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LinuxDisk>> LinuxDisk::Start(const std::string& directory,
                                                            LinuxDiskOptions options) {
  RETURN_IF_ERROR(MakeDurableFolder(directory));
  const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return DiskError(errno, directory + ": cannot open the directory");
  std::unique_ptr<LinuxDisk> disk(new LinuxDisk(directory, fd));
  RETURN_IF_ERROR(disk->Probe(options));
  if (options.uring) {
    auto uring = UringReads::Create(options.queue_depth);
    if (uring.ok()) {
      disk->reads_ = *std::move(uring);
      disk->properties_.reads = "io_uring";
      return disk;
    }
    disk->properties_.reads_why = base::MessageOf(uring.status());
  } else {
    disk->properties_.reads_why = "switched off";
  }
  disk->reads_ = std::make_unique<ThreadReads>(options.threads);
  disk->properties_.reads = absl::StrCat(options.threads, " threads");
  return disk;
}

LinuxDisk::LinuxDisk(std::string directory, int directory_fd)
    : directory_(std::move(directory)), directory_fd_(directory_fd) {}

LinuxDisk::~LinuxDisk() {
  reads_.reset();
  close(directory_fd_);
}

absl::Status LinuxDisk::Probe(const LinuxDiskOptions& options) {
  struct statfs status {};
  if (fstatfs(directory_fd_, &status) != 0) return DiskError(errno, directory_ + ": fstatfs");
  properties_.file_system = FileSystemName(static_cast<unsigned>(status.f_type));
  const int flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC;
  int fd = openat(directory_fd_, kProbeName, flags, 0644);
  if (fd < 0) return DiskError(errno, PathOf(kProbeName) + ": cannot create");
  close(fd);
  if (!options.direct) {
    properties_.direct_why = "switched off";
  } else if (properties_.file_system == "tmpfs") {
    // Newer kernels take the flag, and the "disk" is memory all the same.
    properties_.direct_why = "tmpfs lies in memory";
  } else {
    fd = openat(directory_fd_, kProbeName, flags | O_DIRECT, 0644);
    const int error = fd < 0 ? errno : TryOnePage(fd);
    if (fd >= 0) close(fd);
    // A full disk says nothing against it.
    properties_.direct = error == 0 || error == ENOSPC || error == EDQUOT;
    if (!properties_.direct) {
      properties_.direct_why = base::MessageOf(DiskError(error, "O_DIRECT"));
    }
  }
  unlinkat(directory_fd_, kProbeName, 0);
  return absl::OkStatus();
}

absl::StatusOr<int> LinuxDisk::OpenFile(const std::string& name, int flags) {
  CheckName(name);
  const int direct = properties_.direct ? O_DIRECT : 0;
  const int fd = openat(directory_fd_, name.c_str(), O_RDWR | O_CLOEXEC | direct | flags, 0644);
  if (fd < 0) return DiskError(errno, PathOf(name) + ": cannot open");
  return fd;
}

absl::StatusOr<std::shared_ptr<DiskFile>> LinuxDisk::Create(const std::string& name) {
  ASSIGN_OR_RETURN(const int fd, OpenFile(name, O_CREAT | O_EXCL));
  return std::make_shared<LinuxFile>(PathOf(name), fd, 0);
}

absl::StatusOr<std::shared_ptr<DiskFile>> LinuxDisk::Open(const std::string& name) {
  ASSIGN_OR_RETURN(const int fd, OpenFile(name, 0));
  struct stat status {};
  if (fstat(fd, &status) != 0) {
    const int error = errno;
    close(fd);
    return DiskError(error, PathOf(name) + ": fstat");
  }
  return std::make_shared<LinuxFile>(PathOf(name), fd, static_cast<uint64_t>(status.st_size));
}

absl::Status LinuxDisk::Remove(const std::string& name) {
  CheckName(name);
  if (unlinkat(directory_fd_, name.c_str(), 0) == 0) return absl::OkStatus();
  return DiskError(errno, PathOf(name) + ": removing");
}

absl::StatusOr<std::vector<std::string>> LinuxDisk::List() {
  DIR* const directory = opendir(directory_.c_str());
  if (directory == nullptr) return DiskError(errno, directory_ + ": cannot list");
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* const entry = readdir(directory)) {
    const std::string name = entry->d_name;
    if (name != "." && name != ".." && name != kProbeName) names.push_back(name);
  }
  const int error = errno;
  closedir(directory);
  if (error != 0) return DiskError(error, directory_ + ": listing");
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status LinuxDisk::SyncDirectory() {
  if (fsync(directory_fd_) == 0) return absl::OkStatus();
  return DiskError(errno, directory_ + ": fsync");
}

absl::StatusOr<uint64_t> LinuxDisk::FreeBytes() {
  struct statfs status {};
  if (fstatfs(directory_fd_, &status) != 0) return DiskError(errno, directory_ + ": fstatfs");
  return static_cast<uint64_t>(status.f_bavail) * static_cast<uint64_t>(status.f_bsize);
}

void LinuxDisk::Read(std::vector<DiskRead> reads, ReadsDone done) {
  if (reads.empty()) {
    done({});
    return;
  }
  std::vector<int> fds;
  for (const DiskRead& read : reads) {
    CHECK(read.offset % kPageBytes == 0 && read.into.size() % kPageBytes == 0)
        << read.offset << " " << read.into.size();
    CHECK(reinterpret_cast<uintptr_t>(read.into.data()) % kPageBytes == 0)
        << "not at a page's boundary";
    const auto* const file = dynamic_cast<const LinuxFile*>(read.file.get());
    CHECK(file != nullptr) << "a file of another disk";
    fds.push_back(file->fd());
  }
  reads_->Submit(std::make_shared<ReadBatch>(std::move(reads), std::move(fds), std::move(done)));
}

}  // namespace sounder::kv_node
