#include "kv_node/store/segment_log.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {
namespace {

constexpr std::string_view kPrefix = "segments.";
constexpr uint64_t kSmallestSegment = 4 * kPageBytes;

std::string NameOf(uint64_t number) { return absl::StrCat(kPrefix.data(), number); }

std::optional<uint64_t> NumberOf(std::string_view name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::string_view digits = name.substr(kPrefix.size());
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), number);
  if (error != std::errc() || end != digits.end() || number == 0) return std::nullopt;
  return number;
}

bool ByPlace(const LiveSegment& a, const LiveSegment& b) {
  return std::pair(a.place.file, a.place.offset) < std::pair(b.place.file, b.place.offset);
}

// Frees what lies between the segments of a file, sorted by offset. Not supported is no fault.
absl::Status FreeGaps(DiskFile& file, std::span<const LiveSegment> live) {
  uint64_t at = 0;
  const auto free_until = [&](uint64_t end) {
    if (end <= at) return absl::OkStatus();
    const absl::Status status = file.Free(at, end - at);
    return absl::IsUnimplemented(status) ? absl::OkStatus() : status;
  };
  for (const LiveSegment& segment : live) {
    RETURN_IF_ERROR(free_until(std::min(segment.place.offset, file.size())));
    at = std::max(at, segment.place.offset + segment.bytes);
  }
  return free_until(file.size());
}

}  // namespace

absl::StatusOr<std::unique_ptr<SegmentLog>> SegmentLog::Open(Disk* disk,
                                                             std::span<const LiveSegment> live,
                                                             SegmentLogOptions options) {
  std::unique_ptr<SegmentLog> log(new SegmentLog(disk, options));
  std::vector<LiveSegment> sorted(live.begin(), live.end());
  std::sort(sorted.begin(), sorted.end(), ByPlace);
  ASSIGN_OR_RETURN(const std::vector<std::string> names, disk->List());
  for (const std::string& name : names) {
    const std::optional<uint64_t> number = NumberOf(name);
    if (!number) continue;
    const auto begin =
        std::lower_bound(sorted.begin(), sorted.end(), LiveSegment{.place = {*number, 0}}, ByPlace);
    const auto end =
        std::lower_bound(begin, sorted.end(), LiveSegment{.place = {*number + 1, 0}}, ByPlace);
    RETURN_IF_ERROR(log->Adopt(name, *number, {begin, end}));
  }
  // Numbers of files that are gone are not used again while records name them.
  if (!sorted.empty()) log->next_ = std::max(log->next_, sorted.back().place.file + 1);
  return log;
}

absl::Status SegmentLog::Adopt(const std::string& name, uint64_t number,
                               std::span<const LiveSegment> live) {
  next_ = std::max(next_, number + 1);
  if (live.empty()) {
    ++removed_files_;
    return disk_->Remove(name);
  }
  ASSIGN_OR_RETURN(std::shared_ptr<DiskFile> file, disk_->Open(name));
  File& entry = files_[number];
  entry.file = file;
  entry.synced = file->size();
  entry.name_synced = true;
  for (const LiveSegment& segment : live) entry.live_bytes += segment.bytes;
  ASSIGN_OR_RETURN(const uint64_t allocated, file->AllocatedBytes());
  // Every gap is a hole already; file systems count some blocks of their own.
  if (allocated < entry.live_bytes + kSmallestSegment) return absl::OkStatus();
  RETURN_IF_ERROR(FreeGaps(*file, live));
  ASSIGN_OR_RETURN(const uint64_t left, file->AllocatedBytes());
  freed_bytes_ += allocated - std::min(allocated, left);
  return absl::OkStatus();
}

bool SegmentLog::Leave(uint64_t number) {
  if (current_ == number) current_ = 0;
  const auto entry = files_.find(number);
  if (entry == files_.end() || entry->second.live_bytes > 0) return false;
  files_.erase(entry);
  return true;
}

absl::StatusOr<std::pair<uint64_t, std::shared_ptr<DiskFile>>> SegmentLog::FileForAppend(
    uint64_t bytes) {
  uint64_t number = 0;
  {
    const std::lock_guard lock(mutex_);
    if (current_ != 0) {
      File& current = files_.at(current_);
      if (current.file->size() < options_.file_bytes) {
        current.live_bytes += bytes;
        return std::pair(current_, current.file);
      }
    }
    number = next_++;
  }
  ASSIGN_OR_RETURN(std::shared_ptr<DiskFile> file, disk_->Create(NameOf(number)));
  uint64_t old = 0;
  bool empty = false;
  {
    const std::lock_guard lock(mutex_);
    old = current_;
    // Everything in the old one may have been freed while it was appended to.
    empty = Leave(old);
    current_ = number;
    files_[number].file = file;
    files_[number].live_bytes = bytes;
  }
  // If that fails the next start removes it.
  if (empty) disk_->Remove(NameOf(old)).IgnoreError();
  return std::pair(number, std::move(file));
}

absl::StatusOr<WrittenSegment> SegmentLog::Append(const SegmentContent& content) {
  const StoredShape shape = ShapeOf(content);
  PageBuffer image = EncodeSegment(content);
  const std::lock_guard append_lock(append_mutex_);
  ASSIGN_OR_RETURN(const auto target, FileForAppend(image.size()));
  const absl::StatusOr<uint64_t> offset = target.second->Append(image.bytes());
  if (!offset.ok()) {
    bool empty = false;
    {
      const std::lock_guard lock(mutex_);
      files_.at(target.first).live_bytes -= image.size();
      // A file that is merely full goes on when there is space, unless a sync of it failed
      // meanwhile.
      if (!absl::IsResourceExhausted(offset.status()) || current_ != target.first) {
        empty = Leave(target.first);
      }
    }
    if (empty) disk_->Remove(NameOf(target.first)).IgnoreError();
    return offset.status();
  }
  return WrittenSegment{{target.first, *offset},
                        SegmentReader::OfWritten(target.second, *offset, shape,
                                                 RowChecksumsOf(shape, image.bytes()))};
}

absl::Status SegmentLog::MakeDurable(std::span<const SegmentPlace> places) {
  std::map<uint64_t, uint64_t> ends;  // of the files: the last segment begins before
  for (const SegmentPlace& place : places) {
    uint64_t& end = ends[place.file];
    end = std::max(end, place.offset + 1);
  }
  absl::Status status;
  for (const auto& [number, end] : ends) status.Update(SyncFile(number, end));
  return status;
}

absl::Status SegmentLog::SyncFile(uint64_t number, uint64_t end) {
  const std::lock_guard sync_lock(sync_mutex_);
  std::shared_ptr<DiskFile> file;
  bool name_synced = false;
  {
    const std::lock_guard lock(mutex_);
    const auto entry = files_.find(number);
    if (entry == files_.end()) return absl::OkStatus();  // all in it was freed meanwhile
    name_synced = entry->second.name_synced;
    // Appended whole before whoever waits for it came here. What is durable stays so, also if a
    // later sync failed.
    if (entry->second.synced >= end && name_synced) return absl::OkStatus();
    RETURN_IF_ERROR(entry->second.broken);
    file = entry->second.file;
  }
  const uint64_t size = file->size();  // appends go on meanwhile: this much is covered
  const absl::Status file_status = file->Sync();
  absl::Status status = file_status;
  if (status.ok() && !name_synced) status = disk_->SyncDirectory();
  bool empty = false;
  {
    const std::lock_guard lock(mutex_);
    const auto entry = files_.find(number);
    if (entry == files_.end()) return status;
    if (status.ok()) {
      entry->second.synced = size;
      entry->second.name_synced = true;
    } else {
      entry->second.broken = file_status;
      empty = Leave(number);
    }
  }
  if (empty) disk_->Remove(NameOf(number)).IgnoreError();
  return status;
}

absl::Status SegmentLog::Free(const LiveSegment& segment) {
  std::shared_ptr<DiskFile> file;  // null: nothing is left in it
  {
    const std::lock_guard lock(mutex_);
    const auto entry = files_.find(segment.place.file);
    if (entry == files_.end()) return absl::OkStatus();  // the file was missing at the start
    CHECK(entry->second.live_bytes >= segment.bytes) << "freed twice: " << segment.place.offset;
    entry->second.live_bytes -= segment.bytes;
    if (entry->second.live_bytes == 0 && segment.place.file != current_) {
      files_.erase(entry);
    } else {
      file = entry->second.file;
    }
  }
  if (file == nullptr) return disk_->Remove(NameOf(segment.place.file));
  // A lost segment may lie behind the file's end.
  if (segment.place.offset + segment.bytes > file->size()) return absl::OkStatus();
  const absl::Status status = file->Free(segment.place.offset, segment.bytes);
  return absl::IsUnimplemented(status) ? absl::OkStatus() : status;
}

absl::StatusOr<std::shared_ptr<DiskFile>> SegmentLog::FileOf(const SegmentPlace& place) const {
  const std::lock_guard lock(mutex_);
  const auto entry = files_.find(place.file);
  if (entry != files_.end()) return entry->second.file;
  return absl::DataLossError(NameOf(place.file) + ": the file of a segment is missing");
}

SegmentLogCounts SegmentLog::counts() const {
  const std::lock_guard lock(mutex_);
  SegmentLogCounts counts{.files = files_.size(),
                          .live_bytes = 0,
                          .removed_files = removed_files_,
                          .freed_bytes = freed_bytes_};
  for (const auto& [number, file] : files_) counts.live_bytes += file.live_bytes;
  return counts;
}

}  // namespace sounder::kv_node
