#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <numeric>
#include <vector>

#include "bench/store/row_store.h"
#include "common/base/check.h"
#include "kv_node/store/linux_disk.h"
#include "kv_node/store/segment_log.h"

namespace sounder::store_bench {
namespace {

class SegmentStore final : public RowStore {
 public:
  SegmentStore(const std::string& folder, const SegmentSize& size,
               const SegmentStoreOptions& options)
      : size_(size) {
    auto disk = kv_node::LinuxDisk::Start(folder, {.uring = options.uring});
    CHECK(disk.ok()) << disk.status().ToString();
    disk_ = *std::move(disk);
    auto log = kv_node::SegmentLog::Open(disk_.get(), {}, {.file_bytes = options.file_bytes});
    CHECK(log.ok()) << log.status().ToString();
    log_ = *std::move(log);
    all_rows_.resize(size.rows);
    std::iota(all_rows_.begin(), all_rows_.end(), uint16_t{0});
  }

  void Write(size_t first, std::span<const std::span<const std::byte>> rows) override {
    std::vector<kv_node::SegmentPlace> places;
    for (size_t i = 0; i < rows.size(); ++i) {
      auto written = log_->Append(ContentOf(first + i, rows[i]));
      CHECK(written.ok()) << written.status().ToString();
      places.push_back(written->place);
      segments_.push_back(*std::move(written));
    }
    const absl::Status status = log_->MakeDurable(places);
    CHECK(status.ok()) << status.ToString();
  }

  void ReadRows(size_t segment, std::span<const uint16_t> rows,
                std::span<std::byte> into) override {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    absl::Status status;
    kv_node::ReadRows(*disk_,
                      {{segments_[segment].reader, rows, into.first(into.size() / 2),
                        into.subspan(into.size() / 2)}},
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
    const kv_node::WrittenSegment gone = std::exchange(segments_[segment], {});
    const absl::Status status = log_->Free({gone.place, gone.reader->layout().bytes()});
    CHECK(status.ok()) << status.ToString();
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
  std::unique_ptr<kv_node::LinuxDisk> disk_;
  std::unique_ptr<kv_node::SegmentLog> log_;
  std::vector<kv_node::WrittenSegment> segments_;
  std::vector<uint16_t> all_rows_;
};

}  // namespace

std::unique_ptr<RowStore> NewSegmentStore(const std::string& folder, const SegmentSize& size,
                                          const SegmentStoreOptions& options) {
  return std::make_unique<SegmentStore>(folder, size, options);
}

}  // namespace sounder::store_bench
