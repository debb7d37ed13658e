#include "kv_node/store/disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sounder::kv_node {

std::vector<absl::Status> ReadAndWait(Disk& disk, std::vector<DiskRead> reads) {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  std::vector<absl::Status> result;
  disk.Read(std::move(reads), [&](std::span<const absl::Status> statuses) {
    const std::lock_guard lock(mutex);
    result.assign(statuses.begin(), statuses.end());
    done = true;
    changed.notify_all();  // under the lock: the waiter destroys it
  });
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return done; });
  return result;
}

absl::Status MakeDurableFolder(const std::string& folder) {
  if (mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) {
    const char* const why = errno == ENOENT ? ": cannot be made, as its parent does not exist"
                                            : ": cannot make the folder";
    return DiskError(errno, folder + why);
  }
  const std::string parent = folder + "/..";
  const int fd = open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return DiskError(errno, parent + ": cannot open");
  const int error = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  return error == 0 ? absl::OkStatus() : DiskError(error, parent + ": fsync");
}

absl::Status DiskError(int error_number, const std::string& what) {
  if (error_number == EIO) return absl::DataLossError(absl::StrCat(what, ": input/output error"));
  return absl::ErrnoToStatus(error_number, what);
}

}  // namespace sounder::kv_node
