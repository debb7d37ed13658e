// Powers of two of differences to a maximum, in f32. Included by kernels once per SIMD target.
#if defined(SOUNDER_COMMON_KERNELS_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SOUNDER_COMMON_KERNELS_EXP_INL_H_
#undef SOUNDER_COMMON_KERNELS_EXP_INL_H_
#else
#define SOUNDER_COMMON_KERNELS_EXP_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sounder::kernels {
namespace HWY_NAMESPACE {

// 2^x for x <= 0, within 2e-7 of it, relatively; 0 from -126 down, -inf included; powers of two for
// whole x. 2^f on [-1/2, 1/2] is the polynomial of degree 5 with the least relative error, 1.1e-7,
// among those that are 1 at 0. A third of the instructions of Highway's Exp, which serves all
// numbers.
template <class D, class V = hwy::HWY_NAMESPACE::Vec<D>>
HWY_INLINE V Exp2NonPositive(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToUnsigned<D> du;
  // Adding it rounds to an integer, which is then in the sum's lowest bits.
  const V rounder = hn::Set(d, 0x1.8p23f);
  const V shifted = hn::Add(x, rounder);
  const V fraction = hn::Sub(x, hn::Sub(shifted, rounder));
  V power = hn::MulAdd(fraction, hn::Set(d, 0x1.5bba2ep-10f), hn::Set(d, 0x1.3cea92p-7f));
  power = hn::MulAdd(fraction, power, hn::Set(d, 0x1.c6b752p-5f));
  power = hn::MulAdd(fraction, power, hn::Set(d, 0x1.ebf9bcp-3f));
  power = hn::MulAdd(fraction, power, hn::Set(d, 0x1.62e42ap-1f));
  power = hn::MulAdd(fraction, power, hn::Set(d, 1.0f));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(du, shifted));
  const V result = hn::BitCast(d, hn::Add(hn::BitCast(du, power), exponent));
  return hn::IfThenElseZero(hn::Gt(x, hn::Set(d, -126.0f)), result);
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
