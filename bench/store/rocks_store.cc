#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "bench/store/row_store.h"
#include "common/base/check.h"
#include "common/base/philox.h"

namespace sounder::store_bench {
namespace {

constexpr size_t kValueBytes = 4096;

void Check(const rocksdb::Status& status) { CHECK(status.ok()) << status.ToString(); }

// A sixteenth of what a node with a large disk would have, so that a sixteenth of its data has as
// many levels.
rocksdb::Options OptionsOf(bool blobs) {
  rocksdb::BlockBasedTableOptions table;
  table.checksum = rocksdb::kXXH3;
  table.no_block_cache = true;  // rows come from the disk, as in the other stores
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  rocksdb::Options options;
  options.create_if_missing = true;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.compression = rocksdb::kNoCompression;
  options.use_direct_reads = true;
  options.use_direct_io_for_flush_and_compaction = true;
  options.write_buffer_size = size_t{8} << 20;
  options.max_bytes_for_level_base = uint64_t{16} << 20;
  options.target_file_size_base = uint64_t{8} << 20;
  options.max_background_jobs = 2;
  if (blobs) {
    options.enable_blob_files = true;
    options.min_blob_size = kValueBytes / 2;
    options.blob_file_size = uint64_t{32} << 20;
    options.enable_blob_garbage_collection = true;
    options.blob_garbage_collection_age_cutoff = .5;
  }
  return options;
}

class RocksStore final : public RowStore {
 public:
  RocksStore(const std::string& folder, const SegmentSize& size, bool blobs)
      : size_(size), values_(size.bytes() / kValueBytes) {
    CHECK(size.bytes() % kValueBytes == 0 && kValueBytes % size.row_bytes == 0);
    rocksdb::DB* db = nullptr;
    Check(rocksdb::DB::Open(OptionsOf(blobs), folder, &db));
    db_.reset(db);
  }

  void Write(size_t first, std::span<const std::span<const std::byte>> rows) override {
    rocksdb::WriteBatch batch;
    for (size_t i = 0; i < rows.size(); ++i) {
      const char* const data = reinterpret_cast<const char*>(rows[i].data());
      for (size_t value = 0; value < values_; ++value) {
        Check(batch.Put(Key(first + i, value), {data + value * kValueBytes, kValueBytes}));
      }
    }
    rocksdb::WriteOptions options;
    options.sync = true;
    Check(db_->Write(options, &batch));
  }

  void ReadRows(size_t segment, std::span<const uint16_t> rows,
                std::span<std::byte> into) override {
    const size_t rows_per_value = kValueBytes / size_.row_bytes;
    std::vector<std::string> keys;
    for (const uint16_t row : rows) keys.push_back(Key(segment, row / rows_per_value));
    const std::vector<rocksdb::Slice> slices(keys.begin(), keys.end());
    std::vector<rocksdb::PinnableSlice> values(keys.size());
    std::vector<rocksdb::Status> statuses(keys.size());
    db_->MultiGet(rocksdb::ReadOptions(), db_->DefaultColumnFamily(), keys.size(), slices.data(),
                  values.data(), statuses.data());
    for (size_t i = 0; i < rows.size(); ++i) {
      Check(statuses[i]);
      std::memcpy(into.data() + i * size_.row_bytes,
                  values[i].data() + rows[i] % rows_per_value * size_.row_bytes, size_.row_bytes);
    }
  }

  void ReadSegment(size_t segment, std::span<std::byte> into) override {
    rocksdb::ReadOptions options;
    options.readahead_size = size_.bytes();
    const std::string end = Key(segment, values_);
    const rocksdb::Slice bound(end);
    options.iterate_upper_bound = &bound;
    const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options));
    size_t value = 0;
    for (it->Seek(Key(segment, 0)); it->Valid(); it->Next(), ++value) {
      CHECK(value < values_ && it->value().size() == kValueBytes);
      std::memcpy(into.data() + value * kValueBytes, it->value().data(), kValueBytes);
    }
    Check(it->status());
    CHECK(value == values_) << value;
  }

  void Delete(size_t segment) override {
    Check(db_->DeleteRange(rocksdb::WriteOptions(), db_->DefaultColumnFamily(), Key(segment, 0),
                           Key(segment, values_)));
  }

  void Settle() override {
    Check(db_->Flush(rocksdb::FlushOptions()));
    Wait();
  }

  void Wait() override {
    const auto busy = [this] {
      for (const char* property : {"rocksdb.num-running-compactions", "rocksdb.compaction-pending",
                                   "rocksdb.num-running-flushes"}) {
        uint64_t value = 0;
        CHECK(db_->GetIntProperty(property, &value)) << property;
        if (value != 0) return true;
      }
      return false;
    };
    while (busy()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }

  void Compact() override {
    Check(db_->CompactRange(rocksdb::CompactRangeOptions(), nullptr, nullptr));
    Settle();
  }

 private:
  // Segments of many sessions are sealed in no order: the key begins with a number as good as
  // random. Big-endian, so that a segment's values are neighbours.
  static std::string Key(size_t segment, size_t value) {
    const base::PhiloxBlock mixed = base::Philox(1, {static_cast<uint32_t>(segment), 0, 0, 0});
    std::string key;
    for (const uint32_t word :
         {mixed[0], static_cast<uint32_t>(segment), static_cast<uint32_t>(value)}) {
      for (int shift = 24; shift >= 0; shift -= 8) key += static_cast<char>(word >> shift);
    }
    return key;
  }

  const SegmentSize size_;
  const size_t values_;  // of a segment
  std::unique_ptr<rocksdb::DB> db_;
};

}  // namespace

std::unique_ptr<RowStore> NewRocksStore(const std::string& folder, const SegmentSize& size,
                                        bool blobs) {
  return std::make_unique<RocksStore>(folder, size, blobs);
}

}  // namespace sounder::store_bench
