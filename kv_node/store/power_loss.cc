#include "kv_node/store/power_loss.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {
namespace {

constexpr size_t kSectorBytes = 512;  // written whole or not at all

}  // namespace

absl::StatusOr<std::unique_ptr<CachedDirectory>> CachedDirectory::Open(Disk* below) {
  std::unique_ptr<CachedDirectory> directory(new CachedDirectory(below));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, below->List());
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(std::shared_ptr<DiskFile> file, below->Open(name));
    auto cached = std::make_shared<CachedFile>();
    cached->flushed = cached->synced = cached->size = file->size();
    cached->below = std::move(file);
    directory->names_[name] = directory->durable_[name] = std::move(cached);
  }
  return directory;
}

absl::StatusOr<std::shared_ptr<CachedFile>> CachedDirectory::Create(const std::string& name) {
  const auto [entry, is_new] = names_.try_emplace(name, nullptr);
  if (!is_new) return absl::AlreadyExistsError(name + ": cannot create: it is there");
  entry->second = std::make_shared<CachedFile>();
  changes_.push_back({entry->second, name});
  return entry->second;
}

absl::StatusOr<std::shared_ptr<CachedFile>> CachedDirectory::Find(const std::string& name) const {
  const auto entry = names_.find(name);
  if (entry == names_.end()) return absl::NotFoundError(name + ": no such file");
  return entry->second;
}

absl::Status CachedDirectory::Remove(const std::string& name) {
  ASSIGN_OR_RETURN(std::shared_ptr<CachedFile> file, Find(name));
  names_.erase(name);
  changes_.push_back({std::move(file), name, true});
  return absl::OkStatus();
}

std::vector<std::string> CachedDirectory::List() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : names_) names.push_back(name);
  return names;
}

uint64_t CachedDirectory::Bytes() const {
  uint64_t bytes = 0;
  for (const auto& [name, file] : names_) bytes += file->size;
  return bytes;
}

absl::Status CachedDirectory::Flush(CachedFile& file, uint64_t end) {
  if (end == file.flushed) return absl::OkStatus();
  const size_t bytes = end - file.flushed;
  PageBuffer pages(bytes);
  std::copy_n(file.tail.begin(), bytes, pages.data());
  RETURN_IF_ERROR(file.below->Append(pages.bytes()).status());
  file.tail.erase(file.tail.begin(), file.tail.begin() + static_cast<std::ptrdiff_t>(bytes));
  file.flushed = end;
  return absl::OkStatus();
}

absl::Status CachedDirectory::SyncFile(CachedFile& file) {
  if (file.below != nullptr) {
    RETURN_IF_ERROR(Flush(file, file.size));
    RETURN_IF_ERROR(file.below->Sync());
  }
  file.synced = file.size;
  return absl::OkStatus();
}

absl::Status CachedDirectory::Apply(const Change& change) {
  // By the file, not by the name: after a crash earlier changes of the same name may be missing.
  const auto there = durable_.find(change.name);
  const bool is_it = there != durable_.end() && there->second == change.file;
  if (change.removed ? !is_it : change.file->below != nullptr) return absl::OkStatus();
  if (there != durable_.end()) {
    RETURN_IF_ERROR(below_->Remove(change.name));
    durable_.erase(there);
  }
  if (change.removed) return absl::OkStatus();
  ASSIGN_OR_RETURN(change.file->below, below_->Create(change.name));
  durable_[change.name] = change.file;
  return absl::OkStatus();
}

absl::Status CachedDirectory::SyncDirectory() {
  while (!changes_.empty()) {
    const Change change = changes_.front();
    RETURN_IF_ERROR(Apply(change));
    changes_.erase(changes_.begin());
    if (change.removed || change.file->flushed >= change.file->synced) continue;
    RETURN_IF_ERROR(Flush(*change.file, change.file->synced));
    RETURN_IF_ERROR(change.file->below->Sync());
  }
  return below_->SyncDirectory();
}

absl::Status CachedDirectory::Tear(CachedFile& file, base::PhiloxStream& random) {
  RETURN_IF_ERROR(Flush(file, file.synced));
  const size_t pages = file.tail.size() / kPageBytes;
  const size_t kept = random.NextBelow(static_cast<uint32_t>(pages + 1));
  // Nothing torn, some sectors, most of them.
  const uint32_t quarters_lost = random.NextBelow(4);
  for (size_t at = 0; at < kept * kPageBytes; at += kSectorBytes) {
    if (random.NextBelow(4) >= quarters_lost) continue;
    std::fill_n(file.tail.begin() + static_cast<std::ptrdiff_t>(at), kSectorBytes, std::byte{0});
  }
  RETURN_IF_ERROR(Flush(file, file.flushed + kept * kPageBytes));
  return file.below->Sync();
}

absl::Status CachedDirectory::Crash(base::PhiloxStream& random) {
  // Half of the time as journals do it, the first changes and no later ones; else any of them.
  const bool in_order = random.NextBelow(2) == 0;
  const size_t first = random.NextBelow(static_cast<uint32_t>(changes_.size() + 1));
  for (size_t i = 0; i < changes_.size(); ++i) {
    if (in_order ? i >= first : random.NextBelow(2) == 0) continue;
    RETURN_IF_ERROR(Apply(changes_[i]));
  }
  for (const auto& [name, file] : durable_) RETURN_IF_ERROR(Tear(*file, random));
  return below_->SyncDirectory();
}

}  // namespace sounder::kv_node
