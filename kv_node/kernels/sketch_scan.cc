#include "kv_node/kernels/sketch_scan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "common/base/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kv_node/kernels/sketch_scan.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#ifndef SOUNDER_KV_NODE_KERNELS_SKETCH_SCAN_ONCE
#define SOUNDER_KV_NODE_KERNELS_SKETCH_SCAN_ONCE
namespace sounder::kv_node {

// Queries that share one pass over the sketches.
inline constexpr int kScanQueries = 4;

// One pass: up to kScanQueries queries over whole pairs of blocks.
struct ScanPass {
  const uint8_t* blocks = nullptr;
  const uint8_t* factors = nullptr;
  int64_t first = 0;      // row of the first pair
  int64_t row_begin = 0;  // visible
  int64_t row_end = 0;
  int groups = 0;  // of 8 coordinates
  int step = 1;
  int bytes_ahead = 0;
  std::array<const int8_t*, kScanQueries> tables{};
  std::array<int8_t*, kScanQueries> scores{};  // by row
};

// Sums of weights, one per row modulo the rows of a block, so that their order is the same at every
// width.
using WeightSums = std::array<float, kSketchBlockRows>;

// Weights are relative to the highest score there is.
inline constexpr int kHighestScore = 127;

}  // namespace sounder::kv_node
#endif

HWY_BEFORE_NAMESPACE();
namespace sounder::kv_node {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Bytes = hn::CappedTag<uint8_t, 64>;
using SignedBytes = hn::RebindToSigned<Bytes>;

// Blocks that share the loads of the tables.
constexpr size_t kBlocks = kSketchPairRows / kSketchBlockRows;

struct Nibbles {
  HWY_INLINE Nibbles() {}  // gcc's own constructor would lack the target's instructions (NEON)
  HWY_INLINE Nibbles(hn::Vec<Bytes> l, hn::Vec<Bytes> u) : lower(l), upper(u) {}
  hn::Vec<Bytes> lower;
  hn::Vec<Bytes> upper;
};

HWY_INLINE Nibbles Split(hn::Vec<Bytes> bytes) {
  const Bytes d;
  const hn::Repartition<uint16_t, Bytes> d16;
  const auto mask = hn::Set(d, uint8_t{15});
  const auto shifted = hn::BitCast(d, hn::ShiftRight<4>(hn::BitCast(d16, bytes)));
  return {hn::And(bytes, mask), hn::And(shifted, mask)};
}

HWY_INLINE hn::Vec<SignedBytes> LookUp(hn::Vec<SignedBytes> lower, hn::Vec<SignedBytes> upper,
                                       const Nibbles& nibbles) {
  const SignedBytes d;
  return hn::Add(hn::TableLookupBytes(lower, hn::BitCast(d, nibbles.lower)),
                 hn::TableLookupBytes(upper, hn::BitCast(d, nibbles.upper)));
}

// The tables of a vector's worth of bytes at group `group`.
HWY_INLINE hn::Vec<SignedBytes> TableAt(const int8_t* tables, int group, bool upper) {
  return hn::LoadU(SignedBytes(), tables + group / 2 * 128 + (upper ? 64 : 0) + group % 2 * 32);
}

// Adds what the tables of group `group` have for a vector's worth of bytes of kBlocks blocks.
template <size_t kQueries>
HWY_INLINE void AddGroup(const ScanPass& pass, int group, const uint8_t* HWY_RESTRICT bytes,
                         bool ahead, hn::Vec<SignedBytes> (&sum)[kQueries][kBlocks]) {
  const size_t block_bytes = static_cast<size_t>(pass.groups) * kSketchBlockRows;
  Nibbles nibbles[kBlocks];
  for (size_t b = 0; b < kBlocks; ++b) {
    const uint8_t* of_block = bytes + b * block_bytes;
    if (ahead) __builtin_prefetch(of_block + pass.bytes_ahead);
    nibbles[b] = Split(hn::LoadU(Bytes(), of_block));
  }
  for (size_t q = 0; q < kQueries; ++q) {
    const auto lower = TableAt(pass.tables[q], group, false);
    const auto upper = TableAt(pass.tables[q], group, true);
    for (size_t b = 0; b < kBlocks; ++b) {
      sum[q][b] = hn::SaturatedAdd(sum[q][b], LookUp(lower, upper, nibbles[b]));
    }
  }
}

// sums[q][block][row]: sums of the tables of kBlocks blocks. Vectors of 64 bytes hold two groups of
// a block: the even one below, the odd one above.
template <size_t kQueries>
HWY_INLINE void SumWide(const ScanPass& pass, const uint8_t* HWY_RESTRICT blocks,
                        int8_t (&sums)[kQueries][kBlocks][kSketchBlockRows]) {
  const SignedBytes ds;
  const hn::Half<SignedBytes> dh;
  hn::Vec<SignedBytes> sum[kQueries][kBlocks];
  for (auto& query : sum) {
    for (auto& block : query) block = hn::Zero(ds);
  }
  for (int group = 0; group < pass.groups; group += 2) {
    AddGroup(pass, group, blocks + group * kSketchBlockRows, /*ahead=*/true, sum);
  }
  for (size_t q = 0; q < kQueries; ++q) {
    for (size_t b = 0; b < kBlocks; ++b) {
      const auto total =
          hn::SaturatedAdd(hn::LowerHalf(dh, sum[q][b]), hn::UpperHalf(dh, sum[q][b]));
      hn::StoreU(hn::Max(total, hn::Set(dh, int8_t{-127})), dh, sums[q][b]);
    }
  }
}

// The same with vectors of at most 32 bytes: even groups, then odd ones.
template <size_t kQueries>
HWY_INLINE void SumNarrow(const ScanPass& pass, const uint8_t* HWY_RESTRICT blocks,
                          int8_t (&sums)[kQueries][kBlocks][kSketchBlockRows]) {
  const Bytes d;
  const SignedBytes ds;
  for (size_t part = 0; part < kSketchBlockRows; part += hn::Lanes(d)) {
    for (int parity = 0; parity < 2; ++parity) {
      hn::Vec<SignedBytes> sum[kQueries][kBlocks];
      for (auto& query : sum) {
        for (auto& block : query) block = hn::Zero(ds);
      }
      for (int group = parity; group < pass.groups; group += 2) {
        AddGroup(pass, group, blocks + group * kSketchBlockRows + part, parity == 0, sum);
      }
      for (size_t q = 0; q < kQueries; ++q) {
        for (size_t b = 0; b < kBlocks; ++b) {
          int8_t* out = sums[q][b] + part;
          if (parity == 1) {
            sum[q][b] = hn::SaturatedAdd(hn::LoadU(ds, out), sum[q][b]);
            sum[q][b] = hn::Max(sum[q][b], hn::Set(ds, int8_t{-127}));
          }
          hn::StoreU(sum[q][b], ds, out);
        }
      }
    }
  }
}

using Units = hn::CappedTag<int16_t, kSketchBlockRows>;
using Scores = hn::Rebind<int8_t, Units>;

// Adds 2^((score - kHighestScore) step / kScoreUnit) to the sums of rows [i, i + lanes) of a
// block: the exponent plus its bias, taken for a bf16 number.
HWY_INLINE void AddWeights(hn::Vec<Units> units, size_t i, float* HWY_RESTRICT sums) {
  const Units d;
  const hn::Repartition<float, Units> df;
  const hn::RebindToUnsigned<decltype(df)> du;
  const size_t half = hn::Lanes(df);
  const auto biased = hn::SaturatedAdd(units, hn::Set(d, int16_t{127 * kScoreUnit}));
  const auto bits = hn::BitCast(du, hn::Max(biased, hn::Zero(d)));
  const auto even = hn::BitCast(df, hn::ShiftLeft<16>(bits));
  const auto odd = hn::BitCast(df, hn::And(bits, hn::Set(du, 0xffff0000u)));
  // Even rows of these lanes, then the odd ones.
  hn::StoreU(hn::Add(hn::LoadU(df, sums + i), even), df, sums + i);
  hn::StoreU(hn::Add(hn::LoadU(df, sums + i + half), odd), df, sums + i + half);
}

// Which of the rows from `row` on are visible.
HWY_INLINE hn::Mask<Units> Visible(const ScanPass& pass, int64_t row) {
  const Units d;
  const auto from_row = [&](int64_t bound) {
    return hn::Set(d, static_cast<int16_t>(std::clamp<int64_t>(bound - row, -1000, 1000)));
  };
  const auto index = hn::Iota(d, 0);
  return hn::AndNot(hn::Lt(index, from_row(pass.row_begin)), hn::Lt(index, from_row(pass.row_end)));
}

// From sums of tables to scores and weights of one pair of blocks. kEdge: some rows may be hidden.
template <size_t kQueries, bool kEdge>
HWY_INLINE void FinishPair(const ScanPass& pass, int64_t first,
                           const int8_t (&sums)[kQueries][kBlocks][kSketchBlockRows],
                           WeightSums (&weights)[kQueries]) {
  const Units d;
  const Scores d8;
  const hn::Rebind<uint8_t, Units> du8;
  const auto highest = hn::Set(d, int16_t{kHighestScore});
  const auto step = hn::Set(d, static_cast<int16_t>(pass.step));
  for (size_t i = 0; i < kBlocks * kSketchBlockRows; i += hn::Lanes(d)) {
    const int64_t row = first + static_cast<int64_t>(i);
    // 128 factor, so that a fixed-point product is the score.
    const auto factor = hn::ShiftLeft<7>(hn::PromoteTo(d, hn::LoadU(du8, pass.factors + row)));
    for (size_t q = 0; q < kQueries; ++q) {
      const auto sum = hn::PromoteTo(d, hn::LoadU(d8, &sums[q][0][0] + i));
      auto score = hn::MulFixedPoint15(sum, factor);
      auto units = hn::Mul(hn::Sub(score, highest), step);
      if constexpr (kEdge) {
        const auto visible = Visible(pass, row);
        units = hn::IfThenElse(visible, units, hn::Set(d, int16_t{-32768}));
        score = hn::IfThenElse(visible, score, hn::Set(d, int16_t{kNoScore}));
      }
      AddWeights(units, i % kSketchBlockRows, weights[q].data());
      hn::StoreU(hn::DemoteTo(d8, score), d8, pass.scores[q] + row);
    }
  }
}

template <size_t kQueries, bool kEdge>
HWY_INLINE void ScanPair(const ScanPass& pass, int64_t first, WeightSums (&weights)[kQueries]) {
  const size_t block_bytes = static_cast<size_t>(pass.groups) * kSketchBlockRows;
  const uint8_t* blocks = pass.blocks + static_cast<size_t>(first / kSketchBlockRows) * block_bytes;
  HWY_ALIGN int8_t sums[kQueries][kBlocks][kSketchBlockRows];
  if constexpr (hn::MaxLanes(Bytes()) == 64) {
    SumWide(pass, blocks, sums);
  } else {
    SumNarrow(pass, blocks, sums);
  }
  FinishPair<kQueries, kEdge>(pass, first, sums, weights);
}

// The sum over the rows of a block, in their order.
HWY_INLINE float InOrder(const WeightSums& sums) {
  const size_t lanes = hn::Lanes(Units());
  float total = 0;
  for (size_t i = 0; i < kSketchBlockRows; ++i) {
    const size_t in_vector = i % lanes;
    total += sums[i - in_vector + in_vector / 2 + in_vector % 2 * (lanes / 2)];
  }
  return total;
}

template <size_t kQueries>
HWY_INLINE void ScanPairs(const ScanPass& pass, float* totals) {
  HWY_ALIGN WeightSums weights[kQueries];
  for (WeightSums& sums : weights) sums.fill(0);
  const int64_t last = (pass.row_end - 1) / kSketchPairRows * kSketchPairRows;
  ScanPair<kQueries, true>(pass, pass.first, weights);
  for (int64_t row = pass.first + kSketchPairRows; row < last; row += kSketchPairRows) {
    ScanPair<kQueries, false>(pass, row, weights);
  }
  if (last > pass.first) ScanPair<kQueries, true>(pass, last, weights);
  for (size_t q = 0; q < kQueries; ++q) totals[q] = InOrder(weights[q]);
}

void Scan(const ScanPass& pass, size_t queries, float* totals) {
  switch (queries) {
    case 1:
      return ScanPairs<1>(pass, totals);
    case 2:
      return ScanPairs<2>(pass, totals);
    case 3:
      return ScanPairs<3>(pass, totals);
    default:
      return ScanPairs<kScanQueries>(pass, totals);
  }
}

// tables of one query: rotated f32[bits], entries scaled by `factor`.
void FillTables(const float* HWY_RESTRICT rotated, int bits, float factor,
                int8_t* HWY_RESTRICT tables) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<int8_t, decltype(d)> d8;
  HWY_ALIGN float signs[4][16];
  for (int k = 0; k < 4; ++k) {
    for (int entry = 0; entry < 16; ++entry) signs[k][entry] = (entry >> k & 1) != 0 ? 1.0f : -1.0f;
  }
  const auto most = hn::Set(di, 63);
  for (int quarter = 0; quarter < bits / 4; ++quarter) {
    const int group = quarter / 2;
    int8_t* out = tables + group / 2 * 128 + quarter % 2 * 64 + group % 2 * 32;
    const float* x = rotated + 4 * quarter;
    for (size_t i = 0; i < 16; i += hn::Lanes(d)) {
      auto sum = hn::Zero(d);
      for (int k = 0; k < 4; ++k) {
        sum = hn::Add(sum, hn::Mul(hn::Load(d, signs[k] + i), hn::Set(d, x[k])));
      }
      auto entry = hn::NearestInt(hn::Mul(sum, hn::Set(d, factor)));
      entry = hn::Max(hn::Min(entry, most), hn::Neg(most));
      hn::StoreU(hn::DemoteTo(d8, entry), d8, out + i);
    }
    std::memcpy(out + 16, out, 16);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kv_node
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sounder::kv_node {

HWY_EXPORT(Scan);
HWY_EXPORT(FillTables);

namespace {

// The cosine between query and key up to which sums do not saturate, on average over keys. At .75
// the rows that matter most, saturated, look alike: errors on the test model are 5 % larger.
constexpr double kFullCosine = 1.1;

}  // namespace

void SketchTables::Prepare(const SketchRotation& rotation, const float* queries, int count,
                           float scale) {
  CHECK(count >= 1) << count;
  count_ = count;
  bits_ = rotation.bits();
  const size_t values = static_cast<size_t>(count) * bits_;
  if (rotated_.size() < values * sizeof(float)) {
    rotated_ = memory::AlignedBuffer(values * sizeof(float));
    tables_ = memory::AlignedBuffer(values * 8);
  }
  float* rotated = rotated_.As<float>().data();
  RotateQueries(rotation, queries, rotation.dim(), count, rotated);
  double longest = 0;  // squared
  for (int q = 0; q < count; ++q) {
    double square = 0;
    for (int j = 0; j < bits_; ++j)
      square += double{rotated[q * bits_ + j]} * rotated[q * bits_ + j];
    longest = std::max(longest, square);
  }
  // Of a key at cosine c: sum_j x_j sign_j is about c |x| sqrt(2 bits / pi).
  const double orders = double{scale} * std::numbers::log2e;
  const double full =
      std::abs(orders) * kFullCosine * std::sqrt(longest * 2 * bits_ / std::numbers::pi);
  const bool visible = full > 1e-30 && std::isfinite(full);
  unit_ = visible ? kScoreUnit * full / 127 : 0;
  const auto factor = static_cast<float>(visible ? orders * 127 / full : 0);
  for (int q = 0; q < count; ++q) {
    HWY_DYNAMIC_DISPATCH(FillTables)
    (rotated + q * bits_, bits_, factor, tables_.As<int8_t>().data() + size_t{8} * bits_ * q);
  }
}

int ScoreStep(const SketchView& sketches, const SketchTables& tables) {
  // A score is the sum times the factor / 2^8.
  const double step = std::nearbyint(std::ldexp(tables.unit(), 8 + sketches.factor_exponent));
  return static_cast<int>(std::clamp(step, 1.0, double{kMaxScoreStep}));
}

void ScanSketches(const SketchView& sketches, const SketchTables& tables, int64_t row_begin,
                  int64_t row_end, int step, int8_t* scores, int64_t stride, double* log_sums,
                  const kernels::KernelSchedule& schedule) {
  CHECK(0 <= row_begin && row_begin <= row_end && row_end <= sketches.rows) << row_end;
  CHECK(sketches.bits == tables.bits()) << sketches.bits;
  CHECK(1 <= step && step <= kMaxScoreStep) << step;
  std::fill_n(log_sums, tables.count(), -std::numeric_limits<double>::infinity());
  if (row_begin == row_end) return;
  ScanPass pass;
  pass.blocks = sketches.blocks;
  pass.factors = sketches.factors;
  pass.groups = sketches.bits / 8;
  pass.first = row_begin / kSketchPairRows * kSketchPairRows;
  pass.row_begin = row_begin;
  pass.row_end = row_end;
  pass.step = step;
  pass.bytes_ahead = schedule.scan_bytes_ahead;
  for (int begin = 0; begin < tables.count(); begin += kScanQueries) {
    const int queries = std::min(kScanQueries, tables.count() - begin);
    for (int q = 0; q < queries; ++q) {
      pass.tables[q] = tables.tables(begin + q);
      pass.scores[q] = scores + (begin + q) * stride;
    }
    float totals[kScanQueries];
    HWY_DYNAMIC_DISPATCH(Scan)(pass, queries, totals);
    for (int q = 0; q < queries; ++q) {
      log_sums[begin + q] =
          kScoreUnit * std::log2(double{totals[q]}) + double{kHighestScore} * step;
    }
  }
}

}  // namespace sounder::kv_node
#endif  // HWY_ONCE
