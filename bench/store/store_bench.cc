#include "bench/store/store_bench.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <utility>
#include <vector>

#include "bench/store/record_commits.h"
#include "bench/suite/timing.h"
#include "common/base/check.h"
#include "common/base/philox.h"
#include "common/base/status_macros.h"
#include "common/memory/aligned_buffer.h"
#include "kv_node/store/linux_disk.h"

namespace sounder::store_bench {
namespace {

constexpr size_t kDistinct = 4;  // segments' contents: those of others repeat them

// Bytes this process has caused to be written, its threads included.
uint64_t WrittenBytes() {
  std::ifstream io("/proc/self/io");
  std::string name;
  for (uint64_t value = 0; io >> name >> value;) {
    if (name == "write_bytes:") return value;
  }
  CHECK(false) << "/proc/self/io has no write_bytes";
  return 0;
}

uint64_t DiskBytes(const std::string& folder) {
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    struct stat status {};
    if (stat(entry.path().c_str(), &status) == 0) {
      bytes += static_cast<uint64_t>(status.st_blocks) * 512;
    }
  }
  return bytes;
}

double Since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// A store with what was measured of it.
struct Contender {
  std::string name;
  std::string folder;
  std::unique_ptr<RowStore> store{};
  uint64_t written = 0;
  double written_s = 0, grouped_s = 0, background_s = 0;
  std::vector<double> single_ms{}, rows_us{}, segment_us{};
};

class Bench {
 public:
  Bench(const StoreBenchSpec& spec, std::string folder)
      : spec_(spec), folder_(std::move(folder)), random_(7, 0) {
    Add("log_uring", [&](auto& path) { return NewSegmentStore(path, spec.size, {}); });
    Add("log_threads",
        [&](auto& path) { return NewSegmentStore(path, spec.size, {.uring = false}); });
    Add("files_uring",
        [&](auto& path) { return NewSegmentStore(path, spec.size, {.file_bytes = 1}); });
    Add("sst_xxh3", [&](auto& path) { return NewRocksStore(path, spec.size, false); });
    Add("blobdb", [&](auto& path) { return NewRocksStore(path, spec.size, true); });
    Add("append", [&](auto& path) { return NewAppendStore(path, spec.size); });
    for (size_t i = 0; i < kDistinct; ++i) {
      contents_.emplace_back(spec.size.bytes());
      FillSegment(spec.size, i, contents_.back().bytes());
    }
  }
  ~Bench() {
    for (Contender& contender : contenders_) {
      contender.store.reset();
      std::filesystem::remove_all(contender.folder);
    }
  }

  void Write() {
    for (size_t i = 0; i < spec_.single; ++i) {
      for (Contender& contender : contenders_) {
        const double seconds = WriteSome(contender, i, 1);
        contender.written_s += seconds;
        contender.single_ms.push_back(1e3 * seconds);
      }
    }
    for (size_t i = 0; i < spec_.grouped; i += spec_.group) {
      for (Contender& contender : contenders_) {
        const double seconds = WriteSome(contender, spec_.single + i, spec_.group);
        contender.grouped_s += seconds;
        contender.written_s += seconds;
      }
    }
    for (Contender& contender : contenders_) Settle(contender);
  }

  void Read() {
    memory::AlignedBuffer into(spec_.rows_per_read * spec_.size.row_bytes);
    for (size_t i = 0; i < spec_.row_reads; ++i) {
      const size_t segment = random_.NextBelow(static_cast<uint32_t>(segments()));
      std::vector<uint16_t> rows(spec_.rows_per_read);
      for (uint16_t& row : rows) {
        row = static_cast<uint16_t>(random_.NextBelow(static_cast<uint32_t>(spec_.size.rows)));
      }
      for (Contender& contender : contenders_) {
        const auto start = std::chrono::steady_clock::now();
        contender.store->ReadRows(segment, rows, into.bytes());
        contender.rows_us.push_back(1e6 * Since(start));
        CheckRow(contender, segment, rows.front(), into.bytes(), rows.size());
      }
    }
    memory::AlignedBuffer whole(spec_.size.bytes());
    for (size_t i = 0; i < spec_.segment_reads; ++i) {
      const size_t segment = random_.NextBelow(static_cast<uint32_t>(segments()));
      for (Contender& contender : contenders_) {
        const auto start = std::chrono::steady_clock::now();
        contender.store->ReadSegment(segment, whole.bytes());
        contender.segment_us.push_back(1e6 * Since(start));
        CheckRow(contender, segment, 0, whole.bytes(), spec_.size.rows);
      }
    }
  }

  void DeleteHalfAndReport(cli::Record& record) {
    std::vector<size_t> numbers(segments());
    for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = i;
    for (size_t i = numbers.size(); i > 1; --i) {
      std::swap(numbers[i - 1], numbers[random_.NextBelow(static_cast<uint32_t>(i))]);
    }
    for (Contender& contender : contenders_) {
      const double payload = static_cast<double>(segments() * spec_.size.bytes());
      const auto add = [&](const char* key, double value) {
        record.Add(contender.name + "_" + key, value);
      };
      const double mib = static_cast<double>(spec_.size.bytes()) / (1 << 20);
      add("write_mib_per_s", mib * static_cast<double>(spec_.grouped) / contender.grouped_s);
      add("durable_segment_p50_ms", suite::Quantile(contender.single_ms, .5));
      add("durable_segment_p99_ms", suite::Quantile(contender.single_ms, .99));
      // With all that runs behind the writes: what can be kept up.
      add("sustained_mib_per_s",
          mib * static_cast<double>(segments()) / (contender.written_s + contender.background_s));
      add("write_amplification", static_cast<double>(contender.written) / payload);
      add("rows_p50_us", suite::Quantile(contender.rows_us, .5));
      add("rows_p99_us", suite::Quantile(contender.rows_us, .99));
      add("segment_p50_us", suite::Quantile(contender.segment_us, .5));
      add("segment_p99_us", suite::Quantile(contender.segment_us, .99));
      add("space_over_payload", static_cast<double>(DiskBytes(contender.folder)) / payload);
      const auto start = std::chrono::steady_clock::now();
      for (size_t i = 0; i < numbers.size() / 2; ++i) contender.store->Delete(numbers[i]);
      contender.store->Settle();
      add("delete_half_s", Since(start));
      add("space_after_delete_over_live", 2 * DiskBytes(contender.folder) / payload);
      const uint64_t before = WrittenBytes();
      contender.store->Compact();
      add("space_compacted_over_live", 2 * DiskBytes(contender.folder) / payload);
      add("compact_written_over_live", 2 * static_cast<double>(WrittenBytes() - before) / payload);
    }
  }

 private:
  size_t segments() const { return spec_.single + spec_.grouped; }

  template <typename Make>
  void Add(const std::string& name, const Make& make) {
    const std::string path = folder_ + "/store_bench." + name;
    std::filesystem::remove_all(path);
    std::filesystem::create_directory(path);
    contenders_.push_back({.name = name, .folder = path});
    contenders_.back().store = make(path);
  }

  // Seconds of the call. What runs behind it is waited for, so that it neither disturbs the next
  // store nor is counted as its.
  double WriteSome(Contender& contender, size_t first, size_t count) {
    std::vector<std::span<const std::byte>> rows;
    for (size_t i = 0; i < count; ++i) {
      rows.push_back(std::as_const(contents_[(first + i) % kDistinct]).bytes());
    }
    const uint64_t before = WrittenBytes();
    const auto start = std::chrono::steady_clock::now();
    contender.store->Write(first, rows);
    const double seconds = Since(start);
    contender.store->Wait();
    contender.background_s += Since(start) - seconds;
    contender.written += WrittenBytes() - before;
    return seconds;
  }

  void Settle(Contender& contender) {
    const uint64_t before = WrittenBytes();
    const auto start = std::chrono::steady_clock::now();
    contender.store->Settle();
    contender.background_s += Since(start);
    contender.written += WrittenBytes() - before;
  }

  // The first row that was read, of `count` (K and V of the segment stores come apart).
  void CheckRow(const Contender& contender, size_t segment, uint16_t row,
                std::span<const std::byte> into, size_t count) const {
    const size_t half = spec_.size.row_bytes / 2;
    const bool apart = contender.name.starts_with("log") || contender.name.starts_with("files");
    const std::byte* const expected =
        contents_[segment % kDistinct].data() + row * spec_.size.row_bytes;
    const std::byte* const value = into.data() + (apart ? count * half : half);
    CHECK(std::memcmp(into.data(), expected, half) == 0) << contender.name;
    CHECK(std::memcmp(value, expected + half, half) == 0) << contender.name;
  }

  const StoreBenchSpec spec_;
  const std::string folder_;
  base::PhiloxStream random_;
  std::vector<Contender> contenders_;
  std::vector<memory::AlignedBuffer> contents_;
};

}  // namespace

void FillSegment(const SegmentSize& size, size_t number, std::span<std::byte> rows) {
  CHECK(rows.size() == size.bytes()) << rows.size();
  base::PhiloxStream random(number, 1);
  for (size_t at = 0; at + 8 <= rows.size(); at += 8) {
    const uint64_t word = random.Next64();
    std::memcpy(rows.data() + at, &word, sizeof word);
  }
}

StoreBenchSpec QuickStoreBench() {
  return {.size = {.rows = 512},
          .single = 4,
          .grouped = 8,
          .group = 4,
          .row_reads = 10,
          .segment_reads = 4,
          .commits = 5};
}

absl::Status RunStoreBench(const StoreBenchSpec& spec, const std::string& folder,
                           cli::Record& record) {
  {
    ASSIGN_OR_RETURN(const auto disk, kv_node::LinuxDisk::Start(folder));
    const kv_node::DiskProperties& properties = disk->properties();
    if (!properties.direct) {
      return absl::FailedPreconditionError(folder + ": " + properties.direct_why);
    }
    record.Add("file_system", properties.file_system);
  }
  Bench bench(spec, folder);
  bench.Write();
  bench.Read();
  bench.DeleteHalfAndReport(record);
  RETURN_IF_ERROR(MeasureRecordCommits(folder, spec.commits, record));
  record.Add("segment_bytes", static_cast<int64_t>(spec.size.bytes()));
  record.Add("segments", static_cast<int64_t>(spec.single + spec.grouped));
  record.Add("rows_per_read", static_cast<int64_t>(spec.rows_per_read));
  return absl::OkStatus();
}

}  // namespace sounder::store_bench
