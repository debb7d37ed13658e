#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <numeric>
#include <vector>

#include "bench/store/row_store.h"
#include "common/base/check.h"
#include "kv_node/store/linux_disk.h"
#include "kv_node/store/segment_reader.h"

namespace sounder::store_bench {
namespace {

using kv_node::SegmentReader;

class SegmentStore final : public RowStore {
 public:
  SegmentStore(const std::string& folder, const SegmentSize& size,
               const SegmentStoreOptions& options)
      : size_(size), options_(options) {
    auto disk = kv_node::LinuxDisk::Start(folder, {.uring = options.uring});
    CHECK(disk.ok()) << disk.status().ToString();
    disk_ = *std::move(disk);
    all_rows_.resize(size.rows);
    std::iota(all_rows_.begin(), all_rows_.end(), uint16_t{0});
  }

  void Write(size_t first, std::span<const std::span<const std::byte>> rows) override {
    std::vector<std::shared_ptr<kv_node::DiskFile>> unsynced;
    for (size_t i = 0; i < rows.size(); ++i) {
      if ((first + i) % options_.segments_per_file == 0) {
        auto file = disk_->Create("segments." + std::to_string(first + i));
        CHECK(file.ok()) << file.status().ToString();
        file_ = *std::move(file);
        new_name_ = true;
      }
      kv_node::PageBuffer image = kv_node::EncodeSegment(ContentOf(first + i, rows[i]));
      const auto offset = file_->Append(image.bytes());
      CHECK(offset.ok()) << offset.status().ToString();
      segments_.push_back(SegmentReader::OfWritten(file_, *offset, image.bytes()));
      if (unsynced.empty() || unsynced.back() != file_) unsynced.push_back(file_);
    }
    for (const auto& file : unsynced) CHECK(file->Sync().ok());
    if (new_name_) CHECK(disk_->SyncDirectory().ok());
    new_name_ = false;
  }

  void ReadRows(size_t segment, std::span<const uint16_t> rows,
                std::span<std::byte> into) override {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    absl::Status status;
    kv_node::ReadRows(
        *disk_,
        {{segments_[segment], rows, into.first(into.size() / 2), into.subspan(into.size() / 2)}},
        [&](std::span<const absl::Status> statuses, const kv_node::RowReadCounts&) {
          const std::lock_guard lock(mutex);
          status = statuses[0];
          done = true;
          changed.notify_all();
        });
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return done; });
    CHECK(status.ok()) << status.ToString();
  }

  void ReadSegment(size_t segment, std::span<std::byte> into) override {
    ReadRows(segment, all_rows_, into);
  }

  void Delete(size_t segment) override {
    const auto reader = std::exchange(segments_[segment], nullptr);
    if (options_.segments_per_file == 1) {
      CHECK(disk_->Remove("segments." + std::to_string(segment)).ok());
    } else {
      CHECK(reader->file()->Free(reader->offset(), reader->layout().bytes()).ok());
    }
  }

 private:
  kv_node::SegmentContent ContentOf(size_t number, std::span<const std::byte> rows) const {
    const auto half = static_cast<int64_t>(size_.row_bytes / 2);
    const memory::RowsView keys{rows.data(), static_cast<int64_t>(size_.rows), 2 * half,
                                static_cast<int>(half / 2), base::DType::kBF16};
    memory::RowsView values = keys;
    values.data += half;
    kv_node::SegmentContent content{.keys = keys, .values = values};
    std::memcpy(content.tag.data(), &number, sizeof number);
    return content;
  }

  const SegmentSize size_;
  const SegmentStoreOptions options_;
  std::unique_ptr<kv_node::LinuxDisk> disk_;
  std::shared_ptr<kv_node::DiskFile> file_;
  bool new_name_ = false;
  std::vector<std::shared_ptr<const SegmentReader>> segments_;
  std::vector<uint16_t> all_rows_;
};

}  // namespace

std::unique_ptr<RowStore> NewSegmentStore(const std::string& folder, const SegmentSize& size,
                                          const SegmentStoreOptions& options) {
  return std::make_unique<SegmentStore>(folder, size, options);
}

}  // namespace sounder::store_bench
