#include "kv_node/kernels/int8_rows.h"

#include <cstring>

#include "common/base/check.h"
#include "common/base/limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kv_node/kernels/int8_rows.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h.
#include "common/kernels/row_load-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sounder::kv_node {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace common = kernels::HWY_NAMESPACE;

// out i8[dim] = scaled(x f32[dim]), rounded to the nearest.
template <class D, class Scaled>
HWY_INLINE void RoundRow(D d, const float* HWY_RESTRICT x, size_t dim, const Scaled& scaled,
                         int8_t* HWY_RESTRICT out) {
  const hn::Rebind<int8_t, D> d8;
  for (size_t i = 0; i < dim; i += hn::Lanes(d)) {
    hn::StoreU(hn::DemoteTo(d8, hn::NearestInt(scaled(hn::Load(d, x + i)))), d8, out + i);
  }
}

// out i8[dim] and the scale of one row, minus mean where there is one. dim is a multiple of d's
// lanes; the largest magnitude, and so the result, does not depend on them.
template <class Rows, class D>
HWY_INLINE float QuantizeRow(D d, const std::byte* row, size_t dim, const float* mean,
                             int8_t* HWY_RESTRICT out) {
  const auto most = hn::Set(d, 3e38f);
  HWY_ALIGN float x[base::kMaxHeadDim];
  auto largest = hn::Zero(d);
  for (size_t i = 0; i < dim; i += hn::Lanes(d)) {
    auto v = Rows::Load(d, row, i);
    if (mean != nullptr) v = hn::Sub(v, hn::LoadU(d, mean + i));
    const auto magnitude = hn::Abs(v);
    const auto valid = hn::Le(magnitude, most);
    largest = hn::Max(largest, hn::IfThenElseZero(valid, magnitude));
    hn::Store(hn::IfThenElseZero(valid, v), d, x + i);
  }
  const float scale = hn::GetLane(hn::MaxOfLanes(d, largest)) / 127.0f;
  if (HWY_LIKELY(scale > 1e-37f)) {
    const auto inverse = hn::Set(d, 1.0f / scale);
    RoundRow(
        d, x, dim, [&](auto v) HWY_ATTR { return hn::Mul(v, inverse); }, out);
    return scale;
  }
  // The inverse of a tiny scale may be infinite.
  const auto inverse = hn::Set(d, scale > 0 ? 1.0f / scale : 0.0f);
  const auto end = hn::Set(d, 127.0f);
  const auto scaled = [&](auto v) HWY_ATTR {
    v = hn::Mul(v, inverse);
    return hn::Min(hn::Max(hn::IfThenElseZero(hn::Eq(v, v), v), hn::Neg(end)), end);
  };
  RoundRow(d, x, dim, scaled, out);
  return scale;
}

template <class Rows, class D>
HWY_INLINE void QuantizeAll(D d, const memory::RowsView& keys, const memory::RowsView& values,
                            const float* mean, std::byte* records) {
  const size_t dim = keys.dim;
  for (int64_t r = 0; r < keys.rows; ++r) {
    std::byte* record = records + static_cast<size_t>(r) * Int8Rows::RecordBytes(keys.dim);
    int8_t* out = reinterpret_cast<int8_t*>(record + Int8Rows::kScaleBytes);
    const float scales[2] = {QuantizeRow<Rows>(d, keys.Row(r), dim, mean, out),
                             QuantizeRow<Rows>(d, values.Row(r), dim, nullptr, out + dim)};
    std::memcpy(record, scales, sizeof scales);
  }
}

void Quantize(const memory::RowsView& keys, const memory::RowsView& values, const float* mean,
              std::byte* records) {
  const hn::CappedTag<float, 16> wide;
  const hn::CappedTag<float, 8> narrow;
  common::WithRows(keys.dtype, [&](auto rows) HWY_ATTR {
    using Rows = decltype(rows);
    if (keys.dim % 16 == 0) {
      QuantizeAll<Rows>(wide, keys, values, mean, records);
    } else {
      QuantizeAll<Rows>(narrow, keys, values, mean, records);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kv_node
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sounder::kv_node {

HWY_EXPORT(Quantize);

void QuantizeRows(const memory::RowsView& keys, const memory::RowsView& values, const float* mean,
                  std::byte* records) {
  CHECK(keys.dim == values.dim && keys.rows == values.rows && keys.dtype == values.dtype);
  HWY_DYNAMIC_DISPATCH(Quantize)(keys, values, mean, records);
}

}  // namespace sounder::kv_node
#endif  // HWY_ONCE
