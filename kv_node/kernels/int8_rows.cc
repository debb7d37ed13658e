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

// out i8[dim] and the scale of one row, minus mean where there is one.
template <class Rows>
HWY_INLINE float QuantizeRow(const std::byte* row, size_t dim, const float* mean,
                             int8_t* HWY_RESTRICT out) {
  const hn::CappedTag<float, 8> d;
  const hn::Rebind<int8_t, decltype(d)> d8;
  const auto most = hn::Set(d, 3e38f);
  HWY_ALIGN float x[base::kMaxHeadDim];
  auto largest = hn::Zero(d);
  for (size_t i = 0; i < dim; i += hn::Lanes(d)) {
    auto v = Rows::Load(d, row, i);
    if (mean != nullptr) v = hn::Sub(v, hn::LoadU(d, mean + i));
    v = hn::IfThenElseZero(hn::Le(hn::Abs(v), most), v);
    largest = hn::Max(largest, hn::Abs(v));
    hn::Store(v, d, x + i);
  }
  const float scale = hn::GetLane(hn::MaxOfLanes(d, largest)) / 127.0f;
  const auto inverse = hn::Set(d, scale > 0 ? 1.0f / scale : 0.0f);
  const auto end = hn::Set(d, 127.0f);
  for (size_t i = 0; i < dim; i += hn::Lanes(d)) {
    // The inverse of a tiny scale may be infinite.
    auto v = hn::Mul(hn::Load(d, x + i), inverse);
    v = hn::Min(hn::Max(hn::IfThenElseZero(hn::Eq(v, v), v), hn::Neg(end)), end);
    hn::StoreU(hn::DemoteTo(d8, hn::NearestInt(v)), d8, out + i);
  }
  return scale;
}

void Quantize(const memory::RowsView& keys, const memory::RowsView& values, const float* mean,
              std::byte* records) {
  const size_t dim = keys.dim;
  common::WithRows(keys.dtype, [&](auto type) HWY_ATTR {
    using Rows = decltype(type);
    for (int64_t r = 0; r < keys.rows; ++r) {
      std::byte* record = records + static_cast<size_t>(r) * Int8Rows::RecordBytes(keys.dim);
      int8_t* out = reinterpret_cast<int8_t*>(record + Int8Rows::kScaleBytes);
      const float scales[2] = {QuantizeRow<Rows>(keys.Row(r), dim, mean, out),
                               QuantizeRow<Rows>(values.Row(r), dim, nullptr, out + dim)};
      std::memcpy(record, scales, sizeof scales);
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
