#include "kv_node/store/faulty_disk.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/base/thread_executor.h"

namespace sounder::kv_node {
namespace {

absl::Status PowerIsOff() { return absl::UnavailableError("the disk has no power"); }

}  // namespace

struct FaultyDisk::State {
  State(const DiskFaultProbabilities& probability, uint64_t seed,
        std::unique_ptr<CachedDirectory> cached)
      : faults(probability, seed), directory(std::move(cached)) {}

  std::mutex mutex;  // guards what follows, and the files of the directory
  DiskFaults faults;
  std::unique_ptr<CachedDirectory> directory;
  bool off = false;
};

class FaultyDisk::File final : public DiskFile {
 public:
  File(std::string name, std::shared_ptr<State> state, std::shared_ptr<CachedFile> cached)
      : name_(std::move(name)), state_(std::move(state)), cached_(std::move(cached)) {}

  const std::string& name() const override { return name_; }
  uint64_t size() const override {
    const std::lock_guard lock(state_->mutex);
    return cached_->size;
  }

  absl::StatusOr<uint64_t> Append(std::span<const std::byte> pages) override {
    CHECK(pages.size() % kPageBytes == 0) << pages.size();
    CHECK(reinterpret_cast<uintptr_t>(pages.data()) % kPageBytes == 0)
        << "not at a page's boundary";
    const std::lock_guard lock(state_->mutex);
    if (state_->off) return PowerIsOff();
    RETURN_IF_ERROR(cached_->broken);
    const std::string where = absl::StrCat(name_, ": writing ", pages.size(), " bytes: ");
    if (state_->faults.Draw(DiskFault::kWriteError)) {
      return absl::DataLossError(where + "input/output error (injected)");
    }
    const bool full = pages.size() > state_->faults.Room(state_->directory->Bytes());
    const bool no_space = state_->faults.Draw(DiskFault::kNoSpace);
    const bool cut = state_->faults.Draw(DiskFault::kShortWrite);
    size_t written = pages.size();
    if (full || no_space || cut) {
      written = state_->faults.random().NextBelow(static_cast<uint32_t>(written / kPageBytes)) *
                kPageBytes;
    }
    const size_t at = cached_->size - cached_->flushed;
    cached_->tail.resize(std::max(cached_->tail.size(), at + written));
    std::copy_n(pages.begin(), written, cached_->tail.begin() + static_cast<std::ptrdiff_t>(at));
    if (full || no_space) return absl::ResourceExhaustedError(where + "no space (injected)");
    if (cut) return absl::DataLossError(absl::StrCat(where, "only ", written, " (injected)"));
    return std::exchange(cached_->size, cached_->size + written);
  }

  absl::Status Sync() override {
    const std::lock_guard lock(state_->mutex);
    if (state_->off) return PowerIsOff();
    RETURN_IF_ERROR(cached_->broken);
    if (state_->faults.Draw(DiskFault::kSyncError)) {
      cached_->broken = absl::DataLossError(name_ + ": sync: input/output error (injected)");
    } else {
      cached_->broken = state_->directory->SyncFile(*cached_);
    }
    return cached_->broken;
  }

  absl::Status Free(uint64_t offset, uint64_t bytes) override {
    CHECK(offset % kPageBytes == 0 && bytes % kPageBytes == 0) << offset << " " << bytes;
    const std::lock_guard lock(state_->mutex);
    if (state_->off) return PowerIsOff();
    CHECK(offset + bytes <= cached_->size) << offset << " " << bytes;
    const uint64_t middle = std::clamp(cached_->flushed, offset, offset + bytes);
    if (middle > offset) RETURN_IF_ERROR(cached_->below->Free(offset, middle - offset));
    const uint64_t in_tail = middle - cached_->flushed;
    if (offset + bytes > middle) {
      std::fill_n(cached_->tail.begin() + static_cast<std::ptrdiff_t>(in_tail),
                  offset + bytes - middle, std::byte{0});
    }
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> AllocatedBytes() const override {
    const std::lock_guard lock(state_->mutex);
    if (state_->off) return PowerIsOff();
    const uint64_t cached = cached_->size - cached_->flushed;
    if (cached_->below == nullptr) return cached;
    ASSIGN_OR_RETURN(const uint64_t below, cached_->below->AllocatedBytes());
    return below + cached;
  }

  // Answers `read` from the tail as far as it can; what is left is added to `below` as the read of
  // number `index`. mutex held.
  absl::Status ReadCached(const DiskRead& read, size_t index, std::vector<DiskRead>& below,
                          std::vector<size_t>& below_index) const {
    if (read.offset + read.into.size() > cached_->size) {
      return absl::DataLossError(absl::StrCat(name_, ": reading ", read.into.size(), " bytes at ",
                                              read.offset, ": the file ends before"));
    }
    const uint64_t end = read.offset + read.into.size();
    const uint64_t middle = std::clamp(cached_->flushed, read.offset, end);
    const size_t from_below = middle - read.offset;
    if (from_below > 0) {
      below.push_back({cached_->below, read.offset, read.into.first(from_below)});
      below_index.push_back(index);
    }
    if (end > middle) {
      std::copy_n(cached_->tail.begin() + static_cast<std::ptrdiff_t>(middle - cached_->flushed),
                  end - middle, read.into.begin() + static_cast<std::ptrdiff_t>(from_below));
    }
    return absl::OkStatus();
  }

 private:
  const std::string name_;
  const std::shared_ptr<State> state_;
  const std::shared_ptr<CachedFile> cached_;
};

absl::StatusOr<std::unique_ptr<FaultyDisk>> FaultyDisk::Start(Disk* below, DiskFaultOptions options,
                                                              uint64_t seed) {
  ASSIGN_OR_RETURN(auto directory, CachedDirectory::Open(below));
  return std::unique_ptr<FaultyDisk>(new FaultyDisk(below, options, seed, std::move(directory)));
}

FaultyDisk::FaultyDisk(Disk* below, DiskFaultOptions options, uint64_t seed,
                       std::unique_ptr<CachedDirectory> directory)
    : below_(below),
      read_delay_(options.read_delay),
      state_(std::make_shared<State>(options.probability, seed, std::move(directory))),
      own_executor_(options.executor == nullptr
                        ? std::make_unique<base::ThreadExecutor>(1, "faulty_disk")
                        : nullptr),
      executor_(options.executor == nullptr ? own_executor_.get() : options.executor) {}

FaultyDisk::~FaultyDisk() = default;

absl::StatusOr<std::shared_ptr<DiskFile>> FaultyDisk::Create(const std::string& name) {
  const std::lock_guard lock(state_->mutex);
  if (state_->off) return PowerIsOff();
  ASSIGN_OR_RETURN(auto cached, state_->directory->Create(name));
  return std::make_shared<File>(name, state_, std::move(cached));
}

absl::StatusOr<std::shared_ptr<DiskFile>> FaultyDisk::Open(const std::string& name) {
  const std::lock_guard lock(state_->mutex);
  if (state_->off) return PowerIsOff();
  ASSIGN_OR_RETURN(auto cached, state_->directory->Find(name));
  return std::make_shared<File>(name, state_, std::move(cached));
}

absl::Status FaultyDisk::Remove(const std::string& name) {
  const std::lock_guard lock(state_->mutex);
  if (state_->off) return PowerIsOff();
  return state_->directory->Remove(name);
}

absl::StatusOr<std::vector<std::string>> FaultyDisk::List() {
  const std::lock_guard lock(state_->mutex);
  if (state_->off) return PowerIsOff();
  return state_->directory->List();
}

absl::Status FaultyDisk::SyncDirectory() {
  const std::lock_guard lock(state_->mutex);
  if (state_->off) return PowerIsOff();
  if (state_->faults.Draw(DiskFault::kDirectorySyncError)) {
    return absl::DataLossError("directory: sync: input/output error (injected)");
  }
  return state_->directory->SyncDirectory();
}

absl::StatusOr<uint64_t> FaultyDisk::FreeBytes() {
  const std::lock_guard lock(state_->mutex);
  if (state_->off) return PowerIsOff();
  ASSIGN_OR_RETURN(const uint64_t below, below_->FreeBytes());
  return std::min(below, state_->faults.Room(state_->directory->Bytes()));
}

void FaultyDisk::Read(std::vector<DiskRead> reads, ReadsDone done) {
  if (reads.empty()) {
    done({});
    return;
  }
  std::vector<absl::Status> statuses(reads.size());
  std::vector<DiskRead> below;
  std::vector<size_t> below_index;
  std::vector<std::byte*> flips;  // what to flip a bit of, when all is read
  const std::lock_guard lock(state_->mutex);
  for (size_t i = 0; i < reads.size(); ++i) {
    const auto* const file = dynamic_cast<const File*>(reads[i].file.get());
    CHECK(file != nullptr) << "a file of another disk";
    if (state_->off) {
      statuses[i] = PowerIsOff();
    } else if (state_->faults.Draw(DiskFault::kReadError)) {
      statuses[i] = absl::DataLossError(file->name() + ": input/output error (injected)");
    } else {
      statuses[i] = file->ReadCached(reads[i], i, below, below_index);
      if (statuses[i].ok() && !reads[i].into.empty() && state_->faults.Draw(DiskFault::kReadFlip)) {
        const auto size = static_cast<uint32_t>(reads[i].into.size());
        flips.push_back(reads[i].into.data() + state_->faults.random().NextBelow(size));
      }
    }
  }
  auto finish = [disk = below_, statuses = std::move(statuses), below = std::move(below),
                 below_index = std::move(below_index), flips = std::move(flips),
                 done = std::move(done)]() mutable {
    const std::vector<absl::Status> results = ReadAndWait(*disk, std::move(below));
    for (size_t i = 0; i < results.size(); ++i) statuses[below_index[i]].Update(results[i]);
    for (std::byte* const byte : flips) *byte ^= std::byte{0x10};
    done(statuses);
  };
  if (read_delay_ > base::Duration::zero()) {
    executor_->RunAt(executor_->clock().Now() + read_delay_, std::move(finish));
  } else {
    executor_->Run(std::move(finish));
  }
}

void FaultyDisk::Arm(DiskFault fault, uint64_t nth) {
  const std::lock_guard lock(state_->mutex);
  state_->faults.Arm(fault, nth);
}

void FaultyDisk::SetCapacity(uint64_t bytes) {
  const std::lock_guard lock(state_->mutex);
  state_->faults.SetCapacity(bytes);
}

DiskFaultCounts FaultyDisk::FaultCounts() const {
  const std::lock_guard lock(state_->mutex);
  return state_->faults.counts();
}

absl::Status FaultyDisk::Crash() {
  const std::lock_guard lock(state_->mutex);
  CHECK(!state_->off) << "crashed twice";
  state_->off = true;
  return state_->directory->Crash(state_->faults.random());
}

}  // namespace sounder::kv_node
