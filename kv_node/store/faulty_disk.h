// Wraps a disk and misbehaves from a seed, for tests of everything above: reads, writes and syncs
// that fail, a full disk, bits that flip, and a loss of power, after which nothing is left but what
// the promises of disk.h cover, and a random part of the rest (power_loss.h).
//
// It holds back in memory what is not synced, so also a killed process leaves just what was
// durable.
#ifndef SOUNDER_KV_NODE_STORE_FAULTY_DISK_H_
#define SOUNDER_KV_NODE_STORE_FAULTY_DISK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/executor.h"
#include "kv_node/store/disk.h"
#include "kv_node/store/disk_faults.h"
#include "kv_node/store/power_loss.h"

namespace sounder::kv_node {

struct DiskFaultOptions {
  DiskFaultProbabilities probability{};
  // Reads complete on it, read_delay later. Null: on a thread of the disk's own, at once.
  base::Executor* executor = nullptr;
  base::Duration read_delay{0};
};

// Thread safe. What happens is a function of the seed and of the order of operations.
class FaultyDisk final : public Disk {
 public:
  // `below` outlives the disk, and nobody else changes its directory.
  static absl::StatusOr<std::unique_ptr<FaultyDisk>> Start(Disk* below, DiskFaultOptions options,
                                                           uint64_t seed);
  ~FaultyDisk() override;

  const DiskProperties& properties() const override { return below_->properties(); }
  absl::StatusOr<std::shared_ptr<DiskFile>> Create(const std::string& name) override;
  absl::StatusOr<std::shared_ptr<DiskFile>> Open(const std::string& name) override;
  absl::Status Remove(const std::string& name) override;
  absl::StatusOr<std::vector<std::string>> List() override;
  absl::Status SyncDirectory() override;
  absl::StatusOr<uint64_t> FreeBytes() override;
  void Read(std::vector<DiskRead> reads, ReadsDone done) override;

  // See DiskFaults.
  void Arm(DiskFault fault, uint64_t nth = 1);
  // Appends beyond so many bytes of named files are kNoSpace. Freed pages do not count as free.
  void SetCapacity(uint64_t bytes);
  DiskFaultCounts FaultCounts() const;
  // The power goes: see power_loss.h. From here on everything is UNAVAILABLE; open another
  // FaultyDisk over the disk below for what comes after. Fails only if the disk below does.
  absl::Status Crash();

 private:
  class File;
  // Shared with the files, which may outlive the disk.
  struct State;

  FaultyDisk(Disk* below, DiskFaultOptions options, uint64_t seed,
             std::unique_ptr<CachedDirectory> directory);

  Disk* const below_;
  const base::Duration read_delay_;
  const std::shared_ptr<State> state_;
  const std::unique_ptr<base::Executor> own_executor_;  // null if one was given
  base::Executor* const executor_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_FAULTY_DISK_H_
