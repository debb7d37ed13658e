#include "kv_node/segment/segment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

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

std::shared_ptr<const SegmentRows> RowsOf(const SegmentShape& shape, float element) {
  const auto filled = [&] {
    AlignedBuffer buffer(static_cast<size_t>(shape.num_rows) * shape.row_bytes());
    for (float& x : buffer.As<float>()) x = element;
    return buffer;
  };
  return *SegmentRows::Create(shape, filled(), filled());
}

class OneByteIndex : public SegmentIndex {
 public:
  size_t bytes() const override { return 1; }
};

TEST(Segment, RowsGoAndComeBack) {
  const SegmentShape shape = {700, 4, 8, DType::kF32};
  const auto segment = *Segment::CreateWithoutRows(shape);
  EXPECT_EQ(segment->shape(), shape);
  EXPECT_EQ(segment->rows(), nullptr);
  EXPECT_EQ(segment->row_bytes(), 0u);
  EXPECT_DEATH(segment->keys(), "not in memory");
  segment->SetRows(RowsOf(shape, 1));
  const std::shared_ptr<const SegmentRows> held = segment->rows();
  segment->SetRows(nullptr);
  EXPECT_EQ(segment->rows(), nullptr);
  segment->SetRows(RowsOf(shape, 2));
  EXPECT_EQ(held->keys().At(3, 7), 1) << "a snapshot stays as it is";
  EXPECT_EQ(segment->keys().At(3, 7), 2);
  EXPECT_EQ(segment->row_bytes(), 2u * 128);
  EXPECT_DEATH(segment->SetRows(RowsOf({700, 3, 8, DType::kF32}, 1)), "another segment");
  EXPECT_THAT(Segment::CreateWithoutRows({0, 4, 9, DType::kF32}).status().ToString(),
              HasSubstr("dim is 9"));
}

TEST(Segment, CopiesJoinTheRows) {
  const SegmentShape shape = {0, 4, 8, DType::kF32};
  const auto segment = *Segment::CreateWithoutRows(shape);
  segment->SetRows(RowsOf(shape, 1));
  const std::shared_ptr<const SegmentRows> before = segment->rows();
  BuiltIndex built = {std::make_unique<OneByteIndex>(), AlignedBuffer::Zeroed(4 * 24)};
  EXPECT_EQ(built.bytes(), 1u + 128);
  segment->SetIndex(std::move(built));
  EXPECT_EQ(segment->index_bytes(), 1u);
  EXPECT_EQ(segment->row_bytes(), 2u * 128 + 128);
  EXPECT_EQ(segment->rows()->copies().size(), 96u);
  EXPECT_EQ(segment->rows()->keys().data, before->keys().data) << "K and V are shared";
  EXPECT_TRUE(before->copies().empty());
  segment->SetRows(nullptr);
  EXPECT_EQ(segment->copies().size(), 96u) << "what is sampled stays";
  EXPECT_EQ(segment->row_bytes(), 128u);
  segment->SetRows(before);
  EXPECT_EQ(segment->rows()->copies().data(), segment->copies().data());
  const auto odd = std::make_shared<const AlignedBuffer>(AlignedBuffer::Zeroed(7));
  EXPECT_DEATH(before->WithCopies(odd), "7 bytes of copies of 4");
}

// Readers, a dropper and one who brings rows back, at once.
TEST(SegmentThreadsTest, RowsMayBeDroppedWhileTheyAreRead) {
  const SegmentShape shape = {0, 64, 8, DType::kF32};
  const auto segment = *Segment::CreateWithoutRows(shape);
  std::vector<std::shared_ptr<const SegmentRows>> versions = {RowsOf(shape, 1), RowsOf(shape, 2)};
  std::atomic<bool> done = false;
  std::atomic<int> read = 0;
  std::thread reader([&] {
    while (!done || read == 0) {
      const std::shared_ptr<const SegmentRows> rows = segment->rows();
      if (rows == nullptr) continue;
      const float first = rows->keys().At(0, 0);
      for (int64_t row = 0; row < 64; ++row) ASSERT_EQ(rows->values().At(row, 7), first);
      ++read;
    }
  });
  for (int i = 0; i < 2000; ++i) {
    segment->SetRows(versions[i % 2]);
    if (i == 1000)
      versions[0] = versions[1] = RowsOf(shape, 3);  // the old ones go with the readers
    if (i % 3 == 0) segment->SetRows(nullptr);
  }
  segment->SetRows(versions[0]);
  done = true;
  reader.join();
  EXPECT_GT(read, 0);
}

}  // namespace
}  // namespace sounder::kv_node
