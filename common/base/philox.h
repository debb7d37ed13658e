// Philox4x32-10: a counter-based random generator (Salmon et al., "Parallel random numbers: as
// easy as 1, 2, 3", SC'11). A draw is a pure function of (key, counter), so every replica, thread
// count and SIMD level draws the same numbers. Pure functions, thread safe.
#ifndef SOUNDER_COMMON_BASE_PHILOX_H_
#define SOUNDER_COMMON_BASE_PHILOX_H_

#include <array>
#include <cstdint>

namespace sounder::base {

using PhiloxBlock = std::array<uint32_t, 4>;

constexpr PhiloxBlock Philox(uint64_t key, PhiloxBlock counter) {
  uint32_t k0 = static_cast<uint32_t>(key);
  uint32_t k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

// A stream of numbers from one (key, stream) pair. Copyable value; not thread safe.
class PhiloxStream {
 public:
  PhiloxStream(uint64_t key, uint64_t stream) : key_(key), stream_(stream) {}

  uint32_t Next32() {
    if (used_ == 4) {
      block_ = Philox(key_, {static_cast<uint32_t>(index_), static_cast<uint32_t>(index_ >> 32),
                             static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)});
      ++index_;
      used_ = 0;
    }
    return block_[used_++];
  }
  uint64_t Next64() {
    const uint64_t low = Next32();
    return low | (uint64_t{Next32()} << 32);
  }
  // In [0, 1), 53 bits.
  double NextUniform() { return static_cast<double>(Next64() >> 11) * 0x1.0p-53; }
  // In [0, bound), without modulo bias beyond 2^-32. bound > 0.
  uint32_t NextBelow(uint32_t bound) {
    return static_cast<uint32_t>((uint64_t{Next32()} * bound) >> 32);
  }
  // Standard normal (Box-Muller; the pair's second value is kept for the next call).
  double NextGaussian();

 private:
  uint64_t key_;
  uint64_t stream_;
  uint64_t index_ = 0;
  PhiloxBlock block_{};
  int used_ = 4;
  double spare_ = 0;
  bool has_spare_ = false;
};

}  // namespace sounder::base

#endif  // SOUNDER_COMMON_BASE_PHILOX_H_
