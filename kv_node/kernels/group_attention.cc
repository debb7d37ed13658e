#include "kv_node/kernels/group_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/base/check.h"
#include "common/base/limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kv_node/kernels/group_attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h.
#include "common/kernels/dot4-inl.h"
#include "common/kernels/row_load-inl.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sounder::kv_node {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace common = kernels::HWY_NAMESPACE;

// Queries that share the loads of a row.
constexpr size_t kQueries = 4;

// Sampled rows as they were appended.
template <class Type>
struct StoredRows {
  using Rows = Type;
  static constexpr bool kScaled = false;
  const memory::RowsView& keys;
  const memory::RowsView& values;

  HWY_INLINE const std::byte* Key(int64_t row) const { return keys.Row(row); }
  HWY_INLINE const std::byte* Value(int64_t row) const { return values.Row(row); }
  HWY_INLINE float KeyScale(int64_t) const { return 1; }
  HWY_INLINE float ValueScale(int64_t) const { return 1; }
  HWY_INLINE void Prefetch(int64_t row) const {
    const size_t bytes = keys.dim * base::SizeOf(keys.dtype);
    for (size_t i = 0; i < bytes; i += 64) {
      __builtin_prefetch(Key(row) + i, 0, 2);
      __builtin_prefetch(Value(row) + i, 0, 2);
    }
  }
};

struct Int8Loads {
  static constexpr bool kEvenOdd = false;
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void LoadPair(D d, const std::byte* row, size_t i, V& a, V& b) {
    const hn::Rebind<int8_t, D> d8;
    const hn::RebindToSigned<D> di;
    const int8_t* bytes = reinterpret_cast<const int8_t*>(row) + i;
    a = hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, bytes)));
    b = hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, bytes + hn::Lanes(d))));
  }
};

// Sampled rows in eight bits; keys are without their mean.
struct QuantizedRows {
  using Rows = Int8Loads;
  static constexpr bool kScaled = true;
  const Int8Rows& rows;

  HWY_INLINE const std::byte* Key(int64_t row) const {
    return rows.Record(row) + Int8Rows::kScaleBytes;
  }
  HWY_INLINE const std::byte* Value(int64_t row) const { return Key(row) + rows.dim; }
  HWY_INLINE float KeyScale(int64_t row) const { return Scale(row, 0); }
  HWY_INLINE float ValueScale(int64_t row) const { return Scale(row, sizeof(float)); }
  HWY_INLINE void Prefetch(int64_t row) const {
    const std::byte* record = rows.Record(row);
    const std::byte* end = record + rows.record_bytes();
    for (; record < end; record += 64) __builtin_prefetch(record, 0, 2);
    __builtin_prefetch(end - 1, 0, 2);
  }

 private:
  HWY_INLINE float Scale(int64_t row, size_t offset) const {
    float scale;
    std::memcpy(&scale, rows.Record(row) + offset, sizeof scale);
    return scale;
  }
};

// weights[kQueries * i + q] = logit of row i for query q.
template <class Source, class D>
HWY_INLINE void Logits(D d, const Source& source, const GroupSample& sample, size_t first_query,
                       float* HWY_RESTRICT weights) {
  using Rows = typename Source::Rows;
  const size_t dim = sample.dim;
  const size_t count = sample.rows.size();
  const size_t queries = std::min(kQueries, sample.num_queries - first_query);
  HWY_ALIGN float packed[kQueries * base::kMaxHeadDim];
  common::PackFourQueries<Rows>(d, sample.queries + first_query * dim, sample.dim, queries, dim,
                                sample.scale, packed);
  size_t asked = 0;
  size_t i = 0;
  const auto ask = [&](size_t end) HWY_ATTR {
    for (end = std::min(end, count); asked < end; ++asked) source.Prefetch(sample.rows[asked]);
  };
  const auto key = [&](size_t k) HWY_ATTR { return source.Key(sample.rows[i + k]); };
  for (; i + common::kDotRows <= count; i += common::kDotRows) {
    if (first_query == 0) ask(i + common::kDotRows + sample.schedule.sampled_rows_ahead);
    common::DotFour<Rows, common::kDotRows>(d, key, packed, dim, weights + kQueries * i);
  }
  for (; i < count; ++i) common::DotFour<Rows, 1>(d, key, packed, dim, weights + kQueries * i);
  if constexpr (Source::kScaled) {
    const hn::CappedTag<float, 4> d4;
    for (size_t r = 0; r < count; ++r) {
      const auto scale = hn::Set(d4, source.KeyScale(sample.rows[r]));
      hn::StoreU(hn::Mul(hn::LoadU(d4, weights + kQueries * r), scale), d4, weights + kQueries * r);
    }
  }
}

struct Sums {
  float max[kQueries];  // of the logits
  float sum[kQueries];  // of the weights relative to exp(max)
};

// Logits [count, kQueries] become weights exp(logit - max) * inverse, inverse [count, kQueries].
HWY_INLINE Sums Weights(size_t count, const float* HWY_RESTRICT inverse,
                        float* HWY_RESTRICT weights) {
  const hn::CappedTag<float, 16> d;
  const hn::CappedTag<float, 4> d4;
  const size_t lanes = hn::Lanes(d);
  Sums sums;
  auto max = hn::LoadU(d4, weights);
  for (size_t i = 1; i < count; ++i) max = hn::Max(max, hn::LoadU(d4, weights + kQueries * i));
  hn::StoreU(max, d4, sums.max);
  const auto shift = hn::LoadDup128(d, sums.max);
  const size_t padded = (kQueries * count + lanes - 1) / lanes * lanes;
  // Not 0: far above the logits of a query whose keys all lie far below it, infinity times 0.
  std::fill(weights + kQueries * count, weights + padded, std::numeric_limits<float>::lowest());
  auto sum = hn::Zero(d);
  for (size_t i = 0; i < padded; i += lanes) {
    const auto x = hn::Max(hn::Sub(hn::LoadU(d, weights + i), shift), hn::Set(d, -200.0f));
    const auto weight = hn::Mul(hn::Exp(d, x), hn::LoadU(d, inverse + i));
    sum = hn::Add(sum, weight);
    hn::StoreU(weight, d, weights + i);
  }
  float lane[hn::MaxLanes(d)];
  hn::StoreU(sum, d, lane);
  for (size_t q = 0; q < kQueries; ++q) {
    sums.sum[q] = 0;
    for (size_t i = q; i < lanes; i += kQueries) sums.sum[q] += lane[i];
  }
  return sums;
}

// total [kQueries, dim] += weights^T * values of rows [begin, begin + rows), kPairs pairs of
// vectors from column `i` on.
template <class Source, size_t kPairs, class D>
HWY_INLINE void AddColumns(D d, const Source& source, const uint16_t* HWY_RESTRICT rows,
                           size_t count, const float* HWY_RESTRICT weights, size_t i, size_t dim,
                           float* HWY_RESTRICT total) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d);
  V sums[kQueries][2 * kPairs];
  for (size_t q = 0; q < kQueries; ++q) {
    for (size_t v = 0; v < 2 * kPairs; ++v) {
      sums[q][v] = hn::LoadU(d, total + q * dim + i + v * lanes);
    }
  }
  for (size_t k = 0; k < count; ++k) {
    V x[2 * kPairs];
    for (size_t p = 0; p < kPairs; ++p) {
      Source::Rows::LoadPair(d, source.Value(rows[k]), i + 2 * p * lanes, x[2 * p], x[2 * p + 1]);
    }
    for (size_t q = 0; q < kQueries; ++q) {
      const V weight = hn::Set(d, weights[kQueries * k + q]);
      for (size_t v = 0; v < 2 * kPairs; ++v) sums[q][v] = hn::MulAdd(weight, x[v], sums[q][v]);
    }
  }
  for (size_t q = 0; q < kQueries; ++q) {
    for (size_t v = 0; v < 2 * kPairs; ++v) {
      hn::StoreU(sums[q][v], d, total + q * dim + i + v * lanes);
    }
  }
}

template <class Source, class D>
HWY_INLINE void Values(D d, const Source& source, const GroupSample& sample,
                       const float* HWY_RESTRICT weights, float* HWY_RESTRICT total) {
  const size_t dim = sample.dim;
  const size_t count = sample.rows.size();
  const size_t pair = 2 * hn::Lanes(d);
  std::fill(total, total + kQueries * dim, 0.0f);
  const size_t tile_rows = sample.schedule.sampled_tile_rows;
  HWY_ALIGN float scaled[kQueries * kernels::kMaxSampledTileRows];
  for (size_t begin = 0; begin < count; begin += tile_rows) {
    const size_t rows = std::min(tile_rows, count - begin);
    const uint16_t* tile = sample.rows.data() + begin;
    const float* tile_weights = weights + kQueries * begin;
    if constexpr (Source::kScaled) {
      const hn::CappedTag<float, 4> d4;
      for (size_t k = 0; k < rows; ++k) {
        const auto scale = hn::Set(d4, source.ValueScale(tile[k]));
        hn::StoreU(hn::Mul(hn::LoadU(d4, tile_weights + kQueries * k), scale), d4,
                   scaled + kQueries * k);
      }
      tile_weights = scaled;
    }
    size_t i = 0;
    for (; common::ValuePairs(sample.schedule) == 2 && i + 2 * pair <= dim; i += 2 * pair) {
      AddColumns<Source, 2>(d, source, tile, rows, tile_weights, i, dim, total);
    }
    for (; i < dim; i += pair) {
      AddColumns<Source, 1>(d, source, tile, rows, tile_weights, i, dim, total);
    }
  }
}

// The variance terms of one query; output f32[dim], in order.
template <class Source, class D>
HWY_INLINE void ErrorTerms(D d, const Source& source, const GroupSample& sample,
                           const float* HWY_RESTRICT weights, float sum,
                           const float* HWY_RESTRICT output, float* HWY_RESTRICT errors) {
  using Rows = typename Source::Rows;
  const size_t dim = sample.dim;
  const size_t lanes = hn::Lanes(d);
  HWY_ALIGN float paired[base::kMaxHeadDim];
  for (size_t i = 0; i < dim; ++i) paired[common::PairPosition<Rows>(i, lanes)] = output[i];
  double a = 0;
  double b = 0;
  double concentration = 0;
  for (size_t k = 0; k < sample.rows.size(); ++k) {
    const double share = double{weights[kQueries * k]} / sum;
    const double p = sample.probabilities[k];
    const auto scale = hn::Set(d, source.ValueScale(sample.rows[k]));
    auto square = hn::Zero(d);
    for (size_t i = 0; i < dim; i += 2 * lanes) {
      hn::Vec<D> x;
      hn::Vec<D> y;
      Rows::LoadPair(d, source.Value(sample.rows[k]), i, x, y);
      x = hn::Sub(hn::Mul(x, scale), hn::Load(d, paired + i));
      y = hn::Sub(hn::Mul(y, scale), hn::Load(d, paired + i + lanes));
      square = hn::MulAdd(x, x, hn::MulAdd(y, y, square));
    }
    const double term = (1 - p) * share * share;
    a += term * hn::GetLane(hn::SumOfLanes(d, square));
    b += term;
    concentration += p * share * share;
  }
  errors[0] = static_cast<float>(a);
  errors[1] = static_cast<float>(b);
  errors[2] = static_cast<float>(concentration);
}

template <class Source, class D>
HWY_NOINLINE void AttendAll(D d, const Source& source, const GroupSample& sample, float* workspace,
                            float* outputs, float* lse, float* errors) {
  using Rows = typename Source::Rows;
  const size_t dim = sample.dim;
  const size_t count = sample.rows.size();
  const size_t padded = (kQueries * count + 15) / 16 * 16;
  float* HWY_RESTRICT inverse = workspace;
  float* HWY_RESTRICT weights = workspace + padded;
  for (size_t i = 0; i < count; ++i) {
    std::fill_n(inverse + kQueries * i, kQueries, 1 / sample.probabilities[i]);
  }
  std::fill(inverse + kQueries * count, inverse + padded, 0.0f);
  HWY_ALIGN float total[kQueries * base::kMaxHeadDim];
  for (size_t first = 0; first < static_cast<size_t>(sample.num_queries); first += kQueries) {
    Logits(d, source, sample, first, weights);
    const Sums sums = Weights(count, inverse, weights);
    Values(d, source, sample, weights, total);
    const size_t queries = std::min(kQueries, sample.num_queries - first);
    for (size_t q = 0; q < queries; ++q) {
      float* output = outputs + (first + q) * dim;
      for (size_t i = 0; i < dim; ++i) {
        output[i] = total[q * dim + common::PairPosition<Rows>(i, hn::Lanes(d))] / sums.sum[q];
      }
      lse[first + q] = sums.max[q] + std::log(sums.sum[q]);
      if (errors == nullptr) continue;
      ErrorTerms(d, source, sample, weights + q, sums.sum[q], output, errors + 3 * (first + q));
    }
  }
}

void AttendStored(const GroupSample& sample, const memory::RowsView& keys,
                  const memory::RowsView& values, float* workspace, float* outputs, float* lse,
                  float* errors) {
  common::WithRows(keys.dtype, [&](auto rows) HWY_ATTR {
    common::WithWidestTag(keys.dim, [&](auto d) HWY_ATTR {
      const StoredRows<decltype(rows)> source{keys, values};
      AttendAll(d, source, sample, workspace, outputs, lse, errors);
    });
  });
}

void AttendInt8(const GroupSample& sample, const Int8Rows& rows, float* workspace, float* outputs,
                float* lse, float* errors) {
  common::WithWidestTag(rows.dim, [&](auto d) HWY_ATTR {
    AttendAll(d, QuantizedRows{rows}, sample, workspace, outputs, lse, errors);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kv_node
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sounder::kv_node {

HWY_EXPORT(AttendStored);
HWY_EXPORT(AttendInt8);

namespace {

// Handles the empty sample; whether there is anything left to do.
bool Prepare(const GroupSample& sample, float* outputs, float* lse, float* errors) {
  CHECK(sample.rows.size() == sample.probabilities.size()) << sample.rows.size();
  if (!sample.rows.empty()) return true;
  std::fill_n(outputs, int64_t{sample.num_queries} * sample.dim, 0.0f);
  std::fill_n(lse, sample.num_queries, -std::numeric_limits<float>::infinity());
  if (errors != nullptr) std::fill_n(errors, 3 * sample.num_queries, 0.0f);
  return false;
}

}  // namespace

size_t GroupAttentionWorkspace(size_t sampled_rows) { return 2 * (4 * sampled_rows + 16); }

void GroupAttention(const GroupSample& sample, const memory::RowsView& keys,
                    const memory::RowsView& values, float* workspace, float* outputs, float* lse,
                    float* errors) {
  CHECK(keys.dim == sample.dim && values.dim == sample.dim && keys.dtype == values.dtype);
  if (!Prepare(sample, outputs, lse, errors)) return;
  HWY_DYNAMIC_DISPATCH(AttendStored)(sample, keys, values, workspace, outputs, lse, errors);
}

void GroupAttention(const GroupSample& sample, const Int8Rows& rows, const float* mean,
                    float* workspace, float* outputs, float* lse, float* errors) {
  CHECK(rows.dim == sample.dim) << rows.dim;
  if (!Prepare(sample, outputs, lse, errors)) return;
  HWY_DYNAMIC_DISPATCH(AttendInt8)(sample, rows, workspace, outputs, lse, errors);
  // Softmax does not see what all keys share, the sum of weights does.
  for (int q = 0; q < sample.num_queries; ++q) {
    double dot = 0;
    for (int i = 0; i < sample.dim; ++i) {
      dot += double{sample.queries[q * sample.dim + i]} * mean[i];
    }
    lse[q] += static_cast<float>(dot * sample.scale);
  }
}

}  // namespace sounder::kv_node
#endif  // HWY_ONCE
