// Loads of stored rows as f32 vectors, for every dtype. Included by kernels once per SIMD target.
//
// A "pair" is two vectors that hold 2N consecutive elements of a row, N lanes each. bf16 pairs come
// as (even elements, odd elements), which costs one shift and one mask instead of shuffles; the
// other dtypes come in order. Kernels bring their other operand into the same order (kEvenOdd).
#if defined(SOUNDER_COMMON_KERNELS_ROW_LOAD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SOUNDER_COMMON_KERNELS_ROW_LOAD_INL_H_
#undef SOUNDER_COMMON_KERNELS_ROW_LOAD_INL_H_
#else
#define SOUNDER_COMMON_KERNELS_ROW_LOAD_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "common/base/dtype.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sounder::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

struct F32Rows {
  static constexpr size_t kBytes = 4;
  static constexpr bool kEvenOdd = false;
  // Elements [i, i + N) of the row in order.
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const std::byte* row, size_t i) {
    return hn::LoadU(d, reinterpret_cast<const float*>(row) + i);
  }
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void LoadPair(D d, const std::byte* row, size_t i, V& a, V& b) {
    a = Load(d, row, i);
    b = Load(d, row, i + hn::Lanes(d));
  }
};

struct F16Rows {
  static constexpr size_t kBytes = 2;
  static constexpr bool kEvenOdd = false;
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const std::byte* row, size_t i) {
#if HWY_TARGET == HWY_SSSE3 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_EMU128
    // Highway's own conversion at these levels takes infinities and NaN for numbers.
    const hn::RebindToUnsigned<D> du;
    const hn::Rebind<uint16_t, D> dh;
    const auto bits = hn::PromoteTo(du, hn::LoadU(dh, reinterpret_cast<const uint16_t*>(row) + i));
    const auto magnitude = hn::And(bits, hn::Set(du, 0x7fffu));
    const auto sign = hn::ShiftLeft<16>(hn::Xor(bits, magnitude));
    // 2^112 moves the exponent from one bias to the other, subnormals included.
    const auto number = hn::BitCast(
        du, hn::Mul(hn::BitCast(d, hn::ShiftLeft<13>(magnitude)), hn::Set(d, 0x1p112f)));
    const hn::RebindToSigned<D> di;
    const auto special =
        hn::RebindMask(du, hn::Gt(hn::BitCast(di, magnitude), hn::Set(di, 0x7bff)));
    const auto exponent = hn::IfThenElseZero(special, hn::Set(du, 0x7f800000u));
    return hn::BitCast(d, hn::Or(hn::Or(number, exponent), sign));
#else
    const hn::Rebind<hwy::float16_t, D> dh;
    return hn::PromoteTo(d, hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(row) + i));
#endif
  }
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void LoadPair(D d, const std::byte* row, size_t i, V& a, V& b) {
    a = Load(d, row, i);
    b = Load(d, row, i + hn::Lanes(d));
  }
};

struct BF16Rows {
  static constexpr size_t kBytes = 2;
  static constexpr bool kEvenOdd = true;
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const std::byte* row, size_t i) {
    const hn::Rebind<uint16_t, D> dh;
    const hn::RebindToUnsigned<D> du;
    const auto half = hn::LoadU(dh, reinterpret_cast<const uint16_t*>(row) + i);
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, half)));
  }
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void LoadPair(D d, const std::byte* row, size_t i, V& a, V& b) {
    const hn::RebindToUnsigned<D> du;
    const hn::Repartition<uint16_t, D> dh;
    const auto both = hn::BitCast(du, hn::LoadU(dh, reinterpret_cast<const uint16_t*>(row) + i));
    a = hn::BitCast(d, hn::ShiftLeft<16>(both));
    b = hn::BitCast(d, hn::And(both, hn::Set(du, 0xffff0000u)));
  }
};

// Calls function(rows type) for a dtype.
template <class Function>
HWY_INLINE void WithRows(base::DType dtype, const Function& function) {
  switch (dtype) {
    case base::DType::kF32:
      return function(F32Rows());
    case base::DType::kF16:
      return function(F16Rows());
    case base::DType::kBF16:
      return function(BF16Rows());
  }
}

// The f32 elements [0, 2N) at `x` as a pair in the order of Rows::LoadPair, and back.
template <class Rows, class D, class V = hn::Vec<D>>
HWY_INLINE void LoadF32Pair(D d, const float* HWY_RESTRICT x, V& a, V& b) {
  if constexpr (Rows::kEvenOdd) {
    hn::LoadInterleaved2(d, x, a, b);
  } else {
    a = hn::LoadU(d, x);
    b = hn::LoadU(d, x + hn::Lanes(d));
  }
}
template <class Rows, class D, class V = hn::Vec<D>>
HWY_INLINE void StoreF32Pair(D d, V a, V b, float* HWY_RESTRICT x) {
  if constexpr (Rows::kEvenOdd) {
    hn::StoreInterleaved2(a, b, d, x);
  } else {
    hn::StoreU(a, d, x);
    hn::StoreU(b, d, x + hn::Lanes(d));
  }
}

// The position of element `i` of a row inside pairs of N lanes: kernels keep f32 operands so.
template <class Rows>
HWY_INLINE size_t PairPosition(size_t i, size_t lanes) {
  if (!Rows::kEvenOdd) return i;
  const size_t within = i % (2 * lanes);
  return i - within + within / 2 + (within % 2) * lanes;
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
