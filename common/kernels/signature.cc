#include "common/kernels/signature.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/base/check.h"
#include "common/lsh/signature.h"
#include "common/memory/aligned_buffer.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/signature.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h.
#include "common/kernels/row_load-inl.h"
#include "common/kernels/walsh_hadamard-inl.h"

#ifndef SOUNDER_COMMON_KERNELS_SIGNATURE_ONCE
#define SOUNDER_COMMON_KERNELS_SIGNATURE_ONCE
namespace sounder::kernels {

// One call's input: rows, minus mean where there is one.
struct SignatureInput {
  memory::RowsView rows;
  const float* mean;
};

}  // namespace sounder::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace sounder::kernels {
namespace HWY_NAMESPACE {

using F32 = hn::ScalableTag<float>;
using I32 = hn::RebindToSigned<F32>;
using I16 = hn::Repartition<int16_t, F32>;

// x f32[dim] = row - mean, elements out of range set to 0. dim is a multiple of 8.
template <class Rows>
HWY_INLINE void LoadCentred(const SignatureInput& in, int64_t r, float* x) {
  const hn::CappedTag<float, 8> d;
  const std::byte* row = in.rows.Row(r);
  const auto largest = hn::Set(d, lsh::kLargestElement);
  for (size_t i = 0; i < static_cast<size_t>(in.rows.dim); i += hn::Lanes(d)) {
    auto v = Rows::Load(d, row, i);
    if (in.mean != nullptr) v = hn::Sub(v, hn::LoadU(d, in.mean + i));
    hn::StoreU(hn::IfThenElseZero(hn::Le(hn::Abs(v), largest), v), d, x + i);
  }
}

// Working memory for one batch of vectors, one vector per 16-bit lane, element-major.
struct HadamardBatch {
  HadamardBatch(const lsh::Projection& projection, size_t lanes)
      : x(projection.dim() * sizeof(float)),
        y(projection.padded_dim() * lanes * sizeof(float)),
        z(projection.padded_dim() * lanes * sizeof(int16_t)),
        w(projection.padded_dim() * lanes * sizeof(int16_t)),
        codes(projection.params().num_tables * lanes * sizeof(uint16_t)) {}
  memory::AlignedBuffer x;      // f32[dim]
  memory::AlignedBuffer y;      // f32[padded_dim, lanes]
  memory::AlignedBuffer z;      // i16[padded_dim, lanes]
  memory::AlignedBuffer w;      // i16[padded_dim, lanes]
  memory::AlignedBuffer codes;  // u16[num_tables, lanes]
};

// y = input rows [r, r + count), transposed, padded, first signs applied.
template <class Rows>
HWY_INLINE void LoadBatch(const lsh::Projection& projection, const SignatureInput& in, int64_t r,
                          size_t count, size_t lanes, HadamardBatch& batch) {
  float* HWY_RESTRICT x = batch.x.As<float>().data();
  float* HWY_RESTRICT y = batch.y.As<float>().data();
  const size_t dim = projection.dim();
  const float* signs = projection.round_signs(0).data();
  if (count < lanes) std::memset(y, 0, dim * lanes * sizeof(float));
  for (size_t lane = 0; lane < count; ++lane) {
    LoadCentred<Rows>(in, r + static_cast<int64_t>(lane), x);
    for (size_t i = 0; i < dim; ++i) y[i * lanes + lane] = x[i] * signs[i];
  }
  const size_t padding = projection.padded_dim() - dim;
  std::memset(y + dim * lanes, 0, padding * lanes * sizeof(float));
}

// The two shared rounds and the rounding to integers: y to z.
HWY_INLINE void RotateAndRound(const lsh::Projection& projection, size_t lanes,
                               HadamardBatch& batch) {
  const F32 d;
  const I32 di;
  const hn::Rebind<int16_t, F32> dh;
  const size_t dim = projection.padded_dim();
  const auto add = [](auto a, auto b) HWY_ATTR { return hn::Add(a, b); };
  const auto sub = [](auto a, auto b) HWY_ATTR { return hn::Sub(a, b); };
  const float* signs = projection.round_signs(1).data();
  const auto levels = hn::Set(d, static_cast<float>(projection.hadamard_levels()));
  for (size_t begin = 0; begin < lanes; begin += hn::Lanes(d)) {
    float* HWY_RESTRICT y = batch.y.As<float>().data() + begin;
    int16_t* HWY_RESTRICT z = batch.z.As<int16_t>().data() + begin;
    WalshHadamard(
        d, y, lanes, dim, [&](size_t i) HWY_ATTR { return hn::LoadU(d, y + i * lanes); }, add, sub);
    WalshHadamard(
        d, y, lanes, dim,
        [&](size_t i)
            HWY_ATTR { return hn::Mul(hn::LoadU(d, y + i * lanes), hn::Set(d, signs[i])); },
        add, sub);
    auto max = hn::Zero(d);
    for (size_t i = 0; i < dim; ++i) max = hn::Max(max, hn::Abs(hn::LoadU(d, y + i * lanes)));
    const auto nonzero = hn::Ge(max, hn::Set(d, lsh::kSmallestNorm));
    const auto factor = hn::IfThenElseZero(
        nonzero, hn::Div(levels, hn::IfThenElse(nonzero, max, hn::Set(d, 1.0f))));
    for (size_t i = 0; i < dim; ++i) {
      const auto rounded = hn::NearestInt(hn::Mul(hn::LoadU(d, y + i * lanes), factor));
      hn::StoreU(hn::DemoteTo(dh, hn::BitCast(di, rounded)), dh, z + i * lanes);
    }
  }
}

// One fresh transform per block; its signs go to the tables' codes.
HWY_INLINE void CodesOfBatch(const lsh::Projection& projection, size_t lanes,
                             HadamardBatch& batch) {
  const I16 d;
  const hn::RebindToUnsigned<I16> du;
  const int bits_per_table = projection.params().bits_per_table;
  const int bits = projection.params().bits();
  const int num_blocks = projection.num_blocks();
  const size_t dim = projection.padded_dim();
  const int16_t* HWY_RESTRICT z = batch.z.As<int16_t>().data();
  int16_t* HWY_RESTRICT w = batch.w.As<int16_t>().data();
  uint16_t* HWY_RESTRICT codes = batch.codes.As<uint16_t>().data();
  std::memset(codes, 0, batch.codes.size());
  for (int block = 0; block < num_blocks; ++block) {
    const int16_t* signs = projection.block_signs(block).data();
    WalshHadamard(
        d, w, lanes, dim,
        [&](size_t i) HWY_ATTR {
          const auto sign = hn::Set(d, signs[i]);
          return hn::Sub(hn::Xor(hn::LoadU(d, z + i * lanes), sign), sign);
        },
        [](auto a, auto b) HWY_ATTR { return hn::SaturatedAdd(a, b); },
        [](auto a, auto b) HWY_ATTR { return hn::SaturatedSub(a, b); });
    int table = block / bits_per_table;
    int j = block % bits_per_table;
    for (int i = 0, bit = block; i < static_cast<int>(dim) && bit < bits; ++i, bit += num_blocks) {
      const auto positive =
          hn::VecFromMask(du, hn::RebindMask(du, hn::Gt(hn::LoadU(d, w + i * lanes), hn::Zero(d))));
      uint16_t* code = codes + table * lanes;
      hn::StoreU(hn::Or(hn::LoadU(du, code),
                        hn::And(positive, hn::Set(du, static_cast<uint16_t>(uint32_t{1} << j)))),
                 du, code);
      for (j += num_blocks; j >= bits_per_table; j -= bits_per_table) ++table;
    }
  }
}

// emit(first row, count, codes [table * lanes + row - first], lanes) per batch.
template <class Emit>
HWY_INLINE void HadamardCodes(const lsh::Projection& projection, const SignatureInput& in,
                              const Emit& emit) {
  const size_t lanes = hn::Lanes(I16());
  HadamardBatch batch(projection, lanes);
  for (int64_t r = 0; r < in.rows.rows; r += static_cast<int64_t>(lanes)) {
    const size_t count =
        static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(lanes), in.rows.rows - r));
    WithRows(in.rows.dtype, [&](auto rows) HWY_ATTR {
      LoadBatch<decltype(rows)>(projection, in, r, count, lanes, batch);
    });
    RotateAndRound(projection, lanes, batch);
    CodesOfBatch(projection, lanes, batch);
    emit(r, count, batch.codes.As<uint16_t>().data(), lanes);
  }
}

// Sum of two products of 16-bit halves per 32-bit lane, exact.
template <class V16>
HWY_INLINE hn::Vec<I32> MulAddPairs(hn::Vec<I32> sum, V16 a, V16 b) {
  const I32 d;
#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR
  auto unused = hn::Zero(d);
  return hn::ReorderWidenMulAccumulate(d, a, b, sum, unused);
#else
  const auto wide_a = hn::BitCast(d, a);
  const auto wide_b = hn::BitCast(d, b);
  const auto even = hn::Mul(hn::ShiftRight<16>(hn::ShiftLeft<16>(wide_a)),
                            hn::ShiftRight<16>(hn::ShiftLeft<16>(wide_b)));
  const auto odd = hn::Mul(hn::ShiftRight<16>(wide_a), hn::ShiftRight<16>(wide_b));
  return hn::Add(sum, hn::Add(even, odd));
#endif
}

constexpr size_t kGaussianRows = 4;

// pairs i32[dim / 2]: the rounded vector, two 16-bit elements each. x f32[dim] is read.
HWY_INLINE void RoundPairs(const float* HWY_RESTRICT x, size_t dim, int16_t* HWY_RESTRICT pairs) {
  const hn::CappedTag<float, 8> d;
  const hn::Rebind<int16_t, decltype(d)> dh;
  auto max = hn::Zero(d);
  for (size_t i = 0; i < dim; i += hn::Lanes(d)) {
    max = hn::Max(max, hn::Abs(hn::LoadU(d, x + i)));
  }
  const float largest = hn::GetLane(hn::MaxOfLanes(d, max));
  const float factor =
      largest < lsh::kSmallestNorm ? 0.0f : static_cast<float>(lsh::kGaussianLevels) / largest;
  for (size_t i = 0; i < dim; i += hn::Lanes(d)) {
    const auto rounded = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor)));
    hn::StoreU(hn::DemoteTo(dh, rounded), dh, pairs + i);
  }
}

// Signatures of kGaussianRows rounded vectors (pairs, i16[kGaussianRows, dim]).
HWY_INLINE void GaussianBits(const lsh::Projection& projection, const int16_t* pairs,
                             uint64_t* signatures) {
  constexpr size_t kVectors = 4;  // of bits
  const I32 d;
  const I16 dh;
  const size_t lanes = hn::Lanes(d);
  const size_t dim = projection.dim();
  const size_t padded_bits = projection.padded_bits();
  const size_t words = projection.params().words();
  std::memset(signatures, 0, kGaussianRows * words * sizeof(uint64_t));
  for (size_t bit = 0; bit < padded_bits; bit += kVectors * lanes) {
    hn::Vec<I32> sums[kGaussianRows][kVectors];
    for (auto& row : sums) {
      for (auto& sum : row) sum = hn::Zero(d);
    }
    for (size_t i = 0; i < dim / 2; ++i) {
      const int16_t* weights = projection.weights().data() + (i * padded_bits + bit) * 2;
      hn::Vec<I16> w[kVectors];
      for (size_t v = 0; v < kVectors; ++v) w[v] = hn::LoadU(dh, weights + v * lanes * 2);
      for (size_t r = 0; r < kGaussianRows; ++r) {
        int32_t pair;
        std::memcpy(&pair, pairs + r * dim + 2 * i, sizeof pair);
        const auto x = hn::BitCast(dh, hn::Set(d, pair));
        for (size_t v = 0; v < kVectors; ++v) sums[r][v] = MulAddPairs(sums[r][v], x, w[v]);
      }
    }
    for (size_t r = 0; r < kGaussianRows; ++r) {
      for (size_t v = 0; v < kVectors; ++v) {
        uint8_t bytes[8] = {};
        hn::StoreMaskBits(d, hn::Gt(sums[r][v], hn::Zero(d)), bytes);
        uint64_t mask;
        std::memcpy(&mask, bytes, sizeof mask);
        const size_t at = bit + v * lanes;
        signatures[r * words + at / 64] |= mask << (at % 64);
      }
    }
  }
}

// emit(row, signature) for every row.
template <class Emit>
HWY_INLINE void GaussianSignatures(const lsh::Projection& projection, const SignatureInput& in,
                                   const Emit& emit) {
  const size_t dim = projection.dim();
  const int words = projection.params().words();
  std::vector<float> x(dim);
  std::vector<int16_t> pairs(kGaussianRows * dim);
  std::vector<uint64_t> signatures(kGaussianRows * words);
  for (int64_t r = 0; r < in.rows.rows; r += kGaussianRows) {
    const int64_t count = std::min<int64_t>(kGaussianRows, in.rows.rows - r);
    for (int64_t k = 0; k < count; ++k) {
      WithRows(in.rows.dtype,
               [&](auto rows) HWY_ATTR { LoadCentred<decltype(rows)>(in, r + k, x.data()); });
      RoundPairs(x.data(), dim, pairs.data() + k * dim);
    }
    GaussianBits(projection, pairs.data(), signatures.data());
    for (int64_t k = 0; k < count; ++k) emit(r + k, signatures.data() + k * words);
  }
}

void SignaturesOf(const lsh::Projection& projection, const SignatureInput& in,
                  uint64_t* signatures) {
  const int words = projection.params().words();
  if (projection.params().projection == lsh::ProjectionKind::kGaussian) {
    GaussianSignatures(projection, in, [&](int64_t r, const uint64_t* signature) {
      std::copy(signature, signature + words, signatures + r * words);
    });
    return;
  }
  const int bits_per_table = projection.params().bits_per_table;
  std::fill(signatures, signatures + in.rows.rows * words, 0);
  HadamardCodes(projection, in, [&](int64_t r, size_t count, const uint16_t* codes, size_t lanes) {
    for (size_t k = 0; k < count; ++k) {
      for (int t = 0; t < projection.params().num_tables; ++t) {
        lsh::SetCode(signatures + (r + k) * words, t, bits_per_table, codes[t * lanes + k]);
      }
    }
  });
}

void CodesOf(const lsh::Projection& projection, const SignatureInput& in, uint16_t* codes,
             int64_t code_stride) {
  const int num_tables = projection.params().num_tables;
  if (projection.params().projection == lsh::ProjectionKind::kGaussian) {
    const int bits_per_table = projection.params().bits_per_table;
    GaussianSignatures(projection, in, [&](int64_t r, const uint64_t* signature) {
      for (int t = 0; t < num_tables; ++t) {
        codes[t * code_stride + r] =
            static_cast<uint16_t>(lsh::CodeOf(signature, t, bits_per_table));
      }
    });
    return;
  }
  HadamardCodes(projection, in, [&](int64_t r, size_t count, const uint16_t* batch, size_t lanes) {
    for (int t = 0; t < num_tables; ++t) {
      std::memcpy(codes + t * code_stride + r, batch + t * lanes, count * sizeof(uint16_t));
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sounder::kernels {

HWY_EXPORT(SignaturesOf);
HWY_EXPORT(CodesOf);

void SignVectors(const lsh::Projection& projection, const float* vectors, int64_t stride,
                 int64_t count, uint64_t* signatures) {
  const memory::RowsView rows = {.data = reinterpret_cast<const std::byte*>(vectors),
                                 .rows = count,
                                 .row_stride = stride * static_cast<int64_t>(sizeof(float)),
                                 .dim = projection.dim(),
                                 .dtype = base::DType::kF32};
  HWY_DYNAMIC_DISPATCH(SignaturesOf)(projection, {.rows = rows, .mean = nullptr}, signatures);
}

void SignRows(const lsh::Projection& projection, const memory::RowsView& rows, const float* mean,
              uint16_t* codes, int64_t code_stride) {
  CHECK(rows.dim == projection.dim()) << rows.dim;
  CHECK(code_stride >= rows.rows) << code_stride;
  HWY_DYNAMIC_DISPATCH(CodesOf)(projection, {.rows = rows, .mean = mean}, codes, code_stride);
}

}  // namespace sounder::kernels
#endif  // HWY_ONCE
