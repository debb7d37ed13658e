#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "common/memory/aligned_buffer.h"
#include "common/memory/rows_view.h"

namespace sounder::memory {
namespace {

TEST(AlignedBufferTest, IsAlignedPaddedAndTheRightSize) {
  for (size_t bytes = 0; bytes < 300; ++bytes) {
    AlignedBuffer buffer(bytes);
    EXPECT_EQ(buffer.size(), bytes);
    EXPECT_EQ(buffer.empty(), bytes == 0);
    EXPECT_EQ(buffer.bytes().size(), bytes);
    EXPECT_EQ(buffer.allocated() % kAlignment, 0u);
    EXPECT_GE(buffer.allocated(), bytes);
    EXPECT_LT(buffer.allocated(), bytes + kAlignment);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % kAlignment, 0u);
    if (bytes > 0) std::memset(buffer.data(), 0xff, bytes);
    for (size_t i = bytes; i < buffer.allocated(); ++i) {
      ASSERT_EQ(buffer.data()[i], std::byte{0}) << bytes << " " << i;
    }
  }
}

TEST(AlignedBufferTest, LargeOnesToo) {
  std::vector<AlignedBuffer> buffers;
  for (const size_t bytes : {(size_t{256} << 10) - 64, size_t{256} << 10, (size_t{2} << 20) - 1,
                             size_t{2} << 20, (size_t{5} << 20) + 3}) {
    AlignedBuffer buffer = AlignedBuffer::Zeroed(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % kAlignment, 0u);
    EXPECT_EQ(buffer.data()[bytes - 1], std::byte{0});
    std::memset(buffer.data(), static_cast<int>(buffers.size()), bytes);
    for (size_t i = bytes; i < buffer.allocated(); ++i) ASSERT_EQ(buffer.data()[i], std::byte{0});
    buffers.push_back(std::move(buffer));
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    EXPECT_EQ(buffers[i].data()[0], static_cast<std::byte>(i));
    EXPECT_EQ(buffers[i].data()[buffers[i].size() - 1], static_cast<std::byte>(i));
  }
}

TEST(AlignedBufferTest, ZeroedAndCopies) {
  const AlignedBuffer zeroed = AlignedBuffer::Zeroed(100);
  for (const std::byte byte : zeroed.bytes()) EXPECT_EQ(byte, std::byte{0});
  std::vector<std::byte> bytes(77);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i);
  const AlignedBuffer copy = AlignedBuffer::CopyOf(bytes);
  ASSERT_EQ(copy.size(), bytes.size());
  EXPECT_EQ(std::memcmp(copy.data(), bytes.data(), bytes.size()), 0);
  EXPECT_TRUE(AlignedBuffer::CopyOf({}).empty());
  EXPECT_TRUE(AlignedBuffer::Zeroed(0).empty());
}

TEST(AlignedBufferTest, AMovedFromBufferIsEmptyAndUsable) {
  AlignedBuffer first = AlignedBuffer::Zeroed(64);
  const std::byte* const data = first.data();
  AlignedBuffer second = std::move(first);
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(second.size(), 64u);
  EXPECT_TRUE(first.empty());  // NOLINT: what it tests
  EXPECT_TRUE(first.bytes().empty());
  EXPECT_EQ(first.allocated(), 0u);
  first = std::move(second);
  EXPECT_EQ(first.data(), data);
  EXPECT_TRUE(second.empty());  // NOLINT
  second = AlignedBuffer(10);
  EXPECT_EQ(second.size(), 10u);
}

TEST(AlignedBufferTest, AsElements) {
  AlignedBuffer buffer(24);
  const std::span<double> values = buffer.As<double>();
  ASSERT_EQ(values.size(), 3u);
  values[2] = 1.5;
  EXPECT_EQ(std::as_const(buffer).As<double>()[2], 1.5);
}

TEST(AlignedBufferDeathTest, StopsOnBugs) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(AlignedBuffer(10).As<uint32_t>(), "CHECK failed");
  EXPECT_DEATH(AlignedBuffer(SIZE_MAX - 10), "CHECK failed");
}

// Rows of [head, row, dim] and of [row, head, dim]: the same values through other strides.
TEST(RowsViewTest, LayoutsAreStrides) {
  constexpr int64_t kHeads = 3, kRows = 5;
  constexpr int kDim = 8;
  for (const base::DType dtype : {base::DType::kF32, base::DType::kF16, base::DType::kBF16}) {
    const size_t element = base::SizeOf(dtype);
    AlignedBuffer by_head(kHeads * kRows * kDim * element);
    AlignedBuffer by_row(kHeads * kRows * kDim * element);
    const auto value = [](int64_t head, int64_t row, int column) {
      return static_cast<float>(head * 64 + row * 8 + column);  // exact in every dtype
    };
    for (int64_t head = 0; head < kHeads; ++head) {
      for (int64_t row = 0; row < kRows; ++row) {
        for (int column = 0; column < kDim; ++column) {
          const float x = value(head, row, column);
          base::StoreElement(x, by_head.data() + ((head * kRows + row) * kDim + column) * element,
                             dtype);
          base::StoreElement(x, by_row.data() + ((row * kHeads + head) * kDim + column) * element,
                             dtype);
        }
      }
    }
    const auto row_bytes = static_cast<int64_t>(kDim * element);
    for (int64_t head = 0; head < kHeads; ++head) {
      const RowsView a{by_head.data() + head * kRows * row_bytes, kRows, row_bytes, kDim, dtype};
      const RowsView b{by_row.data() + head * row_bytes, kRows, kHeads * row_bytes, kDim, dtype};
      const RowsView slice = b.Slice(2, 5);
      EXPECT_EQ(slice.rows, 3);
      for (int64_t row = 0; row < kRows; ++row) {
        for (int column = 0; column < kDim; ++column) {
          EXPECT_EQ(a.At(row, column), value(head, row, column));
          EXPECT_EQ(b.At(row, column), value(head, row, column));
          if (row >= 2) {
            EXPECT_EQ(slice.At(row - 2, column), value(head, row, column));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace sounder::memory
