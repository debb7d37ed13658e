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
      : lanes(hn::Lanes(F32())),
        centred(rotation.dim() * sizeof(float)),
        input(rotation.padded_dim() * lanes * sizeof(float)),
        rotated(rotation.padded_dim() * lanes * sizeof(float)) {}
  size_t lanes;
  memory::AlignedBuffer centred;  // f32[dim]
  memory::AlignedBuffer input;    // f32[padded_dim, lanes]
  memory::AlignedBuffer rotated;  // f32[padded_dim, lanes]
};

// input = rows [first, first + count) minus mean, transposed and padded with zeros.
template <class Rows>
HWY_INLINE void LoadBatch(const memory::RowsView& rows, const float* mean, int64_t first,
                          size_t count, Batch& batch) {
  const hn::CappedTag<float, 8> d;
  float* HWY_RESTRICT x = batch.centred.As<float>().data();
  float* HWY_RESTRICT y = batch.input.As<float>().data();
  const size_t dim = rows.dim;
  const size_t lanes = batch.lanes;
  if (count < lanes || batch.input.size() > dim * lanes * sizeof(float)) {
    std::memset(y, 0, batch.input.size());
  }
  for (size_t lane = 0; lane < count; ++lane) {
    const std::byte* row = rows.Row(first + static_cast<int64_t>(lane));
    for (size_t i = 0; i < dim; i += hn::Lanes(d)) {
      auto v = Rows::Load(d, row, i);
      if (mean != nullptr) v = hn::Sub(v, hn::LoadU(d, mean + i));
      const auto valid = hn::Le(hn::Abs(v), hn::Set(d, kLargest));
      hn::StoreU(hn::IfThenElseZero(valid, v), d, x + i);
    }
    for (size_t i = 0; i < dim; ++i) y[i * lanes + lane] = x[i];
  }
}

// rotated = padded_dim times the rotation of input.
HWY_INLINE void Rotate(const SketchRotation& rotation, int index, Batch& batch) {
  const F32 d;
  const size_t lanes = batch.lanes;
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

// Signs of the batch's rows to their places in `block` (of the block the batch lies in), from group
// `first_group` on.
HWY_INLINE void StoreSigns(const Batch& batch, int bits, int first_group, size_t row_in_block,
                           uint8_t* HWY_RESTRICT block) {
  const F32 d;
  const hn::RebindToUnsigned<F32> du;
  const hn::RebindToSigned<F32> di;
  const hn::Rebind<uint8_t, F32> d8;
  const float* HWY_RESTRICT y = batch.rotated.As<float>().data();
  for (int group = 0; group < bits / 8; ++group) {
    auto byte = hn::Zero(du);
    for (int k = 0; k < 8; ++k, y += batch.lanes) {
      const auto positive = hn::RebindMask(du, hn::Gt(hn::LoadU(d, y), hn::Zero(d)));
      byte = hn::Or(byte, hn::IfThenElseZero(positive, hn::Set(du, uint32_t{1} << k)));
    }
    hn::StoreU(hn::DemoteTo(d8, hn::BitCast(di, byte)), d8,
               block + (first_group + group) * kSketchBlockRows + row_in_block);
  }
}

// Adds sum_j |y_j| over the bits' coordinates to l1, and writes sum_j y_j^2 over all to square.
HWY_INLINE void AddNorms(const Batch& batch, int bits, int padded_dim, float* HWY_RESTRICT l1,
                         float* HWY_RESTRICT square) {
  const F32 d;
  const float* HWY_RESTRICT y = batch.rotated.As<float>().data();
  auto sum = hn::LoadU(d, l1);
  for (int j = 0; j < bits; ++j) sum = hn::Add(sum, hn::Abs(hn::LoadU(d, y + j * batch.lanes)));
  hn::StoreU(sum, d, l1);
  auto squares = hn::Zero(d);
  for (int j = 0; j < padded_dim; ++j) {
    const auto v = hn::LoadU(d, y + j * batch.lanes);
    squares = hn::Add(squares, hn::Mul(v, v));
  }
  hn::StoreU(squares, d, square);
}

// Blocks, and factors f32[PaddedRows].
void Build(const SketchRotation& rotation, const memory::RowsView& keys, const float* mean,
           uint8_t* blocks, float* factors) {
  Batch batch(rotation);
  const size_t lanes = batch.lanes;
  const int bits = rotation.bits_per_rotation();
  const int padded_dim = rotation.padded_dim();
  const size_t block_bytes = static_cast<size_t>(rotation.bits() / 8 * kSketchBlockRows);
  for (int64_t r = 0; r < SketchView::PaddedRows(keys.rows); r += static_cast<int64_t>(lanes)) {
    const size_t count =
        static_cast<size_t>(std::clamp<int64_t>(keys.rows - r, 0, static_cast<int64_t>(lanes)));
    common::WithRows(keys.dtype, [&](auto rows) HWY_ATTR {
      LoadBatch<decltype(rows)>(keys, mean, r, count, batch);
    });
    HWY_ALIGN float l1[hn::MaxLanes(F32())] = {};
    HWY_ALIGN float square[hn::MaxLanes(F32())] = {};
    for (int i = 0; i < rotation.rotations(); ++i) {
      Rotate(rotation, i, batch);
      StoreSigns(batch, bits, i * bits / 8, static_cast<size_t>(r % kSketchBlockRows),
                 blocks + static_cast<size_t>(r / kSketchBlockRows) * block_bytes);
      AddNorms(batch, bits, padded_dim, l1, square);
    }
    for (size_t lane = 0; lane < lanes; ++lane) {
      // y is padded_dim times the rotation, so |k'|^2 is square / padded_dim^2.
      const float f = square[lane] / (static_cast<float>(padded_dim) * l1[lane]);
      factors[r + static_cast<int64_t>(lane)] = l1[lane] > 0 ? f : 0;
    }
  }
}

void RotateAll(const SketchRotation& rotation, const memory::RowsView& queries, float* rotated) {
  Batch batch(rotation);
  const size_t lanes = batch.lanes;
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
