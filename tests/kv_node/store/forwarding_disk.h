// A disk over another one, for tests to change what they want of it.
#ifndef SOUNDER_TESTS_KV_NODE_STORE_FORWARDING_DISK_H_
#define SOUNDER_TESTS_KV_NODE_STORE_FORWARDING_DISK_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kv_node/store/disk.h"

namespace sounder::kv_node {

// The disk below outlives it.
class ForwardingDisk : public Disk {
 public:
  explicit ForwardingDisk(Disk* below) : below_(below) {}

  const DiskProperties& properties() const override { return below_->properties(); }
  absl::StatusOr<std::shared_ptr<DiskFile>> Create(const std::string& name) override {
    return below_->Create(name);
  }
  absl::StatusOr<std::shared_ptr<DiskFile>> Open(const std::string& name) override {
    return below_->Open(name);
  }
  absl::Status Remove(const std::string& name) override { return below_->Remove(name); }
  absl::StatusOr<std::vector<std::string>> List() override { return below_->List(); }
  absl::Status SyncDirectory() override { return below_->SyncDirectory(); }
  absl::StatusOr<uint64_t> FreeBytes() override { return below_->FreeBytes(); }
  void Read(std::vector<DiskRead> reads, ReadsDone done) override {
    below_->Read(std::move(reads), std::move(done));
  }

 protected:
  Disk& below() { return *below_; }

 private:
  Disk* const below_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_STORE_FORWARDING_DISK_H_
