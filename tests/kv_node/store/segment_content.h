// Segments to store in tests: rows and an index, all of them from a seed.
#ifndef SOUNDER_TESTS_KV_NODE_STORE_SEGMENT_CONTENT_H_
#define SOUNDER_TESTS_KV_NODE_STORE_SEGMENT_CONTENT_H_

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "common/base/philox.h"
#include "kv_node/store/segment_format.h"

namespace sounder::kv_node {

class TestSegment {
 public:
  TestSegment(uint64_t seed, int64_t rows, int dim, base::DType dtype, size_t index_bytes)
      : half_(static_cast<size_t>(dim) * base::SizeOf(dtype)),
        keys_(RandomBytes(seed, 0, static_cast<size_t>(rows) * half_)),
        values_(RandomBytes(seed, 1, static_cast<size_t>(rows) * half_)),
        index_(RandomBytes(seed, 2, index_bytes)) {
    content_.tag.fill(static_cast<std::byte>(seed));
    content_.first_position = static_cast<base::Position>(1000 * seed);
    content_.keys = ViewOf(keys_, rows, dim, dtype);
    content_.values = ViewOf(values_, rows, dim, dtype);
    content_.index = index_;
  }
  TestSegment(const TestSegment&) = delete;
  TestSegment& operator=(const TestSegment&) = delete;

  const SegmentContent& content() const { return content_; }
  StoredShape shape() const { return ShapeOf(content_); }
  std::span<const std::byte> Key(size_t row) const { return Row(keys_, row); }
  std::span<const std::byte> Value(size_t row) const { return Row(values_, row); }
  size_t half_row_bytes() const { return half_; }

 private:
  static std::vector<std::byte> RandomBytes(uint64_t seed, uint64_t stream, size_t size) {
    base::PhiloxStream random(seed, stream);
    std::vector<std::byte> bytes(size);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.Next32());
    return bytes;
  }
  static memory::RowsView ViewOf(const std::vector<std::byte>& bytes, int64_t rows, int dim,
                                 base::DType dtype) {
    return {bytes.data(), rows, static_cast<int64_t>(bytes.size()) / rows, dim, dtype};
  }
  std::span<const std::byte> Row(const std::vector<std::byte>& bytes, size_t row) const {
    return std::span(bytes).subspan(row * half_, half_);
  }

  const size_t half_;
  const std::vector<std::byte> keys_;
  const std::vector<std::byte> values_;
  const std::vector<std::byte> index_;
  SegmentContent content_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_STORE_SEGMENT_CONTENT_H_
