// Which operations of a disk fail, for the disks of tests (faulty_disk.h, unsynced_files.h).
#ifndef SOUNDER_KV_NODE_STORE_DISK_FAULTS_H_
#define SOUNDER_KV_NODE_STORE_DISK_FAULTS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "common/base/philox.h"

namespace sounder::kv_node {

enum class DiskFault {
  kReadError,           // one read of a batch: DATA_LOSS
  kReadFlip,            // one bit of what a read returns is flipped, silently
  kWriteError,          // an append writes nothing: DATA_LOSS
  kNoSpace,             // an append, after some of it: RESOURCE_EXHAUSTED
  kShortWrite,          // an append, after some of it: DATA_LOSS
  kSyncError,           // a file's sync: DATA_LOSS; what it covered may be lost with the power
  kDirectorySyncError,  // the same of the directory
};
inline constexpr size_t kDiskFaults = 7;
const char* NameOf(DiskFault fault);

// Indexed by DiskFault.
using DiskFaultProbabilities = std::array<double, kDiskFaults>;
using DiskFaultCounts = std::array<uint64_t, kDiskFaults>;

// A function of the seed and of the order of calls. Not thread safe.
class DiskFaults {
 public:
  // Per operation that can have the fault.
  DiskFaults(const DiskFaultProbabilities& probability, uint64_t seed)
      : probability_(probability), random_(seed, 0) {}

  // Beside the probabilities: the operation that is the nth from now of those that can have the
  // fault has it. nth >= 1.
  void Arm(DiskFault fault, uint64_t nth);
  // Whether the operation at hand has the fault.
  bool Draw(DiskFault fault);
  // What was done so far.
  const DiskFaultCounts& counts() const { return counts_; }

  void SetCapacity(uint64_t bytes) { capacity_ = bytes; }
  // Bytes that may still be written, of a disk that holds so many.
  uint64_t Room(uint64_t used) const { return used < capacity_ ? capacity_ - used : 0; }

  base::PhiloxStream& random() { return random_; }

 private:
  const DiskFaultProbabilities probability_;
  base::PhiloxStream random_;
  DiskFaultCounts armed_{};
  DiskFaultCounts counts_{};
  uint64_t capacity_ = std::numeric_limits<uint64_t>::max();
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_DISK_FAULTS_H_
