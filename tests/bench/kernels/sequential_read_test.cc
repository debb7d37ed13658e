// The reads really read everything: any byte changes their result.
#include "bench/kernels/sequential_read.h"

#include <gtest/gtest.h>

#include "common/base/philox.h"
#include "common/kernels/simd_level.h"
#include "common/memory/aligned_buffer.h"

namespace sounder::bench_kernels {
namespace {

uint64_t XorOf(const memory::AlignedBuffer& buffer) {
  uint64_t result = 0;
  for (const uint64_t word : buffer.As<uint64_t>()) result ^= word;
  return result;
}

memory::AlignedBuffer Random(size_t bytes) {
  memory::AlignedBuffer buffer(bytes);
  base::PhiloxStream random(7, bytes);
  for (uint64_t& word : buffer.As<uint64_t>()) word = random.Next64();
  return buffer;
}

TEST(SequentialReadTest, EveryWordCountsAtEveryLevel) {
  for (const std::string& level : kernels::SimdLevels()) {
    ASSERT_TRUE(kernels::ForceSimdLevel(level).ok());
    for (const size_t words : {0, 1, 3, 4, 7, 8, 31, 32, 64, 65, 100, 256, 1000, 1004}) {
      const memory::AlignedBuffer buffer = Random(words * 8);
      EXPECT_EQ(SequentialRead(buffer.bytes()), XorOf(buffer)) << level << " " << words;
      if (words % 4 != 0) continue;
      EXPECT_EQ(ParallelRead(buffer.bytes()), XorOf(buffer)) << level << " " << words;
    }
  }
  ASSERT_TRUE(kernels::ForceSimdLevel("best").ok());
}

TEST(SequentialReadTest, OneFlippedBitShows) {
  memory::AlignedBuffer buffer = Random(2048);
  const uint64_t before = SequentialRead(buffer.bytes());
  for (size_t i = 0; i < buffer.size(); i += 61) {
    buffer.data()[i] ^= std::byte{1};
    EXPECT_NE(SequentialRead(buffer.bytes()), before);
    EXPECT_NE(ParallelRead(buffer.bytes()), before);
    buffer.data()[i] ^= std::byte{1};
  }
}

}  // namespace
}  // namespace sounder::bench_kernels
