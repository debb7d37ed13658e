// Rows of stored segments that tests ask for, and the disk and log they lie on.
#ifndef SOUNDER_TESTS_KV_NODE_STORE_ASKED_ROWS_H_
#define SOUNDER_TESTS_KV_NODE_STORE_ASKED_ROWS_H_

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "common/base/philox.h"
#include "kv_node/store/faulty_disk.h"
#include "kv_node/store/linux_disk.h"
#include "kv_node/store/row_source.h"
#include "kv_node/store/segment_log.h"
#include "tests/kv_node/store/await.h"
#include "tests/kv_node/store/scratch_folder.h"
#include "tests/kv_node/store/segment_content.h"

namespace sounder::kv_node {

using Reader = std::shared_ptr<const SegmentReader>;

// Rows of a segment on their way.
struct Asked {
  Asked(Reader reader, std::vector<uint16_t> wanted)
      : segment(std::move(reader)),
        rows(std::move(wanted)),
        keys(rows.size() * segment->shape().row_bytes() / 2),
        values(keys.size()) {}
  RowRequest Request(bool recurring) { return {segment, rows, keys, values, recurring}; }
  void TakeFrom(const TestSegment& from) {
    const size_t half = from.half_row_bytes();
    for (size_t i = 0; i < rows.size(); ++i) {
      std::memcpy(keys.data() + i * half, from.Key(rows[i]).data(), half);
      std::memcpy(values.data() + i * half, from.Value(rows[i]).data(), half);
    }
  }
  bool Has(const TestSegment& expected, size_t i) const {
    const size_t half = expected.half_row_bytes();
    return SameBytes(std::span(keys).subspan(i * half, half), expected.Key(rows[i])) &&
           SameBytes(std::span(values).subspan(i * half, half), expected.Value(rows[i]));
  }
  bool HasAll(const TestSegment& expected) const {
    for (size_t i = 0; i < rows.size(); ++i) {
      if (!Has(expected, i)) return false;
    }
    return true;
  }
  std::vector<uint32_t> AllPlaces() const {
    std::vector<uint32_t> places(rows.size());
    std::iota(places.begin(), places.end(), 0u);
    return places;
  }

  Reader segment;
  std::vector<uint16_t> rows;
  std::vector<std::byte> keys;
  std::vector<std::byte> values;
};

inline std::vector<uint16_t> Rows(uint16_t begin, uint16_t end) {
  std::vector<uint16_t> rows(end - begin);
  std::iota(rows.begin(), rows.end(), begin);
  return rows;
}

// Distinct rows in order.
inline std::vector<uint16_t> Sample(base::PhiloxStream& random, uint32_t of, uint32_t one_in) {
  std::vector<uint16_t> rows;
  for (uint32_t row = 0; row < of; ++row) {
    if (random.NextBelow(one_in) == 0) rows.push_back(static_cast<uint16_t>(row));
  }
  return rows;
}

class StoredRowsTest : public testing::Test {
 protected:
  StoredRowsTest() : folder_("/dev/shm"), linux_(*LinuxDisk::Start(folder_.path())) {
    UseDisk({}, 1);
  }
  ~StoredRowsTest() override { log_.reset(); }

  void UseDisk(const DiskFaultOptions& options, uint64_t seed) {
    log_.reset();
    disk_ = *FaultyDisk::Start(linux_.get(), options, seed);
    log_ = *SegmentLog::Open(disk_.get(), {});
  }
  Reader Store(const TestSegment& segment) { return log_->Append(segment.content())->reader; }
  void Keep(RowCache& cache, const TestSegment& from, const Reader& reader,
            std::vector<uint16_t> rows) {
    Asked asked(reader, std::move(rows));
    asked.TakeFrom(from);
    cache.Keep(reader, asked.rows, asked.keys, asked.values, asked.AllPlaces());
  }
  // Nobody holds a segment any more: what is counted is what comes now, as in a new cache.
  void ExpectNothingIsLeftIn(RowCache& cache) {
    constexpr uint64_t kSegments = 20;  // each looks at two of those that are let go of
    RowCache fresh(cache.capacity());
    std::vector<Reader> readers;
    for (uint64_t i = 1; i <= kSegments; ++i) {
      const TestSegment segment(100 + i, 8, 8, base::DType::kBF16, 0);
      readers.push_back(Store(segment));
      Keep(cache, segment, readers.back(), {1, 2});
      Keep(fresh, segment, readers.back(), {1, 2});
    }
    EXPECT_EQ(cache.bytes(), fresh.bytes());
  }

  ScratchFolder folder_;
  std::unique_ptr<LinuxDisk> linux_;
  std::unique_ptr<FaultyDisk> disk_;
  std::unique_ptr<SegmentLog> log_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_STORE_ASKED_ROWS_H_
