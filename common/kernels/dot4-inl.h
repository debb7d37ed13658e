// Dot products of stored rows with four queries at once. Included by kernels once per SIMD target.
#if defined(SOUNDER_COMMON_KERNELS_DOT4_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SOUNDER_COMMON_KERNELS_DOT4_INL_H_
#undef SOUNDER_COMMON_KERNELS_DOT4_INL_H_
#else
#define SOUNDER_COMMON_KERNELS_DOT4_INL_H_
#endif

#include "common/kernels/row_load-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sounder::kernels {
namespace HWY_NAMESPACE {

// Rows handled together, so that a load of the queries serves several: accumulators are 4 times
// this.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_ARCH_ARM_A64  // 32 registers
constexpr size_t kDotRows = 4;
#else
constexpr size_t kDotRows = 2;
#endif

// Per 128-bit block b: {sum of block b of v0, .. of v1, .. of v2, .. of v3}.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SumWithinBlocks(D d, V v0, V v1, V v2, V v3) {
  const V v02 = hn::Add(hn::InterleaveLower(d, v0, v2), hn::InterleaveUpper(d, v0, v2));
  const V v13 = hn::Add(hn::InterleaveLower(d, v1, v3), hn::InterleaveUpper(d, v1, v3));
  return hn::Add(hn::InterleaveLower(d, v02, v13), hn::InterleaveUpper(d, v02, v13));
}

// Stores the sums of the lanes of v0..v3 to out[0..4).
template <class D, class V = hn::Vec<D>>
HWY_INLINE void StoreFourSums(D d, V v0, V v1, V v2, V v3, float* HWY_RESTRICT out) {
  const auto blocks = SumWithinBlocks(d, v0, v1, v2, v3);
  if constexpr (hn::MaxLanes(D()) == 16) {
    const hn::Half<D> dh;
    const hn::Half<decltype(dh)> dq;
    const auto half = hn::Add(hn::LowerHalf(dh, blocks), hn::UpperHalf(dh, blocks));
    hn::StoreU(hn::Add(hn::LowerHalf(dq, half), hn::UpperHalf(dq, half)), dq, out);
  } else if constexpr (hn::MaxLanes(D()) == 8) {
    const hn::Half<D> dh;
    hn::StoreU(hn::Add(hn::LowerHalf(dh, blocks), hn::UpperHalf(dh, blocks)), dh, out);
  } else {
    hn::StoreU(blocks, d, out);
  }
}

// out[4 * k + q] = sum of the lanes of sums[k][q]. Rows that fill a vector are summed together.
template <size_t kRows, class D, class V = hn::Vec<D>>
HWY_INLINE void StoreRowSums(D d, const V (&sums)[kRows][4], float* HWY_RESTRICT out) {
  if constexpr (kRows == 4 && hn::MaxLanes(D()) == 16) {
    V row[4];
    for (size_t k = 0; k < 4; ++k) {
      row[k] = SumWithinBlocks(d, sums[k][0], sums[k][1], sums[k][2], sums[k][3]);
    }
    // Blocks {row 0, row 0, row 2, row 2} and {1, 1, 3, 3}, each twice half of a row.
    const V even =
        hn::Add(hn::ConcatLowerLower(d, row[2], row[0]), hn::ConcatUpperUpper(d, row[2], row[0]));
    const V odd =
        hn::Add(hn::ConcatLowerLower(d, row[3], row[1]), hn::ConcatUpperUpper(d, row[3], row[1]));
    hn::StoreU(hn::Add(hn::OddEvenBlocks(hn::SwapAdjacentBlocks(odd), even),
                       hn::OddEvenBlocks(odd, hn::SwapAdjacentBlocks(even))),
               d, out);
  } else if constexpr (kRows == 2 && hn::MaxLanes(D()) == 8) {
    const V row0 = SumWithinBlocks(d, sums[0][0], sums[0][1], sums[0][2], sums[0][3]);
    const V row1 = SumWithinBlocks(d, sums[1][0], sums[1][1], sums[1][2], sums[1][3]);
    hn::StoreU(hn::Add(hn::ConcatLowerLower(d, row1, row0), hn::ConcatUpperUpper(d, row1, row0)), d,
               out);
  } else {
    for (size_t k = 0; k < kRows; ++k) {
      StoreFourSums(d, sums[k][0], sums[k][1], sums[k][2], sums[k][3], out + 4 * k);
    }
  }
}

// Four queries in the order DotFour reads them: f32[4 * dim], per pair of vectors the four queries,
// each times `scale`. Queries beyond `count` are zero.
template <class Rows, class D>
HWY_INLINE void PackFourQueries(D d, const float* queries, int64_t stride, size_t count, size_t dim,
                                float scale, float* HWY_RESTRICT packed) {
  const size_t lanes = hn::Lanes(d);
  const auto factor = hn::Set(d, scale);
  for (size_t q = 0; q < 4; ++q) {
    const float* query = queries + static_cast<int64_t>(q) * stride;
    for (size_t i = 0; i < dim; i += 2 * lanes) {
      auto a = hn::Zero(d);
      auto b = a;
      if (q < count) LoadF32Pair<Rows>(d, query + i, a, b);
      float* HWY_RESTRICT out = packed + i * 4 + q * 2 * lanes;
      hn::StoreU(hn::Mul(a, factor), d, out);
      hn::StoreU(hn::Mul(b, factor), d, out + lanes);
    }
  }
}

// Keeps gcc from loading `v` once for every use: at AVX2 the loads would take longer than the sums.
template <class V>
HWY_INLINE void KeepInRegister([[maybe_unused]] V& v) {
#if HWY_TARGET == HWY_AVX2
  asm("" : "+x"(v.raw));
#endif
}

// out[4 * k + q] = row k . query q for kRows rows; row(k) is the k-th row's address.
template <class Rows, size_t kRows, class D, class RowOf>
HWY_INLINE void DotFour(D d, const RowOf& row, const float* HWY_RESTRICT packed, size_t dim,
                        float* HWY_RESTRICT out) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d);
  V sums[kRows][4];
  for (size_t k = 0; k < kRows; ++k) {
    for (size_t q = 0; q < 4; ++q) sums[k][q] = hn::Zero(d);
  }
  for (size_t i = 0; i < dim; i += 2 * lanes) {
    V a[kRows];
    V b[kRows];
    for (size_t k = 0; k < kRows; ++k) Rows::LoadPair(d, row(k), i, a[k], b[k]);
    for (size_t q = 0; q < 4; ++q) {
      V qa = hn::LoadU(d, packed + i * 4 + q * 2 * lanes);
      KeepInRegister(qa);
      for (size_t k = 0; k < kRows; ++k) sums[k][q] = hn::MulAdd(a[k], qa, sums[k][q]);
      V qb = hn::LoadU(d, packed + i * 4 + q * 2 * lanes + lanes);
      KeepInRegister(qb);
      for (size_t k = 0; k < kRows; ++k) sums[k][q] = hn::MulAdd(b[k], qb, sums[k][q]);
    }
  }
  StoreRowSums<kRows>(d, sums, out);
}

// Pairs of vectors of values that are summed for four queries at a time.
HWY_INLINE int ValuePairs(const KernelSchedule& schedule) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_ARCH_ARM_A64
  constexpr int kBySet = 2;
#else
  constexpr int kBySet = 1;
#endif
  return schedule.value_pairs == 0 ? kBySet : schedule.value_pairs;
}

// Calls function(tag) with the widest vectors of which a pair divides dim, a multiple of 8.
template <class Function>
HWY_INLINE void WithWidestTag(size_t dim, const Function& function) {
  const hn::CappedTag<float, 16> d16;
  const hn::CappedTag<float, 8> d8;
  const hn::CappedTag<float, 4> d4;
  if (dim % (2 * hn::Lanes(d16)) == 0) return function(d16);
  if (dim % (2 * hn::Lanes(d8)) == 0) return function(d8);
  return function(d4);
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
