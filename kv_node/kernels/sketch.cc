#include "kv_node/kernels/sketch.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "common/base/check.h"
#include "common/base/philox.h"
#include "common/memory/aligned_buffer.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kv_node/kernels/sketch.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h.
#include "common/kernels/row_load-inl.h"
#include "common/kernels/walsh_hadamard-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sounder::kv_node {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace common = kernels::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;

constexpr float kLargest = 1e15f;  // squares of rotated vectors, summed, stay finite

// Working memory of one batch: one vector per lane, element-major.
struct Batch {
  explicit Batch(const SketchRotation& rotation)
      : centred(4 * rotation.dim() * sizeof(float)),
        input(rotation.padded_dim() * hn::Lanes(F32()) * sizeof(float)),
        rotated(rotation.padded_dim() * hn::Lanes(F32()) * sizeof(float)) {}
  memory::AlignedBuffer centred;  // f32[4, dim]
  memory::AlignedBuffer input;    // f32[padded_dim, lanes]
  memory::AlignedBuffer rotated;  // f32[padded_dim, lanes]
};

// x f32[dim] = a row minus mean, elements that are no numbers or too large as 0.
template <class Rows>
HWY_INLINE void Centre(const std::byte* row, const float* mean, size_t dim, float* HWY_RESTRICT x) {
  const hn::CappedTag<float, 8> d;
  for (size_t i = 0; i < dim; i += hn::Lanes(d)) {
    auto v = Rows::Load(d, row, i);
    if (mean != nullptr) v = hn::Sub(v, hn::LoadU(d, mean + i));
    const auto valid = hn::Le(hn::Abs(v), hn::Set(d, kLargest));
    hn::StoreU(hn::IfThenElseZero(valid, v), d, x + i);
  }
}

// y[i, 0..3] = x[0..3, i]: four vectors of x f32[4, dim] to four neighbouring lanes of y.
HWY_INLINE void TransposeFour(const float* HWY_RESTRICT x, size_t dim, float* HWY_RESTRICT y) {
  const hn::FixedTag<float, 4> d;
  const hn::RepartitionToWide<decltype(d)> dw;
  const auto low = [&](auto a, auto b)
                       HWY_ATTR { return hn::BitCast(dw, hn::InterleaveLower(d, a, b)); };
  const auto high = [&](auto a, auto b)
                        HWY_ATTR { return hn::BitCast(dw, hn::InterleaveUpper(d, a, b)); };
  const size_t lanes = hn::Lanes(F32());
  for (size_t i = 0; i < dim; i += 4) {
    const auto a = hn::LoadU(d, x + i);
    const auto b = hn::LoadU(d, x + dim + i);
    const auto c = hn::LoadU(d, x + 2 * dim + i);
    const auto e = hn::LoadU(d, x + 3 * dim + i);
    const auto ab = low(a, b);
    const auto ce = low(c, e);
    const auto ab2 = high(a, b);
    const auto ce2 = high(c, e);
    float* out = y + i * lanes;
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dw, ab, ce)), d, out);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dw, ab, ce)), d, out + lanes);
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dw, ab2, ce2)), d, out + 2 * lanes);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dw, ab2, ce2)), d, out + 3 * lanes);
  }
}

// input = rows [first, first + count) minus mean, transposed and padded with zeros.
template <class Rows>
HWY_INLINE void LoadBatch(const memory::RowsView& rows, const float* mean, int64_t first,
                          size_t count, Batch& batch) {
  float* HWY_RESTRICT x = batch.centred.As<float>().data();
  float* HWY_RESTRICT y = batch.input.As<float>().data();
  const size_t dim = rows.dim;
  const size_t lanes = hn::Lanes(F32());
  if (count < lanes || batch.input.size() > dim * lanes * sizeof(float)) {
    std::memset(y, 0, batch.input.size());
  }
  for (size_t lane = 0; lane < count; lane += 4) {
    for (size_t k = 0; k < 4; ++k) {
      if (lane + k < count) {
        Centre<Rows>(rows.Row(first + static_cast<int64_t>(lane + k)), mean, dim, x + k * dim);
      } else {
        std::memset(x + k * dim, 0, dim * sizeof(float));
      }
    }
    TransposeFour(x, dim, y + lane);
  }
}

// rotated = padded_dim times the rotation of input.
HWY_INLINE void Rotate(const SketchRotation& rotation, int index, Batch& batch) {
  const F32 d;
  const size_t lanes = hn::Lanes(F32());
  const size_t dim = rotation.padded_dim();
  const float* HWY_RESTRICT x = batch.input.As<float>().data();
  float* HWY_RESTRICT y = batch.rotated.As<float>().data();
  const float* signs0 = rotation.signs(index, 0).data();
  const float* signs1 = rotation.signs(index, 1).data();
  const auto add = [](auto a, auto b) HWY_ATTR { return hn::Add(a, b); };
  const auto sub = [](auto a, auto b) HWY_ATTR { return hn::Sub(a, b); };
  common::WalshHadamard(
      d, y, lanes, dim,
      [&](size_t i)
          HWY_ATTR { return hn::Mul(hn::LoadU(d, x + i * lanes), hn::Set(d, signs0[i])); },
      add, sub);
  common::WalshHadamard(
      d, y, lanes, dim,
      [&](size_t i)
          HWY_ATTR { return hn::Mul(hn::LoadU(d, y + i * lanes), hn::Set(d, signs1[i])); },
      add, sub);
}

// Sums over the coordinates of the batch's rows, lane by lane.
struct Norms {
  // Coordinate j is added to sum j % kParts: no chain of additions is long, at any SIMD level.
  static constexpr size_t kParts = 4;
  hn::Vec<F32> l1[kParts];      // sum |y_j| over the coordinates that give bits
  hn::Vec<F32> square[kParts];  // sum y_j^2 over all coordinates of one rotation

  // Said here, since GCC compiles a constructor that is not without the flags of the SIMD level.
  HWY_INLINE Norms() {}

  static HWY_INLINE void Clear(hn::Vec<F32>* sums) {
    for (size_t k = 0; k < kParts; ++k) sums[k] = hn::Zero(F32());
  }
  static HWY_INLINE hn::Vec<F32> Sum(const hn::Vec<F32>* sums) {
    return hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
  }
};

// Signs of the batch's rows to their places in `block` (of the block the batch lies in), from group
// `first_group` on, and their part of the norms.
HWY_INLINE void StoreSigns(const Batch& batch, int bits, int padded_dim, int first_group,
                           size_t row_in_block, uint8_t* HWY_RESTRICT block, Norms& norms) {
  const F32 d;
  const hn::RebindToUnsigned<F32> du;
  const hn::RebindToSigned<F32> di;
  const hn::Rebind<uint8_t, F32> d8;
  const size_t lanes = hn::Lanes(d);
  const float* HWY_RESTRICT y = batch.rotated.As<float>().data();
  Norms::Clear(norms.square);
  for (int group = 0; group < bits / 8; ++group, y += 8 * lanes) {
    auto byte = hn::Zero(du);
    for (size_t k = 0; k < 8; ++k) {
      const auto v = hn::LoadU(d, y + k * lanes);
      const size_t part = k % Norms::kParts;
      norms.l1[part] = hn::Add(norms.l1[part], hn::Abs(v));
      norms.square[part] = hn::Add(norms.square[part], hn::Mul(v, v));
      const auto positive = hn::RebindMask(du, hn::Gt(v, hn::Zero(d)));
      byte = hn::Or(byte, hn::IfThenElseZero(positive, hn::Set(du, uint32_t{1} << k)));
    }
    hn::StoreU(hn::DemoteTo(d8, hn::BitCast(di, byte)), d8,
               block + (first_group + group) * kSketchBlockRows + row_in_block);
  }
  for (int j = bits; j < padded_dim; ++j, y += lanes) {
    const auto v = hn::LoadU(d, y);
    auto& sum = norms.square[j % Norms::kParts];
    sum = hn::Add(sum, hn::Mul(v, v));
  }
}

// Blocks, and factors f32[PaddedRows].
void Build(const SketchRotation& rotation, const memory::RowsView& keys, const float* mean,
           uint8_t* blocks, float* factors) {
  Batch batch(rotation);
  const size_t lanes = hn::Lanes(F32());
  const int bits = rotation.bits_per_rotation();
  const int padded_dim = rotation.padded_dim();
  const size_t block_bytes = static_cast<size_t>(rotation.bits() / 8 * kSketchBlockRows);
  for (int64_t r = 0; r < SketchView::PaddedRows(keys.rows); r += static_cast<int64_t>(lanes)) {
    const size_t count =
        static_cast<size_t>(std::clamp<int64_t>(keys.rows - r, 0, static_cast<int64_t>(lanes)));
    common::WithRows(keys.dtype, [&](auto rows) HWY_ATTR {
      LoadBatch<decltype(rows)>(keys, mean, r, count, batch);
    });
    Norms norms;
    Norms::Clear(norms.l1);
    for (int i = 0; i < rotation.rotations(); ++i) {
      Rotate(rotation, i, batch);
      StoreSigns(batch, bits, padded_dim, i * bits / 8, static_cast<size_t>(r % kSketchBlockRows),
                 blocks + static_cast<size_t>(r / kSketchBlockRows) * block_bytes, norms);
    }
    HWY_ALIGN float l1[hn::MaxLanes(F32())];
    HWY_ALIGN float square[hn::MaxLanes(F32())];
    hn::Store(Norms::Sum(norms.l1), F32(), l1);
    hn::Store(Norms::Sum(norms.square), F32(), square);
    for (size_t lane = 0; lane < lanes; ++lane) {
      // y is padded_dim times the rotation, so |k'|^2 is square / padded_dim^2.
      const float f = square[lane] / (static_cast<float>(padded_dim) * l1[lane]);
      factors[r + static_cast<int64_t>(lane)] = l1[lane] > 0 ? f : 0;
    }
  }
}

void RotateAll(const SketchRotation& rotation, const memory::RowsView& queries, float* rotated) {
  Batch batch(rotation);
  const size_t lanes = hn::Lanes(F32());
  const int bits = rotation.bits_per_rotation();
  const float unit = 1.0f / static_cast<float>(rotation.padded_dim());
  const float* HWY_RESTRICT y = batch.rotated.As<float>().data();
  for (int64_t r = 0; r < queries.rows; r += static_cast<int64_t>(lanes)) {
    const size_t count =
        static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(lanes), queries.rows - r));
    LoadBatch<common::F32Rows>(queries, nullptr, r, count, batch);
    for (int i = 0; i < rotation.rotations(); ++i) {
      Rotate(rotation, i, batch);
      for (size_t lane = 0; lane < count; ++lane) {
        float* out = rotated + (r + static_cast<int64_t>(lane)) * rotation.bits() + i * bits;
        for (int j = 0; j < bits; ++j) out[j] = y[j * lanes + lane] * unit;
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kv_node
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sounder::kv_node {

HWY_EXPORT(Build);
HWY_EXPORT(RotateAll);

namespace {

constexpr uint64_t kSketchStream = 3;

}  // namespace

SketchRotation::SketchRotation(int dim, int bits, uint64_t seed)
    : dim_(dim), bits_(bits), padded_dim_(static_cast<int>(std::bit_ceil(uint32_t(dim)))) {
  CHECK(dim >= 8 && dim <= 512 && dim % 8 == 0) << "dim " << dim;
  CHECK(bits == 64 || bits == 128 || bits == 256) << "bits " << bits;
  rotations_ = std::max(1, bits / padded_dim_);
  base::PhiloxStream random(seed, kSketchStream);
  for (int i = 0; i < 2 * rotations_ * padded_dim_; ++i) {
    signs_.push_back((random.Next32() >> 31) != 0 ? -1.0f : 1.0f);
  }
}

int BuildSketch(const SketchRotation& rotation, const memory::RowsView& keys, const float* mean,
                uint8_t* blocks, uint8_t* factors) {
  CHECK(keys.dim == rotation.dim()) << keys.dim;
  const size_t padded = static_cast<size_t>(SketchView::PaddedRows(keys.rows));
  std::vector<float> exact(padded);
  HWY_DYNAMIC_DISPATCH(Build)(rotation, keys, mean, blocks, exact.data());
  const float largest = *std::max_element(exact.begin(), exact.end());
  if (!(largest > 0)) {
    std::fill(factors, factors + padded, uint8_t{0});
    return 0;
  }
  int exponent = 0;  // of a number in [.5, 1)
  std::frexp(largest, &exponent);
  const double unit = std::ldexp(1.0, exponent - 8);
  for (size_t r = 0; r < padded; ++r) {
    factors[r] = static_cast<uint8_t>(std::min(255.0, std::nearbyint(exact[r] / unit)));
  }
  return exponent - 8;
}

void RotateQueries(const SketchRotation& rotation, const float* vectors, int64_t stride,
                   int64_t count, float* rotated) {
  const memory::RowsView rows = {.data = reinterpret_cast<const std::byte*>(vectors),
                                 .rows = count,
                                 .row_stride = stride * static_cast<int64_t>(sizeof(float)),
                                 .dim = rotation.dim(),
                                 .dtype = base::DType::kF32};
  HWY_DYNAMIC_DISPATCH(RotateAll)(rotation, rows, rotated);
}

}  // namespace sounder::kv_node
#endif  // HWY_ONCE
