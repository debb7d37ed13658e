#include "common/kernels/row_statistics.h"

#include <algorithm>
#include <cmath>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/row_statistics.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h.
#include "common/kernels/row_load-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sounder::kernels {
namespace HWY_NAMESPACE {

constexpr int64_t kRun = 256;

template <class Rows>
HWY_INLINE void AddRows(const memory::RowsView& rows, int64_t begin, int64_t end,
                        float* HWY_RESTRICT sum) {
  const hn::CappedTag<float, 8> d;
  for (int64_t r = begin; r < end; ++r) {
    const std::byte* row = rows.Row(r);
    for (size_t i = 0; i < static_cast<size_t>(rows.dim); i += hn::Lanes(d)) {
      hn::StoreU(hn::Add(hn::LoadU(d, sum + i), Rows::Load(d, row, i)), d, sum + i);
    }
  }
}

void Mean(const memory::RowsView& rows, float* mean) {
  std::vector<double> total(rows.dim, 0.0);
  std::vector<float> run(rows.dim);
  for (int64_t begin = 0; begin < rows.rows; begin += kRun) {
    std::fill(run.begin(), run.end(), 0.0f);
    WithRows(rows.dtype, [&](auto type) HWY_ATTR {
      AddRows<decltype(type)>(rows, begin, std::min(rows.rows, begin + kRun), run.data());
    });
    for (int c = 0; c < rows.dim; ++c) total[c] += run[c];
  }
  for (int c = 0; c < rows.dim; ++c) {
    mean[c] = rows.rows == 0 ? 0.0f : static_cast<float>(total[c] / static_cast<double>(rows.rows));
  }
}

template <class Rows>
HWY_INLINE void NormsOf(const memory::RowsView& rows, const float* mean, float* norms) {
  const hn::CappedTag<float, 8> d;
  for (int64_t r = 0; r < rows.rows; ++r) {
    const std::byte* row = rows.Row(r);
    auto sum = hn::Zero(d);
    for (size_t i = 0; i < static_cast<size_t>(rows.dim); i += hn::Lanes(d)) {
      const auto x = hn::Sub(Rows::Load(d, row, i), hn::LoadU(d, mean + i));
      sum = hn::MulAdd(x, x, sum);
    }
    norms[r] = std::sqrt(hn::GetLane(hn::SumOfLanes(d, sum)));
  }
}

void Norms(const memory::RowsView& rows, const float* mean, float* norms) {
  WithRows(rows.dtype, [&](auto type) HWY_ATTR { NormsOf<decltype(type)>(rows, mean, norms); });
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sounder::kernels {

HWY_EXPORT(Mean);
HWY_EXPORT(Norms);

void MeanOfRows(const memory::RowsView& rows, float* mean) {
  HWY_DYNAMIC_DISPATCH(Mean)(rows, mean);
}

void CentredNorms(const memory::RowsView& rows, const float* mean, float* norms) {
  HWY_DYNAMIC_DISPATCH(Norms)(rows, mean, norms);
}

}  // namespace sounder::kernels
#endif  // HWY_ONCE
