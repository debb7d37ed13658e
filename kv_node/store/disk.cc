#include "kv_node/store/disk.h"

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

absl::Status DiskError(int error_number, const std::string& what) {
  if (error_number == EIO) return absl::DataLossError(absl::StrCat(what, ": input/output error"));
  return absl::ErrnoToStatus(error_number, what);
}

}  // namespace sounder::kv_node
