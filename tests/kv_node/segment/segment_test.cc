#include "kv_node/segment/segment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

namespace sounder::kv_node {
namespace {

using base::DType;
using memory::AlignedBuffer;
using testing::HasSubstr;

std::string Refusal(base::Position first, int64_t rows, int dim, DType dtype, size_t key_bytes,
                    size_t value_bytes) {
  const auto segment = Segment::Create(first, rows, dim, dtype, AlignedBuffer::Zeroed(key_bytes),
                                       AlignedBuffer::Zeroed(value_bytes));
  return segment.ok() ? "" : std::string(segment.status().message());
}

TEST(Segment, RefusesWhatDoesNotFit) {
  EXPECT_EQ(Refusal(0, 10, 16, DType::kBF16, 320, 320), "");
  EXPECT_THAT(Refusal(-1, 10, 16, DType::kBF16, 320, 320), HasSubstr("first position is -1"));
  EXPECT_THAT(Refusal(0, 0, 16, DType::kBF16, 0, 0), HasSubstr("0 rows, expected 1 to 65536"));
  EXPECT_THAT(Refusal(0, 65537, 8, DType::kBF16, 65537 * 16, 65537 * 16), HasSubstr("65537 rows"));
  EXPECT_THAT(Refusal(0, 10, 12, DType::kBF16, 240, 240), HasSubstr("dim is 12"));
  EXPECT_THAT(Refusal(0, 10, 16, DType::kF32, 320, 640), HasSubstr("320 (K) and 640 (V) bytes"));
}

TEST(Segment, ViewsAndBytes) {
  AlignedBuffer keys(5 * 24 * 2);
  AlignedBuffer values(5 * 24 * 2);
  for (int i = 0; i < 5 * 24; ++i) {
    base::StoreElement(static_cast<float>(i), keys.data() + 2 * i, DType::kF16);
    base::StoreElement(static_cast<float>(-i), values.data() + 2 * i, DType::kF16);
  }
  const auto segment =
      *Segment::Create(700, 5, 24, DType::kF16, std::move(keys), std::move(values));
  EXPECT_EQ(segment->first_position(), 700);
  EXPECT_EQ(segment->keys().rows, 5);
  EXPECT_EQ(segment->keys().At(3, 2), 74);
  EXPECT_EQ(segment->values().At(4, 23), -119);
  EXPECT_EQ(segment->row_bytes(), 2u * 256);  // 240 bytes each, padded to 64
  EXPECT_EQ(segment->index_bytes(), 0u);
  EXPECT_EQ(segment->bytes(), sizeof(Segment) + 512);
}

}  // namespace
}  // namespace sounder::kv_node
