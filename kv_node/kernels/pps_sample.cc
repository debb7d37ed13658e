#include "kv_node/kernels/pps_sample.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"
#include "kv_node/kernels/sketch_scan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kv_node/kernels/pps_sample.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#ifndef SOUNDER_KV_NODE_KERNELS_PPS_SAMPLE_ONCE
#define SOUNDER_KV_NODE_KERNELS_PPS_SAMPLE_ONCE
namespace sounder::kv_node {

inline constexpr size_t kBlock = kSizeBlockRows;

// Rows whose size reaches the step, and the sum of their sizes.
struct Certain {
  int64_t rows = 0;
  uint64_t sum = 0;
};

// How many rows of a block may be sampled.
inline int64_t VisibleRows(const int16_t* shares) {
  return kSizeBlockRows - std::count(shares, shares + kSizeBlockRows, kNoScore);
}

inline void Ask(std::span<const RowMemory> memory, int64_t row) {
  for (const RowMemory& part : memory) {
    const std::byte* begin = part.data + row * part.stride;
    for (size_t i = 0; i < part.bytes; i += 64) __builtin_prefetch(begin + i, 0, 2);
    __builtin_prefetch(begin + part.bytes - 1, 0, 2);
  }
}

}  // namespace sounder::kv_node
#endif

HWY_BEFORE_NAMESPACE();
namespace sounder::kv_node {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using I16 = hn::CappedTag<int16_t, kBlock>;
using F32 = hn::Repartition<float, I16>;
using I32 = hn::RebindToSigned<F32>;
using U32 = hn::RebindToUnsigned<F32>;

// The exponent bias of bf16, in units of score.
constexpr int16_t kBias = 127 * kScoreUnit;
constexpr size_t kMostLanes = hn::MaxLanes(I16());
constexpr size_t kVectors = kBlock / kMostLanes;

struct Weights {
  hn::Vec<F32> even;
  hn::Vec<F32> odd;
};

// 2^(x / kScoreUnit) of even and odd rows, x <= 0: x plus the bias, taken for a bf16 number.
HWY_INLINE Weights WeightsOf(hn::Vec<I16> x) {
  const I16 d;
  const F32 df;
  const U32 du;
  const auto bits = hn::BitCast(du, hn::Max(hn::SaturatedAdd(x, hn::Set(d, kBias)), hn::Zero(d)));
  return {hn::BitCast(df, hn::ShiftLeft<16>(bits)),
          hn::BitCast(df, hn::And(bits, hn::Set(du, 0xffff0000u)))};
}

// An f32 sum over rows has one partial sum per row modulo kBlock, so that its order is the same at
// every width.
float Sum(const int16_t* HWY_RESTRICT scores, int64_t rows, int16_t reference) {
  const I16 d;
  const F32 df;
  const auto none = hn::Set(d, kNoScore);
  const auto shift = hn::Set(d, reference);
  Weights sums[kVectors];
  for (Weights& sum : sums) sum.even = sum.odd = hn::Zero(df);
  for (int64_t r = 0; r < rows; r += kBlock) {
    for (size_t v = 0; v < kVectors; ++v) {
      const auto score = hn::LoadU(d, scores + r + v * kMostLanes);
      const auto relative = hn::SaturatedSub(score, shift);
      const Weights weights = WeightsOf(hn::IfThenElse(hn::Eq(score, none), none, relative));
      sums[v].even = hn::Add(sums[v].even, weights.even);
      sums[v].odd = hn::Add(sums[v].odd, weights.odd);
    }
  }
  float total = 0;
  for (const Weights& sum : sums) {
    float even[kMostLanes / 2];
    float odd[kMostLanes / 2];
    hn::StoreU(sum.even, df, even);
    hn::StoreU(sum.odd, df, odd);
    for (size_t i = 0; i < kMostLanes / 2; ++i) total = (total + even[i]) + odd[i];
  }
  return total;
}

// Sizes of rows whose largest shares are given.
HWY_INLINE void SizesOf(hn::Vec<I16> shares, hn::Vec<I32>& even, hn::Vec<I32>& odd) {
  const F32 df;
  const I32 di;
  const auto full = hn::Set(df, static_cast<float>(1 << kFullSizeBits));
  const Weights weights = WeightsOf(shares);
  even = hn::ConvertTo(di, hn::Mul(weights.even, full));
  odd = hn::ConvertTo(di, hn::Mul(weights.odd, full));
}

// The largest share of every row of a vector.
template <size_t kQueries>
HWY_INLINE hn::Vec<I16> Shares(const GroupScores& group, size_t queries, int64_t row) {
  const I16 d;
  const auto none = hn::Set(d, kNoScore);
  auto score = hn::LoadU(d, group.scores + row);
  const auto hidden = hn::Eq(score, none);
  auto share = hn::SaturatedSub(score, hn::Set(d, group.offsets[0]));
  const size_t count = kQueries == 0 ? queries : kQueries;
  for (size_t q = 1; q < count; ++q) {
    score = hn::LoadU(d, group.scores + static_cast<int64_t>(q) * group.stride + row);
    share = hn::Max(share, hn::SaturatedSub(score, hn::Set(d, group.offsets[q])));
  }
  // Estimated to hold more than all there is: all. Next to nothing: not nothing.
  share = hn::Max(hn::Min(share, hn::Zero(d)), hn::Set(d, static_cast<int16_t>(kNoScore + 1)));
  return hn::IfThenElse(hidden, none, share);
}

template <size_t kQueries>
HWY_INLINE uint64_t MeasureBlocks(const GroupScores& group, const GroupSizes& sizes) {
  const I16 d;
  const I32 di;
  uint64_t total = 0;
  for (int64_t r = 0; r < group.padded_rows; r += kBlock) {
    auto sum = hn::Zero(di);
    auto largest = hn::Zero(di);
    for (size_t v = 0; v < kVectors; ++v) {
      const int64_t row = r + static_cast<int64_t>(v * kMostLanes);
      const auto share = Shares<kQueries>(group, group.offsets.size(), row);
      hn::StoreU(share, d, sizes.shares + row);
      hn::Vec<I32> even;
      hn::Vec<I32> odd;
      SizesOf(share, even, odd);
      sum = hn::Add(sum, hn::Add(even, odd));
      largest = hn::Max(largest, hn::Max(even, odd));
    }
    const auto block_sum = static_cast<uint32_t>(hn::GetLane(hn::SumOfLanes(di, sum)));
    sizes.sums[r / kBlock] = block_sum;
    sizes.largest[r / kBlock] = static_cast<uint32_t>(hn::GetLane(hn::MaxOfLanes(di, largest)));
    total += block_sum;
  }
  return total;
}

uint64_t Measure(const GroupScores& group, const GroupSizes& sizes) {
  switch (group.offsets.size()) {
    case 1:
      return MeasureBlocks<1>(group, sizes);
    case 2:
      return MeasureBlocks<2>(group, sizes);
    case 4:
      return MeasureBlocks<4>(group, sizes);
    default:
      return MeasureBlocks<0>(group, sizes);
  }
}

// Sizes of one block, with the floor; 0 where the row may not be sampled.
HWY_INLINE void BlockSizes(const int16_t* HWY_RESTRICT shares, uint32_t floor,
                           uint32_t* HWY_RESTRICT out) {
  const I16 d;
  const I32 di;
  for (size_t v = 0; v < kVectors; ++v) {
    hn::Vec<I32> even;
    hn::Vec<I32> odd;
    SizesOf(hn::LoadU(d, shares + v * kMostLanes), even, odd);
    int32_t lanes[2][kMostLanes / 2];
    hn::StoreU(even, di, lanes[0]);
    hn::StoreU(odd, di, lanes[1]);
    for (size_t i = 0; i < kMostLanes; ++i) {
      const size_t row = v * kMostLanes + i;
      const uint32_t visible = shares[row] == kNoScore ? 0 : ~uint32_t{0};
      out[row] = (static_cast<uint32_t>(lanes[i % 2][i / 2]) + floor) & visible;
    }
  }
}

Certain CertainRows(const GroupSizes& sizes, const PpsPlan& plan) {
  Certain certain;
  uint32_t block[kBlock];
  for (int64_t b = 0; b < sizes.padded_rows / kSizeBlockRows; ++b) {
    if (uint64_t{sizes.largest[b]} + plan.floor < plan.step) continue;
    BlockSizes(sizes.shares + b * kSizeBlockRows, plan.floor, block);
    for (const uint32_t size : block) {
      if (size < plan.step || size == 0) continue;
      ++certain.rows;
      certain.sum += size;
    }
  }
  return certain;
}

int64_t Draw(const GroupSizes& sizes, const PpsPlan& plan, uint32_t start,
             std::span<const RowMemory> memory, uint16_t* rows, float* probabilities) {
  const float step = static_cast<float>(plan.step);
  // How far the running sum of sizes is past the last multiple of the step.
  uint64_t past = static_cast<uint64_t>((static_cast<unsigned __int128>(plan.step) * start) >> 32);
  int64_t drawn = 0;
  uint32_t block[kBlock];
  const int64_t blocks = sizes.padded_rows / kSizeBlockRows;
  for (int64_t b = 0; b < blocks; ++b) {
    const int16_t* shares = sizes.shares + b * kSizeBlockRows;
    // Rows that may not be sampled lie in the first and the last pair of blocks only.
    const bool inner = b >= 2 && b + 2 < blocks;
    const int64_t visible = inner ? kSizeBlockRows : VisibleRows(shares);
    const uint64_t sum = sizes.sums[b] + uint64_t{plan.floor} * static_cast<uint64_t>(visible);
    if (past + sum < plan.step) {
      past += sum;
      continue;
    }
    BlockSizes(shares, plan.floor, block);
    for (size_t i = 0; i < kBlock; ++i) {
      // A certain row is taken without moving the sum on, so that the number of rows drawn is
      // within one of what is expected.
      const bool certain = block[i] >= plan.step;
      if (!certain) {
        past += block[i];
        if (past < plan.step) continue;
        past -= plan.step;
      }
      const int64_t row = b * kSizeBlockRows + static_cast<int64_t>(i);
      Ask(memory, row);
      rows[drawn] = static_cast<uint16_t>(row);
      probabilities[drawn++] = certain ? 1.0f : static_cast<float>(block[i]) / step;
    }
  }
  return drawn;
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kv_node
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sounder::kv_node {

HWY_EXPORT(Sum);
HWY_EXPORT(Measure);
HWY_EXPORT(CertainRows);
HWY_EXPORT(Draw);

namespace {

// Rounds of PlanSample; each finds the rows that are certain at the step of the one before.
constexpr int kMostRounds = 8;
constexpr uint32_t kMostFloor = 1 << kFullSizeBits;

}  // namespace

float SumOfWeights(const int16_t* scores, int64_t padded_rows, int16_t reference) {
  return HWY_DYNAMIC_DISPATCH(Sum)(scores, padded_rows, reference);
}

void MeasureSizes(const GroupScores& scores, GroupSizes* sizes) {
  CHECK(!scores.offsets.empty() && scores.padded_rows % (2 * kSizeBlockRows) == 0);
  sizes->padded_rows = scores.padded_rows;
  sizes->total = HWY_DYNAMIC_DISPATCH(Measure)(scores, *sizes);
}

PpsPlan PlanSample(const GroupSizes& sizes, int64_t visible, double wanted, double floor_share) {
  if (visible <= 0 || !(wanted > 0)) return {};
  if (wanted >= static_cast<double>(visible)) return {.step = 1, .floor = 1};
  PpsPlan plan;
  const double floor = floor_share / (1 - floor_share) * static_cast<double>(sizes.total) /
                       static_cast<double>(visible);
  plan.floor = static_cast<uint32_t>(std::clamp(std::nearbyint(floor), 1.0, double{kMostFloor}));
  const double total = static_cast<double>(sizes.total) +
                       static_cast<double>(plan.floor) * static_cast<double>(visible);
  plan.step = static_cast<uint64_t>(std::max(1.0, std::floor(total / wanted)));
  Certain before;
  for (int round = 0; round < kMostRounds; ++round) {
    const Certain certain = HWY_DYNAMIC_DISPATCH(CertainRows)(sizes, plan);
    const double left = wanted - static_cast<double>(certain.rows);
    if (certain.rows == before.rows || left <= 0) break;
    before = certain;
    const double step = (total - static_cast<double>(certain.sum)) / left;
    plan.step = static_cast<uint64_t>(std::max(1.0, std::floor(step)));
  }
  return plan;
}

int64_t DrawSystematic(const GroupSizes& sizes, const PpsPlan& plan, uint32_t start,
                       std::span<const RowMemory> memory, uint16_t* rows, float* probabilities) {
  if (plan.step == 0) return 0;
  return HWY_DYNAMIC_DISPATCH(Draw)(sizes, plan, start, memory, rows, probabilities);
}

int64_t DrawAlike(int64_t row_begin, int64_t row_end, double wanted, uint32_t start,
                  std::span<const RowMemory> memory, uint16_t* rows, float* probabilities) {
  const int64_t visible = row_end - row_begin;
  if (visible <= 0 || !(wanted > 0)) return 0;
  // Rows are 2^32 apart on a line, draws are `step` apart.
  constexpr double kRow = 4294967296.0;
  const double apart = std::max(kRow, std::floor(kRow * static_cast<double>(visible) / wanted));
  const auto step = static_cast<uint64_t>(std::min(apart, 9e18));
  const float probability = static_cast<float>(kRow / static_cast<double>(step));
  auto at = static_cast<uint64_t>((static_cast<unsigned __int128>(step) * start) >> 32);
  int64_t drawn = 0;
  const uint64_t end = static_cast<uint64_t>(visible) << 32;
  for (; at < end; at += step) {
    const int64_t row = row_begin + static_cast<int64_t>(at >> 32);
    Ask(memory, row);
    rows[drawn] = static_cast<uint16_t>(row);
    probabilities[drawn++] = probability;
  }
  return drawn;
}

}  // namespace sounder::kv_node
#endif  // HWY_ONCE
