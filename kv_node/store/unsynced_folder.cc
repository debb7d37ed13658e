#include "kv_node/store/unsynced_folder.h"

#include <rocksdb/slice.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace sounder::kv_node {
namespace {

using rocksdb::IOStatus;
using rocksdb::Slice;

constexpr size_t kSectorBytes = 512;  // written whole or not at all

IOStatus PowerIsOff() { return IOStatus::IOError("the disk has no power"); }
IOStatus Injected(const std::string& what) {
  return IOStatus::IOError(what + ": input/output error (injected)");
}

}  // namespace

absl::Status UnsyncedFolder::Load() {
  std::error_code error;
  std::filesystem::create_directories(path_, error);
  if (error) return absl::UnavailableError(absl::StrCat(path_, ": ", error.message()));
  for (const auto& entry : std::filesystem::directory_iterator(path_)) {
    const std::string name = entry.path().filename();
    if (name == "LOCK") continue;
    std::ifstream file(entry.path(), std::ios::binary);
    auto node = std::make_shared<Node>();
    node->bytes.assign(std::istreambuf_iterator<char>(file), {});
    node->synced = node->flushed = node->bytes.size();
    node->below = name;
    node->was_below = true;
    names_[name] = durable_[name] = std::move(node);
  }
  return absl::OkStatus();
}

void UnsyncedFolder::Flush(Node& node) {
  if (node.below.empty() || node.flushed >= node.synced) return;
  std::ofstream file(PathOf(node.below), std::ios::binary | std::ios::app);
  file.write(node.bytes.data() + node.flushed,
             static_cast<std::streamsize>(node.synced - node.flushed));
  CHECK(file.flush().good()) << PathOf(node.below);
  node.flushed = node.synced;
}

void UnsyncedFolder::Apply(const Change& change) {
  // By the file, not by the name: after a crash earlier changes of the same name may be missing.
  Node& node = *change.node;
  const bool is_there = !change.from.empty() && node.below == change.from;
  if (change.to.empty() ? !is_there : !is_there && node.was_below) return;
  if (const auto replaced = durable_.find(change.to); replaced != durable_.end()) {
    replaced->second->below.clear();
  }
  if (change.to.empty()) {
    CHECK(std::filesystem::remove(PathOf(change.from))) << change.from;
  } else if (is_there) {
    std::filesystem::rename(PathOf(change.from), PathOf(change.to));
  } else {
    CHECK(std::ofstream(PathOf(change.to), std::ios::binary | std::ios::trunc).good()) << change.to;
  }
  if (is_there) durable_.erase(change.from);
  node.below = change.to;
  node.was_below = true;
  if (change.to.empty()) return;
  durable_[change.to] = change.node;
  Flush(node);
}

void UnsyncedFolder::Crash() {
  const std::lock_guard lock(mutex_);
  CrashLocked();
}

void UnsyncedFolder::CrashAt(uint64_t nth) {
  const std::lock_guard lock(mutex_);
  crash_in_ = nth;
}

bool UnsyncedFolder::StopsHere() {
  if (crash_in_ > 0 && --crash_in_ == 0) CrashLocked();
  return off_;
}

// Of what was not synced nothing, all, or a part survives.
void UnsyncedFolder::Tear(Node& node, bool sectors) {
  const size_t begin = node.synced, unsynced = node.bytes.size() - begin;
  const uint32_t how = faults_.random().NextBelow(4);
  if (how == 0) return;
  node.synced +=
      how == 1 ? unsynced : faults_.random().NextBelow(static_cast<uint32_t>(unsynced + 1));
  if (how < 3 || !sectors) return;
  for (size_t at = begin; at < node.synced; at = (at / kSectorBytes + 1) * kSectorBytes) {
    if (faults_.random().NextBelow(3) != 0) continue;
    const size_t end = std::min((at / kSectorBytes + 1) * kSectorBytes, node.synced);
    std::fill(node.bytes.begin() + static_cast<std::ptrdiff_t>(at),
              node.bytes.begin() + static_cast<std::ptrdiff_t>(end), '\0');
  }
}

void UnsyncedFolder::CrashLocked() {
  if (off_) return;
  off_ = true;
  // As journals do it: the first changes and no later ones.
  const size_t survive = faults_.random().NextBelow(static_cast<uint32_t>(changes_.size() + 1));
  for (size_t i = 0; i < survive; ++i) Apply(changes_[i]);
  for (const auto& [name, node] : durable_) {
    Tear(*node, name.ends_with(".log"));
    Flush(*node);
  }
}

IOStatus UnsyncedFolder::Append(Node& node, const std::string& name, const Slice& data) {
  const std::lock_guard lock(mutex_);
  if (StopsHere()) return PowerIsOff();
  if (node.broken || faults_.Draw(DiskFault::kWriteError)) return Injected(name);
  const uint64_t room = faults_.Room(NamedBytes());
  const bool full = data.size() > room;
  const bool no_space = faults_.Draw(DiskFault::kNoSpace);
  const bool cut = faults_.Draw(DiskFault::kShortWrite);
  if (!full && !no_space && !cut) {
    node.bytes.append(data.data(), data.size());
    return IOStatus::OK();
  }
  const size_t most = std::min<uint64_t>(data.size(), room);
  node.bytes.append(data.data(), faults_.random().NextBelow(static_cast<uint32_t>(most + 1)));
  if (cut) return Injected(name);
  if (quota_) return IOStatus::IOError(name, std::strerror(EDQUOT));
  IOStatus status = IOStatus::NoSpace(name, "no space left on device (injected)");
  status.SetRetryable(true);  // as that of a real disk
  return status;
}

IOStatus UnsyncedFolder::Sync(Node& node, const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (StopsHere()) return PowerIsOff();
  if (!node.broken && faults_.Draw(DiskFault::kSyncError)) node.broken = true;
  if (node.broken) return Injected(name);
  node.synced = node.bytes.size();
  Flush(node);
  return IOStatus::OK();
}

IOStatus UnsyncedFolder::SyncNames() {
  const std::lock_guard lock(mutex_);
  if (StopsHere()) return PowerIsOff();
  if (faults_.Draw(DiskFault::kDirectorySyncError)) return Injected(path_);
  for (const Change& change : changes_) Apply(change);
  changes_.clear();
  return IOStatus::OK();
}

IOStatus UnsyncedFolder::Read(const Node& node, uint64_t offset, size_t n, Slice* result,
                              char* scratch) {
  const std::lock_guard lock(mutex_);
  if (off_) return PowerIsOff();
  if (faults_.Draw(DiskFault::kReadError)) return Injected("read");
  const size_t begin = std::min<uint64_t>(offset, node.bytes.size());
  const size_t size = std::min(n, node.bytes.size() - begin);
  std::copy_n(node.bytes.data() + begin, size, scratch);
  *result = Slice(scratch, size);
  return IOStatus::OK();
}

void UnsyncedFolder::SetCapacity(uint64_t bytes, bool quota) {
  const std::lock_guard lock(mutex_);
  quota_ = quota;
  faults_.SetCapacity(bytes);
}

void UnsyncedFolder::Arm(DiskFault fault, uint64_t nth) {
  const std::lock_guard lock(mutex_);
  faults_.Arm(fault, nth);
}

uint64_t UnsyncedFolder::Bytes() {
  const std::lock_guard lock(mutex_);
  return NamedBytes();
}

uint64_t UnsyncedFolder::SizeOf(const Node& node) {
  const std::lock_guard lock(mutex_);
  return node.bytes.size();
}

uint64_t UnsyncedFolder::NamedBytes() const {
  uint64_t bytes = 0;
  for (const auto& [name, node] : names_) bytes += node->bytes.size();
  return bytes;
}

IOStatus UnsyncedFolder::FindLocked(const std::string& name, NodePtr* node) const {
  if (off_) return PowerIsOff();
  const auto found = names_.find(name);
  if (found == names_.end()) return IOStatus::NotFound(name, "no such file or directory");
  *node = found->second;
  return IOStatus::OK();
}

IOStatus UnsyncedFolder::Find(const std::string& name, NodePtr* node) {
  const std::lock_guard lock(mutex_);
  return FindLocked(name, node);
}

IOStatus UnsyncedFolder::Create(const std::string& name, NodePtr* node) {
  const std::lock_guard lock(mutex_);
  if (StopsHere()) return PowerIsOff();
  *node = std::make_shared<Node>();
  NodePtr& entry = names_[name];
  if (entry != nullptr) changes_.push_back({entry, name, ""});
  entry = *node;
  changes_.push_back({*node, "", name});
  return IOStatus::OK();
}

IOStatus UnsyncedFolder::Remove(const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (StopsHere()) return PowerIsOff();
  NodePtr node;
  if (IOStatus status = FindLocked(name, &node); !status.ok()) return status;
  changes_.push_back({std::move(node), name, ""});
  names_.erase(name);
  return IOStatus::OK();
}

IOStatus UnsyncedFolder::Rename(const std::string& from, const std::string& to) {
  const std::lock_guard lock(mutex_);
  if (StopsHere()) return PowerIsOff();
  NodePtr node;
  if (IOStatus status = FindLocked(from, &node); !status.ok()) return status;
  names_.erase(from);
  names_[to] = node;
  changes_.push_back({std::move(node), from, to});
  return IOStatus::OK();
}

IOStatus UnsyncedFolder::List(std::vector<std::pair<std::string, uint64_t>>* files) {
  const std::lock_guard lock(mutex_);
  if (off_) return PowerIsOff();
  files->clear();
  for (const auto& [name, node] : names_) files->emplace_back(name, node->bytes.size());
  return IOStatus::OK();
}

}  // namespace sounder::kv_node
