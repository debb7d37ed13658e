#include "bench/kernels/sequential_read.h"

#include "common/base/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/kernels/sequential_read.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sounder::bench_kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class D, class V>
uint64_t XorOfLanes(D d, V v) {
  HWY_ALIGN uint64_t parts[HWY_MAX_BYTES / sizeof(uint64_t)];
  hn::Store(v, d, parts);
  uint64_t result = 0;
  for (size_t lane = 0; lane < hn::Lanes(d); ++lane) result ^= parts[lane];
  return result;
}

uint64_t ReadOne(const uint64_t* HWY_RESTRICT words, size_t count) {
  const hn::ScalableTag<uint64_t> d;
  const size_t lanes = hn::Lanes(d);
  auto x0 = hn::Zero(d), x1 = x0, x2 = x0, x3 = x0, x4 = x0, x5 = x0, x6 = x0, x7 = x0;
  size_t i = 0;
  for (; i + 8 * lanes <= count; i += 8 * lanes) {
    x0 = hn::Xor(x0, hn::LoadU(d, words + i));
    x1 = hn::Xor(x1, hn::LoadU(d, words + i + lanes));
    x2 = hn::Xor(x2, hn::LoadU(d, words + i + 2 * lanes));
    x3 = hn::Xor(x3, hn::LoadU(d, words + i + 3 * lanes));
    x4 = hn::Xor(x4, hn::LoadU(d, words + i + 4 * lanes));
    x5 = hn::Xor(x5, hn::LoadU(d, words + i + 5 * lanes));
    x6 = hn::Xor(x6, hn::LoadU(d, words + i + 6 * lanes));
    x7 = hn::Xor(x7, hn::LoadU(d, words + i + 7 * lanes));
  }
  uint64_t result = XorOfLanes(d, hn::Xor(hn::Xor(hn::Xor(x0, x1), hn::Xor(x2, x3)),
                                          hn::Xor(hn::Xor(x4, x5), hn::Xor(x6, x7))));
  for (; i < count; ++i) result ^= words[i];
  return result;
}

uint64_t ReadFour(const uint64_t* HWY_RESTRICT words, size_t count) {
  const hn::ScalableTag<uint64_t> d;
  const size_t lanes = hn::Lanes(d);
  const size_t quarter = count / 4;
  const uint64_t* HWY_RESTRICT second = words + quarter;
  const uint64_t* HWY_RESTRICT third = second + quarter;
  const uint64_t* HWY_RESTRICT fourth = third + quarter;
  auto x0 = hn::Zero(d), x1 = x0, x2 = x0, x3 = x0;
  size_t i = 0;
  for (; i + 2 * lanes <= quarter; i += 2 * lanes) {
    x0 = hn::Xor(x0, hn::Xor(hn::LoadU(d, words + i), hn::LoadU(d, words + i + lanes)));
    x1 = hn::Xor(x1, hn::Xor(hn::LoadU(d, second + i), hn::LoadU(d, second + i + lanes)));
    x2 = hn::Xor(x2, hn::Xor(hn::LoadU(d, third + i), hn::LoadU(d, third + i + lanes)));
    x3 = hn::Xor(x3, hn::Xor(hn::LoadU(d, fourth + i), hn::LoadU(d, fourth + i + lanes)));
  }
  uint64_t result = XorOfLanes(d, hn::Xor(hn::Xor(x0, x1), hn::Xor(x2, x3)));
  for (; i < quarter; ++i) result ^= words[i] ^ second[i] ^ third[i] ^ fourth[i];
  return result;
}

}  // namespace sounder::bench_kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sounder::bench_kernels {

HWY_EXPORT(ReadOne);
HWY_EXPORT(ReadFour);

uint64_t SequentialRead(std::span<const std::byte> data) {
  CHECK(data.size() % sizeof(uint64_t) == 0) << data.size();
  return HWY_DYNAMIC_DISPATCH(ReadOne)(reinterpret_cast<const uint64_t*>(data.data()),
                                       data.size() / sizeof(uint64_t));
}

uint64_t ParallelRead(std::span<const std::byte> data) {
  CHECK(data.size() % (4 * sizeof(uint64_t)) == 0) << data.size();
  return HWY_DYNAMIC_DISPATCH(ReadFour)(reinterpret_cast<const uint64_t*>(data.data()),
                                        data.size() / sizeof(uint64_t));
}

}  // namespace sounder::bench_kernels
#endif  // HWY_ONCE
