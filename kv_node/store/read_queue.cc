#include "kv_node/store/read_queue.h"

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace sounder::kv_node {

bool ReadIsOver(ReadInFlight& read, int64_t result, absl::Status& status) {
  const DiskRead& asked = read.batch->read(read.index);
  const auto where = [&] {
    return absl::StrCat(asked.file->name(), ": reading ", asked.into.size(), " bytes at ",
                        asked.offset);
  };
  // ECANCELED: io_uring, when the thread that submitted the read has ended.
  if (result == -EINTR || result == -EAGAIN || result == -ECANCELED) return false;
  if (result < 0) {
    status = DiskError(static_cast<int>(-result), where());
    return true;
  }
  read.got += static_cast<size_t>(result);
  if (read.got == asked.into.size()) return true;
  // Direct reads stop inside a page only where the file ends.
  if (result > 0 && read.got % kPageBytes == 0) return false;
  status = absl::DataLossError(
      absl::StrCat(where(), ": the file ends before, only ", read.got, " are there"));
  return true;
}

}  // namespace sounder::kv_node
