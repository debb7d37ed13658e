#include "kv_node/kernels/sampled_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "common/base/check.h"
#include "common/base/limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kv_node/kernels/sampled_attention.cc"
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

// Rows handled together.
constexpr size_t kTileRows = 16;
// Weights below this share of the largest are left out of the weighted sum of values: 65,536 of
// them are less than the rounding of the others.
constexpr float kNegligible = 0x1p-40f;

// Into the second-level cache: into the first, or by touching each line just before use, takes 1.4
// times as long, as the few miss buffers of the first level are then the limit.
HWY_INLINE void PrefetchRow(const memory::RowsView& view, int64_t row) {
  const size_t bytes = view.dim * base::SizeOf(view.dtype);
  const std::byte* data = view.Row(row);
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(data + i, 0, 2);
}

// out[k] = row k . query for kRows = 4 rows; query in the order of LoadPair.
template <class Rows, class D>
HWY_INLINE void DotRows(D d, const memory::RowsView& keys, const uint16_t* rows,
                        const float* HWY_RESTRICT query, float* HWY_RESTRICT out) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d);
  const std::byte* row[4];
  V even[4];
  V odd[4];
  for (size_t k = 0; k < 4; ++k) {
    row[k] = keys.Row(rows[k]);
    even[k] = odd[k] = hn::Zero(d);
  }
  for (size_t i = 0; i < static_cast<size_t>(keys.dim); i += 2 * lanes) {
    const V qa = hn::LoadU(d, query + i);
    const V qb = hn::LoadU(d, query + i + lanes);
    for (size_t k = 0; k < 4; ++k) {
      V a;
      V b;
      Rows::LoadPair(d, row[k], i, a, b);
      even[k] = hn::MulAdd(a, qa, even[k]);
      odd[k] = hn::MulAdd(b, qb, odd[k]);
    }
  }
  common::StoreFourSums(d, hn::Add(even[0], odd[0]), hn::Add(even[1], odd[1]),
                        hn::Add(even[2], odd[2]), hn::Add(even[3], odd[3]), out);
}

// dots[i] = row i . query for the sampled rows, at least 4 of them written.
template <class Rows, class D>
HWY_INLINE void Dots(D d, const SampledLogitsArgs& args, float* HWY_RESTRICT dots) {
  const size_t dim = args.keys.dim;
  HWY_ALIGN float query[base::kMaxHeadDim];
  for (size_t i = 0; i < dim; ++i) {
    query[common::PairPosition<Rows>(i, hn::Lanes(d))] = args.query[i];
  }
  const size_t count = args.rows.size();
  size_t asked = 0;
  const auto ask = [&](size_t end) HWY_ATTR {
    for (end = std::min(end, count); asked < end; ++asked) {
      PrefetchRow(args.keys, args.rows[asked]);
      __builtin_prefetch(args.norms + args.rows[asked], 0, 2);
    }
  };
  for (size_t begin = 0; begin < count; begin += kTileRows) {
    const size_t rows = std::min(kTileRows, count - begin);
    uint16_t tile[kTileRows];
    for (size_t k = 0; k < kTileRows; ++k) tile[k] = args.rows[begin + std::min(k, rows - 1)];
    ask(begin + kTileRows + args.schedule.lsh_rows_ahead);
    for (size_t k = 0; k < rows; k += 4)
      DotRows<Rows>(d, args.keys, tile + k, query, dots + begin + k);
  }
}

// dots become logits; log_u from the angles.
HWY_INLINE void LogitsAndProbabilities(const SampledLogitsArgs& args, float* HWY_RESTRICT logits,
                                       float* HWY_RESTRICT log_u) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  double mean_dot = 0;
  double square = 0;
  for (int c = 0; c < args.keys.dim; ++c) {
    mean_dot += double{args.query[c]} * args.mean[c];
    square += double{args.query[c]} * args.query[c];
  }
  const auto query_mean = hn::Set(d, static_cast<float>(mean_dot));
  const auto query_norm = hn::Set(d, static_cast<float>(std::sqrt(square)));
  const auto scale = hn::Set(d, args.scale);
  const auto one = hn::Set(d, 1.0f);
  const auto inverse_pi = hn::Set(d, static_cast<float>(1 / std::numbers::pi));
  const auto cells = hn::Set(d, static_cast<float>(args.log_u.size() - 2));
  for (size_t i = 0; i < args.rows.size(); ++i) log_u[i] = args.norms[args.rows[i]];
  for (size_t i = args.rows.size(); i % hn::Lanes(d) != 0; ++i) logits[i] = log_u[i] = 0;
  for (size_t i = 0; i < args.rows.size(); i += hn::Lanes(d)) {
    const auto dot = hn::LoadU(d, logits + i);
    const auto lengths = hn::Mul(query_norm, hn::LoadU(d, log_u + i));
    const auto nonzero = hn::Gt(lengths, hn::Zero(d));
    auto cosine = hn::Div(hn::Sub(dot, query_mean), hn::IfThenElse(nonzero, lengths, one));
    // Infinities in the rows may have made it NaN.
    const auto valid = hn::And(nonzero, hn::Eq(cosine, cosine));
    cosine = hn::IfThenElseZero(valid, hn::Min(hn::Max(cosine, hn::Neg(one)), one));
    const auto same_side = hn::Sub(one, hn::Mul(hn::Acos(d, cosine), inverse_pi));
    const auto x = hn::Min(hn::Max(hn::Mul(same_side, cells), hn::Zero(d)), cells);
    const auto cell = hn::ConvertTo(di, x);
    const auto below = hn::GatherIndex(d, args.log_u.data(), cell);
    const auto above = hn::GatherIndex(d, args.log_u.data(), hn::Add(cell, hn::Set(di, 1)));
    const auto fraction = hn::Sub(x, hn::ConvertTo(d, cell));
    hn::StoreU(hn::MulAdd(fraction, hn::Sub(above, below), below), d, log_u + i);
    hn::StoreU(hn::Mul(dot, scale), d, logits + i);
  }
}

void Logits(const SampledLogitsArgs& args, float* logits, float* log_u) {
  common::WithRows(args.keys.dtype, [&](auto rows) HWY_ATTR {
    common::WithWidestTag(args.keys.dim,
                          [&](auto d) HWY_ATTR { Dots<decltype(rows)>(d, args, logits); });
  });
  LogitsAndProbabilities(args, logits, log_u);
}

// Sums of positive terms only: nothing cancels where u is small.
void Unite(const float* HWY_RESTRICT log_u, size_t count, float* HWY_RESTRICT u) {
  const hn::ScalableTag<float> d;
  const auto one = hn::Set(d, 1.0f);
  for (size_t i = 0; i < count; i += hn::Lanes(d)) {
    const auto chance = hn::LoadU(d, u + i);
    const auto more = hn::Exp(d, hn::Max(hn::LoadU(d, log_u + i), hn::Set(d, -70.0f)));
    hn::StoreU(hn::Min(hn::MulAdd(hn::Sub(one, chance), more, chance), one), d, u + i);
  }
}

// logits -> weights relative to the largest; returns {largest logit - log u, sum of weights}.
struct WeightSum {
  float max;
  float sum;
};

HWY_INLINE WeightSum Weights(size_t count, float* HWY_RESTRICT logits,
                             const float* HWY_RESTRICT log_u) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  const float none = std::numeric_limits<float>::lowest();
  for (size_t i = count; i % lanes != 0; ++i) logits[i] = none;
  auto max = hn::Set(d, none);
  for (size_t i = 0; i < count; i += lanes) {
    auto adjusted = hn::Sub(hn::LoadU(d, logits + i), hn::LoadU(d, log_u + i));
    if (i + lanes > count) {
      adjusted = hn::IfThenElse(hn::FirstN(d, count - i), adjusted, hn::Set(d, none));
    }
    max = hn::Max(max, adjusted);
    hn::StoreU(adjusted, d, logits + i);
  }
  max = hn::MaxOfLanes(d, max);
  auto sum = hn::Zero(d);
  for (size_t i = 0; i < count; i += lanes) {
    const auto x = hn::Sub(hn::LoadU(d, logits + i), max);
    const auto weight = hn::Exp(d, hn::Max(x, hn::Set(d, -200.0f)));
    sum = hn::Add(sum, weight);
    hn::StoreU(weight, d, logits + i);
  }
  return {hn::GetLane(max), hn::GetLane(hn::SumOfLanes(d, sum))};
}

// A systematic sample of the rows of less than `share`, in proportion to their weights.
HWY_INLINE void Roulette(size_t count, float share, uint32_t start,
                         const float* HWY_RESTRICT weights, float* HWY_RESTRICT kept) {
  double past = double{share} * start * 0x1p-32;
  for (size_t i = 0; i < count; ++i) {
    const bool light = weights[i] < share;
    past += light ? double{weights[i]} : 0.0;
    const bool drawn = past >= double{share};
    past -= drawn ? double{share} : 0.0;
    kept[i] = drawn ? share : light ? 0.0f : weights[i];
  }
}

// sum f32[dim] += weights * rows, kPairs pairs of vectors from column i on.
template <class Rows, size_t kPairs, class D>
HWY_INLINE void AddColumns(D d, const memory::RowsView& values, const uint16_t* rows,
                           const float* HWY_RESTRICT weights, size_t count, size_t i,
                           float* HWY_RESTRICT sum) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d);
  V sums[2 * kPairs];
  for (size_t v = 0; v < 2 * kPairs; ++v) sums[v] = hn::LoadU(d, sum + i + v * lanes);
  for (size_t k = 0; k < count; ++k) {
    const std::byte* row = values.Row(rows[k]);
    const V weight = hn::Set(d, weights[k]);
    for (size_t p = 0; p < kPairs; ++p) {
      V a;
      V b;
      Rows::LoadPair(d, row, i + 2 * p * lanes, a, b);
      sums[2 * p] = hn::MulAdd(weight, a, sums[2 * p]);
      sums[2 * p + 1] = hn::MulAdd(weight, b, sums[2 * p + 1]);
    }
  }
  for (size_t v = 0; v < 2 * kPairs; ++v) hn::StoreU(sums[v], d, sum + i + v * lanes);
}

template <class Rows, class D>
HWY_INLINE void WeightedSum(D d, const memory::RowsView& values, std::span<const uint16_t> rows,
                            const float* HWY_RESTRICT weights, float sum_of_weights,
                            size_t rows_ahead, float* HWY_RESTRICT output) {
  const size_t dim = values.dim;
  const size_t pair = 2 * hn::Lanes(d);
  HWY_ALIGN float sum[base::kMaxHeadDim];
  std::fill(sum, sum + dim, 0.0f);
  size_t next = 0;
  size_t asked = 0;
  while (next < rows.size()) {
    uint16_t tile[kTileRows + 1];
    float tile_weights[kTileRows + 1];
    size_t count = 0;
    for (; next < rows.size() && count < kTileRows; ++next) {
      tile[count] = rows[next];
      tile_weights[count] = weights[next];
      count += weights[next] >= kNegligible ? 1 : 0;
    }
    for (; asked < std::min(rows.size(), next + rows_ahead); ++asked) {
      if (weights[asked] >= kNegligible) PrefetchRow(values, rows[asked]);
    }
    size_t i = 0;
    for (; i + 4 * pair <= dim; i += 4 * pair) {
      AddColumns<Rows, 4>(d, values, tile, tile_weights, count, i, sum);
    }
    for (; i < dim; i += pair) {
      AddColumns<Rows, 1>(d, values, tile, tile_weights, count, i, sum);
    }
  }
  for (size_t i = 0; i < dim; ++i) {
    output[i] = sum[common::PairPosition<Rows>(i, hn::Lanes(d))] / sum_of_weights;
  }
}

// kept: null, or where the weights of the rows kept by roulette go.
void Values(const memory::RowsView& values, std::span<const uint16_t> rows, uint32_t start,
            const kernels::KernelSchedule& schedule, float* logits, const float* log_u, float* kept,
            float* output, float* lse) {
  const WeightSum weights = Weights(rows.size(), logits, log_u);
  if (kept != nullptr) Roulette(rows.size(), weights.sum / kRouletteRows, start, logits, kept);
  const float* used = kept == nullptr ? logits : kept;
  common::WithRows(values.dtype, [&](auto type) HWY_ATTR {
    common::WithWidestTag(values.dim, [&](auto d) HWY_ATTR {
      WeightedSum<decltype(type)>(d, values, rows, used, weights.sum, schedule.lsh_rows_ahead,
                                  output);
    });
  });
  *lse = weights.max + std::log(weights.sum);
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kv_node
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sounder::kv_node {

HWY_EXPORT(Logits);
HWY_EXPORT(Unite);
HWY_EXPORT(Values);

void SampledLogits(const SampledLogitsArgs& args, float* logits, float* log_u) {
  if (args.rows.empty()) return;
  HWY_DYNAMIC_DISPATCH(Logits)(args, logits, log_u);
}

void UniteProbabilities(const float* log_u, size_t count, float* u) {
  HWY_DYNAMIC_DISPATCH(Unite)(log_u, count, u);
}

void WeightedValues(const memory::RowsView& values, std::span<const uint16_t> rows, float* logits,
                    const float* log_u, float* output, float* lse,
                    const kernels::KernelSchedule& schedule) {
  if (rows.empty()) {
    std::fill(output, output + values.dim, 0.0f);
    *lse = -std::numeric_limits<float>::infinity();
    return;
  }
  HWY_DYNAMIC_DISPATCH(Values)(values, rows, 0, schedule, logits, log_u, nullptr, output, lse);
}

void WeightedValuesByRoulette(const memory::RowsView& values, std::span<const uint16_t> rows,
                              uint32_t start, float* logits, const float* log_u, float* kept,
                              float* output, float* lse, const kernels::KernelSchedule& schedule) {
  if (rows.empty()) return WeightedValues(values, rows, logits, log_u, output, lse);
  HWY_DYNAMIC_DISPATCH(Values)(values, rows, start, schedule, logits, log_u, kept, output, lse);
}

}  // namespace sounder::kv_node
#endif  // HWY_ONCE
