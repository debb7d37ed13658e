#include "kv_node/kernels/pps_sample.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

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
inline constexpr size_t kPair = 2 * kBlock;

// How many rows of a block may be sampled.
inline int64_t VisibleRows(const int8_t* shares) {
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

using I8 = hn::CappedTag<int8_t, kPair>;
using I16 = hn::CappedTag<int16_t, kBlock>;
using Half8 = hn::Rebind<int8_t, I16>;
using F32 = hn::Repartition<float, I16>;
using I32 = hn::RebindToSigned<F32>;
using U32 = hn::RebindToUnsigned<F32>;
using Quarter8 = hn::Rebind<int8_t, I32>;

// The exponent bias of bf16, in units of score.
constexpr int16_t kBias = 127 * kScoreUnit;
constexpr float kFull = 1 << kFullSizeBits;

struct Sizes {
  hn::Vec<I32> even;
  hn::Vec<I32> odd;
};

// Sizes of rows whose largest shares are given, of even and of odd rows: 2^x from its exponent plus
// the bias, taken for a bf16 number. kNoScore: 0.
HWY_INLINE Sizes SizesOf(hn::Vec<I16> shares, int step) {
  const I16 d;
  const F32 df;
  const U32 du;
  const auto full = hn::Set(df, kFull);
  const auto visible = hn::Ne(shares, hn::Set(d, int16_t{kNoScore}));
  const auto biased =
      hn::Add(hn::Mul(shares, hn::Set(d, static_cast<int16_t>(step))), hn::Set(d, kBias));
  const auto bits = hn::BitCast(du, hn::IfThenElseZero(visible, hn::Max(biased, hn::Zero(d))));
  const auto even = hn::BitCast(df, hn::ShiftLeft<16>(bits));
  const auto odd = hn::BitCast(df, hn::And(bits, hn::Set(du, 0xffff0000u)));
  return {hn::ConvertTo(I32(), hn::Mul(even, full)), hn::ConvertTo(I32(), hn::Mul(odd, full))};
}

// The largest share of every row of a vector. An offset is taken off in two parts, as it may be out
// of range.
template <size_t kQueries>
HWY_INLINE hn::Vec<I8> Shares(const GroupScores& group, int64_t row) {
  const I8 d;
  const auto none = hn::Set(d, kNoScore);
  const size_t count = kQueries == 0 ? group.offsets.size() : kQueries;
  auto share = none;
  auto hidden = hn::Eq(none, none);
  for (size_t q = 0; q < count; ++q) {
    const int offset = group.offsets[q];
    const int most = std::min(offset, 127);
    const int rest = std::min(offset - most, 127);
    const auto score = hn::LoadU(d, group.scores + static_cast<int64_t>(q) * group.stride + row);
    const auto once = hn::SaturatedSub(score, hn::Set(d, static_cast<int8_t>(most)));
    share = hn::Max(share, hn::SaturatedSub(once, hn::Set(d, static_cast<int8_t>(rest))));
    if (q == 0) hidden = hn::Eq(score, none);
  }
  // Estimated to hold more than all there is: all. Next to nothing: not nothing.
  share = hn::Max(hn::Min(share, hn::Zero(d)), hn::Set(d, int8_t{kNoScore + 1}));
  return hn::IfThenElse(hidden, none, share);
}

template <size_t kQueries>
HWY_INLINE uint64_t MeasureBlocks(const GroupScores& group, const GroupSizes& sizes) {
  const I8 d;
  const I16 d16;
  const I32 d32;
  const Half8 dh;
  // The sizes of a block sum up to 2^31 at most: counted from minus half of that, no signed sum of
  // lanes overflows.
  constexpr int32_t kHalf = kSizeBlockRows / 2 << kFullSizeBits;
  const auto from = hn::Set(d32, -kHalf / static_cast<int32_t>(hn::Lanes(d32)));
  uint64_t total = 0;
  for (int64_t first = 0; first < group.padded_rows; first += kPair) {
    for (size_t i = 0; i < kPair; i += hn::Lanes(d)) {
      const int64_t row = first + static_cast<int64_t>(i);
      hn::StoreU(Shares<kQueries>(group, row), d, sizes.shares + row);
    }
    for (size_t block = 0; block < kPair; block += kBlock) {
      auto sum = from;
      for (size_t i = 0; i < kBlock; i += hn::Lanes(d16)) {
        const int64_t row = first + static_cast<int64_t>(block + i);
        const Sizes of = SizesOf(hn::PromoteTo(d16, hn::LoadU(dh, sizes.shares + row)), group.step);
        sum = hn::Add(sum, hn::Add(of.even, of.odd));
      }
      const auto block_sum =
          static_cast<uint32_t>(hn::GetLane(hn::SumOfLanes(d32, sum))) + uint32_t{kHalf};
      sizes.sums[(first + static_cast<int64_t>(block)) / kSizeBlockRows] = block_sum;
      total += block_sum;
    }
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
HWY_INLINE void BlockSizes(const int8_t* HWY_RESTRICT shares, int step, uint32_t floor,
                           uint32_t* HWY_RESTRICT out) {
  const I32 d;
  const F32 df;
  const U32 du;
  for (size_t i = 0; i < kBlock; i += hn::Lanes(d)) {
    const auto share = hn::PromoteTo(d, hn::LoadU(Quarter8(), shares + i));
    const auto biased = hn::Add(hn::Mul(share, hn::Set(d, step)), hn::Set(d, int32_t{kBias}));
    const auto bits = hn::ShiftLeft<16>(hn::Max(biased, hn::Zero(d)));
    const auto size = hn::ConvertTo(d, hn::Mul(hn::BitCast(df, bits), hn::Set(df, kFull)));
    const auto floored = hn::Add(hn::BitCast(du, size), hn::Set(du, floor));
    const auto visible = hn::RebindMask(du, hn::Ne(share, hn::Set(d, int32_t{kNoScore})));
    hn::StoreU(hn::IfThenElseZero(visible, floored), du, out + i);
  }
}

// Sizes of shares of at least `share`, with the floor; how many.
size_t LargeSizes(const GroupSizes& sizes, uint32_t floor, int8_t share, uint32_t* large) {
  const hn::CappedTag<int8_t, kBlock> d;
  HWY_ALIGN uint32_t block[kBlock];
  const auto bound = hn::Set(d, share);
  size_t count = 0;
  for (int64_t first = 0; first < sizes.padded_rows; first += kBlock) {
    const int8_t* shares = sizes.shares + first;
    auto most = hn::LoadU(d, shares);
    for (size_t i = hn::Lanes(d); i < kBlock; i += hn::Lanes(d)) {
      most = hn::Max(most, hn::LoadU(d, shares + i));
    }
    if (hn::AllTrue(d, hn::Lt(most, bound))) continue;
    BlockSizes(shares, sizes.step, floor, block);
    for (size_t i = 0; i < kBlock; ++i) {
      large[count] = block[i];
      count += shares[i] >= share ? 1 : 0;
    }
  }
  return count;
}

// Rows that are passed over together where nothing is drawn.
constexpr size_t kFew = 8;

int64_t Draw(const GroupSizes& sizes, const PpsPlan& plan, uint32_t start,
             std::span<const RowMemory> memory, uint16_t* rows, float* probabilities) {
  const float step = static_cast<float>(plan.step);
  // How far the running sum of sizes is past the last multiple of the step.
  uint64_t past = static_cast<uint64_t>((static_cast<unsigned __int128>(plan.step) * start) >> 32);
  int64_t drawn = 0;
  HWY_ALIGN uint32_t block[kBlock];
  const int64_t blocks = sizes.padded_rows / kSizeBlockRows;
  for (int64_t b = 0; b < blocks; ++b) {
    const int8_t* shares = sizes.shares + b * kSizeBlockRows;
    // Rows that may not be sampled lie in the first and the last pair of blocks only.
    const bool inner = b >= 2 && b + 2 < blocks;
    const int64_t visible = inner ? kSizeBlockRows : VisibleRows(shares);
    const uint64_t sum = sizes.sums[b] + uint64_t{plan.floor} * static_cast<uint64_t>(visible);
    if (past + sum < plan.step) {
      past += sum;
      continue;
    }
    BlockSizes(shares, sizes.step, plan.floor, block);
    for (size_t first = 0; first < kBlock; first += kFew) {
      uint64_t few = 0;
      for (size_t i = first; i < first + kFew; ++i) few += block[i];
      if (past + few < plan.step) {
        past += few;
        continue;
      }
      for (size_t i = first; i < first + kFew; ++i) {
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
  }
  return drawn;
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kv_node
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sounder::kv_node {

HWY_EXPORT(Measure);
HWY_EXPORT(LargeSizes);
HWY_EXPORT(Draw);

namespace {

constexpr uint32_t kMostFloor = 1 << kFullSizeBits;
// Rows down to this part of a step are looked at when certain rows are found: as those leave, the
// step falls.
constexpr uint64_t kStepParts = 2;
constexpr int kMostRounds = 32;

// The step that draws `wanted` rows of sizes that sum to `total`: rows whose size reaches it are
// certain, and the others share what is left. `large`: all sizes of at least `least`. Stops where
// the step falls below `least`.
uint64_t SettleStep(double total, double wanted, std::span<const uint32_t> large, uint64_t least,
                    uint64_t step) {
  int64_t certain_before = 0;
  for (int round = 0; round < kMostRounds && step >= least; ++round) {
    int64_t certain = 0;
    uint64_t sum = 0;
    for (const uint32_t size : large) {
      const bool is_certain = size >= step;
      certain += is_certain ? 1 : 0;
      sum += is_certain ? size : 0;
    }
    const double left = wanted - static_cast<double>(certain);
    if (certain == certain_before || left <= 0) break;
    certain_before = certain;
    step =
        static_cast<uint64_t>(std::max(1.0, std::floor((total - static_cast<double>(sum)) / left)));
  }
  return step;
}

// The size of a share, as SizesOf has it.
uint32_t SizeOf(int share, int step) {
  const uint32_t bits = static_cast<uint32_t>(std::max(0, share * step + 127 * kScoreUnit)) << 16;
  return static_cast<uint32_t>(std::bit_cast<float>(bits) * (1 << kFullSizeBits));
}

// The smallest share whose size with the floor is at least `least`; 1 where there is none.
int8_t LeastShare(uint64_t least, uint32_t floor, int step) {
  int8_t low = kNoScore + 1;
  int8_t high = 1;
  while (low < high) {
    const auto middle = static_cast<int8_t>(std::floor((low + high) / 2.0));
    if (uint64_t{SizeOf(middle, step)} + floor >= least) {
      high = middle;
    } else {
      low = static_cast<int8_t>(middle + 1);
    }
  }
  return low;
}

}  // namespace

void MeasureSizes(const GroupScores& scores, GroupSizes* sizes) {
  CHECK(!scores.offsets.empty() && scores.padded_rows % (2 * kSizeBlockRows) == 0);
  sizes->padded_rows = scores.padded_rows;
  sizes->step = scores.step;
  sizes->total = HWY_DYNAMIC_DISPATCH(Measure)(scores, *sizes);
}

PpsPlan PlanSample(const GroupSizes& sizes, int64_t visible, double wanted, double floor_share,
                   uint32_t* large) {
  if (visible <= 0 || !(wanted > 0)) return {};
  if (wanted >= static_cast<double>(visible)) return {.step = 1, .floor = 1};
  PpsPlan plan;
  const double floor = floor_share / (1 - floor_share) * static_cast<double>(sizes.total) /
                       static_cast<double>(visible);
  plan.floor = static_cast<uint32_t>(std::clamp(std::nearbyint(floor), 1.0, double{kMostFloor}));
  const double total = static_cast<double>(sizes.total) +
                       static_cast<double>(plan.floor) * static_cast<double>(visible);
  plan.step = static_cast<uint64_t>(std::max(1.0, std::floor(total / wanted)));
  uint64_t least = 0;
  do {
    least = plan.step / kStepParts;
    const size_t count = HWY_DYNAMIC_DISPATCH(LargeSizes)(
        sizes, plan.floor, LeastShare(least, plan.floor, sizes.step), large);
    plan.step = SettleStep(total, wanted, {large, count}, least, plan.step);
  } while (plan.step < least);
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
