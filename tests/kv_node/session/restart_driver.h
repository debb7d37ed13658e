// A node that ends, as by a loss of power, and starts again on what was durable: sessions in
// virtual time, on a disk and on records that lose what was not synced.
#ifndef SOUNDER_TESTS_KV_NODE_SESSION_RESTART_DRIVER_H_
#define SOUNDER_TESTS_KV_NODE_SESSION_RESTART_DRIVER_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kv_node/session/session_restorer.h"
#include "kv_node/store/unsynced_files.h"
#include "tests/kv_node/session/tier_driver.h"

namespace sounder::kv_node {

// One run of the node. Its disks outlive its sessions.
class NodeRun : public SessionDriver {
 public:
  struct Disks {
    std::unique_ptr<LinuxDisk> linux_disk;
    std::unique_ptr<FaultyDisk> disk;
    std::unique_ptr<UnsyncedFiles> files;
    std::unique_ptr<RecordStore> records;
    std::unique_ptr<SegmentLog> log;
    std::unique_ptr<SegmentStore> store;
  };

  // `disks` is filled in.
  NodeRun(const std::string& folder, uint64_t seed, Disks* disks)
      : SessionDriver({.memory_bytes = uint64_t{64} << 20}, seed,
                      [&](base::Executor* on) { return Start(folder, seed, on, disks); }) {
    const auto restored = map.Restore([](uint64_t) {});
    EXPECT_TRUE(restored.ok()) << restored.status();
    EXPECT_TRUE(restored->damaged.empty() && restored->unreadable.empty());
  }

 private:
  static SessionStores Start(const std::string& folder, uint64_t seed, base::Executor* on,
                             Disks* disks) {
    disks->linux_disk = *LinuxDisk::Start(folder + "/segments", {.direct = false});
    DiskFaultOptions faults;
    faults.executor = on;
    disks->disk = *FaultyDisk::Start(disks->linux_disk.get(), faults, seed);
    disks->files = *UnsyncedFiles::Start(folder + "/records", seed);
    disks->records = *RecordStore::Open(folder + "/records", {.files = disks->files.get()});
    VisitResult result;
    const auto live = SegmentsOfRecords(*disks->records, &result);
    EXPECT_TRUE(live.ok()) << live.status();
    disks->log = *SegmentLog::Open(disks->disk.get(), *live);
    disks->store = std::make_unique<SegmentStore>(disks->disk.get(), disks->log.get(), on);
    return {disks->store.get(), disks->records.get()};
  }
};

// The node, from run to run.
class RestartDriver {
 public:
  explicit RestartDriver(uint64_t seed) : seed_(seed) { Start(); }
  ~RestartDriver() { run_.reset(); }

  NodeRun& run() { return *run_; }
  NodeRun::Disks& disks() { return *disks_; }

  // Ends as if the power went, and starts again.
  void Crash() {
    EXPECT_TRUE(disks_->disk->Crash().ok());
    disks_->files->Crash();
    Restart();
  }
  // Ends and starts again.
  void Restart() {
    run_.reset();
    disks_.reset();
    ++seed_;
    Start();
  }

 private:
  void Start() {
    disks_ = std::make_unique<NodeRun::Disks>();
    run_ = std::make_unique<NodeRun>(folder_.path(), seed_, disks_.get());
  }

  const ScratchFolder folder_;
  uint64_t seed_;
  std::unique_ptr<NodeRun::Disks> disks_;
  std::unique_ptr<NodeRun> run_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_SESSION_RESTART_DRIVER_H_
