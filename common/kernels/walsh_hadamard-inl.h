// The Walsh-Hadamard transform of many vectors at once, one vector per lane: every butterfly is an
// elementwise addition, so results have the same bits at every SIMD width. Included by kernels once
// per SIMD target.
#if defined(SOUNDER_COMMON_KERNELS_WALSH_HADAMARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SOUNDER_COMMON_KERNELS_WALSH_HADAMARD_INL_H_
#undef SOUNDER_COMMON_KERNELS_WALSH_HADAMARD_INL_H_
#else
#define SOUNDER_COMMON_KERNELS_WALSH_HADAMARD_INL_H_
#endif

#include <cstddef>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sounder::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// One pass over `radix` (2, 4 or 8) elements at distance `h`: the stages h, 2h, .. of the
// transform. x holds `dim` vectors, `stride` elements apart; load(i) brings element i, results go
// to x.
template <size_t kRadix, class D, class T, class Load, class Add, class Sub>
HWY_INLINE void ButterflyPass(D d, T* HWY_RESTRICT x, size_t stride, size_t dim, size_t h,
                              const Load& load, const Add& add, const Sub& sub) {
  for (size_t base = 0; base < dim; base += kRadix * h) {
    for (size_t i = base; i < base + h; ++i) {
      hn::Vec<D> v[kRadix];
      for (size_t k = 0; k < kRadix; ++k) v[k] = load(i + k * h);
      for (size_t step = 1; step < kRadix; step *= 2) {
        for (size_t k = 0; k < kRadix; ++k) {
          if ((k & step) != 0) continue;
          const auto a = v[k];
          const auto b = v[k + step];
          v[k] = add(a, b);
          v[k + step] = sub(a, b);
        }
      }
      for (size_t k = 0; k < kRadix; ++k) hn::StoreU(v[k], d, x + (i + k * h) * stride);
    }
  }
}

// Walsh-Hadamard transform of `dim` vectors (a power of two, >= 8), lane by lane. The first pass
// reads through first_load.
template <class D, class T, class Load, class Add, class Sub>
HWY_INLINE void WalshHadamard(D d, T* HWY_RESTRICT x, size_t stride, size_t dim,
                              const Load& first_load, const Add& add, const Sub& sub) {
  const auto load = [&](size_t i) HWY_ATTR { return hn::LoadU(d, x + i * stride); };
  ButterflyPass<8>(d, x, stride, dim, 1, first_load, add, sub);
  size_t h = 8;
  for (; h * 8 <= dim; h *= 8) ButterflyPass<8>(d, x, stride, dim, h, load, add, sub);
  if (h * 4 == dim) ButterflyPass<4>(d, x, stride, dim, h, load, add, sub);
  if (h * 2 == dim) ButterflyPass<2>(d, x, stride, dim, h, load, add, sub);
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
