#include "kv_node/kernels/sketch_scan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
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
  const int16_t* factors = nullptr;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int groups = 0;  // of 8 coordinates
  std::array<const int8_t*, kScanQueries> tables{};
  std::array<int16_t, kScanQueries> multipliers{};
  std::array<int16_t*, kScanQueries> scores{};  // by row
};

}  // namespace sounder::kv_node
#endif

HWY_BEFORE_NAMESPACE();
namespace sounder::kv_node {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Bytes = hn::CappedTag<uint8_t, 64>;
using SignedBytes = hn::RebindToSigned<Bytes>;

// Sketches are asked for so far ahead of their use.
constexpr int64_t kBytesAhead = 4096;
// Blocks that share the loads of the tables.
constexpr size_t kBlocks = kSketchPairRows / kSketchBlockRows;

struct Nibbles {
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

// sums[q][block][row]: sums of the tables of kBlocks blocks. Vectors of 64 bytes hold two groups of
// a block: the even one below, the odd one above.
template <size_t kQueries>
HWY_INLINE void SumWide(const ScanPass& pass, const uint8_t* HWY_RESTRICT blocks,
                        int8_t (&sums)[kQueries][kBlocks][kSketchBlockRows]) {
  const Bytes d;
  const SignedBytes ds;
  const hn::Half<SignedBytes> dh;
  const size_t block_bytes = static_cast<size_t>(pass.groups) * kSketchBlockRows;
  hn::Vec<SignedBytes> sum[kQueries][kBlocks];
  for (auto& query : sum) {
    for (auto& block : query) block = hn::Zero(ds);
  }
  for (int group = 0; group < pass.groups; group += 2) {
    Nibbles nibbles[kBlocks];
    for (size_t b = 0; b < kBlocks; ++b) {
      const uint8_t* bytes = blocks + b * block_bytes + group * kSketchBlockRows;
      __builtin_prefetch(bytes + kBytesAhead);
      nibbles[b] = Split(hn::LoadU(d, bytes));
    }
    for (size_t q = 0; q < kQueries; ++q) {
      const auto lower = TableAt(pass.tables[q], group, false);
      const auto upper = TableAt(pass.tables[q], group, true);
      for (size_t b = 0; b < kBlocks; ++b) {
        sum[q][b] = hn::SaturatedAdd(sum[q][b], LookUp(lower, upper, nibbles[b]));
      }
    }
  }
  for (size_t q = 0; q < kQueries; ++q) {
    for (size_t b = 0; b < kBlocks; ++b) {
      hn::StoreU(hn::SaturatedAdd(hn::LowerHalf(dh, sum[q][b]), hn::UpperHalf(dh, sum[q][b])), dh,
                 sums[q][b]);
    }
  }
}

// The same with vectors of at most 32 bytes: even groups, then odd ones.
template <size_t kQueries>
HWY_INLINE void SumNarrow(const ScanPass& pass, const uint8_t* HWY_RESTRICT blocks,
                          int8_t (&sums)[kQueries][kBlocks][kSketchBlockRows]) {
  const Bytes d;
  const SignedBytes ds;
  const size_t block_bytes = static_cast<size_t>(pass.groups) * kSketchBlockRows;
  for (size_t part = 0; part < kSketchBlockRows; part += hn::Lanes(d)) {
    for (int parity = 0; parity < 2; ++parity) {
      hn::Vec<SignedBytes> sum[kQueries][kBlocks];
      for (auto& query : sum) {
        for (auto& block : query) block = hn::Zero(ds);
      }
      for (int group = parity; group < pass.groups; group += 2) {
        Nibbles nibbles[kBlocks];
        for (size_t b = 0; b < kBlocks; ++b) {
          const uint8_t* bytes = blocks + b * block_bytes + group * kSketchBlockRows + part;
          if (parity == 0) __builtin_prefetch(bytes + kBytesAhead);
          nibbles[b] = Split(hn::LoadU(d, bytes));
        }
        for (size_t q = 0; q < kQueries; ++q) {
          const auto lower = TableAt(pass.tables[q], group, false);
          const auto upper = TableAt(pass.tables[q], group, true);
          for (size_t b = 0; b < kBlocks; ++b) {
            sum[q][b] = hn::SaturatedAdd(sum[q][b], LookUp(lower, upper, nibbles[b]));
          }
        }
      }
      for (size_t q = 0; q < kQueries; ++q) {
        for (size_t b = 0; b < kBlocks; ++b) {
          int8_t* out = sums[q][b] + part;
          if (parity == 1) sum[q][b] = hn::SaturatedAdd(hn::LoadU(ds, out), sum[q][b]);
          hn::StoreU(sum[q][b], ds, out);
        }
      }
    }
  }
}

template <size_t kQueries>
HWY_INLINE void ScanBlocks(const ScanPass& pass) {
  const hn::CappedTag<int16_t, kSketchBlockRows> d;
  const hn::Rebind<int8_t, decltype(d)> d8;
  const size_t block_bytes = static_cast<size_t>(pass.groups) * kSketchBlockRows;
  for (int64_t first = pass.row_begin; first < pass.row_end; first += kSketchPairRows) {
    HWY_ALIGN int8_t sums[kQueries][kBlocks][kSketchBlockRows];
    const uint8_t* blocks =
        pass.blocks + static_cast<size_t>(first / kSketchBlockRows) * block_bytes;
    if constexpr (hn::MaxLanes(Bytes()) == 64) {
      SumWide(pass, blocks, sums);
    } else {
      SumNarrow(pass, blocks, sums);
    }
    for (size_t i = 0; i < kBlocks * kSketchBlockRows; i += hn::Lanes(d)) {
      const auto factor = hn::LoadU(d, pass.factors + first + i);
      for (size_t q = 0; q < kQueries; ++q) {
        const auto sum = hn::PromoteTo(d, hn::LoadU(d8, &sums[q][0][0] + i));
        const auto scaled = hn::MulFixedPoint15(hn::ShiftLeft<8>(sum), factor);
        const auto score = hn::MulFixedPoint15(scaled, hn::Set(d, pass.multipliers[q]));
        hn::StoreU(score, d, pass.scores[q] + first + i);
      }
    }
  }
}

void Scan(const ScanPass& pass, size_t queries) {
  switch (queries) {
    case 1:
      return ScanBlocks<1>(pass);
    case 2:
      return ScanBlocks<2>(pass);
    case 3:
      return ScanBlocks<3>(pass);
    default:
      return ScanBlocks<kScanQueries>(pass);
  }
}

int16_t Highest(const int16_t* HWY_RESTRICT scores, int64_t count) {
  const hn::CappedTag<int16_t, kSketchBlockRows> d;
  auto highest = hn::Set(d, kNoScore);
  for (int64_t i = 0; i < count; i += static_cast<int64_t>(hn::Lanes(d))) {
    highest = hn::Max(highest, hn::LoadU(d, scores + i));
  }
  int16_t lanes[hn::MaxLanes(d)];
  hn::StoreU(highest, d, lanes);
  return *std::max_element(lanes, lanes + hn::Lanes(d));
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
HWY_EXPORT(Highest);
HWY_EXPORT(FillTables);

namespace {

// The cosine between query and key at which a score reaches its end.
constexpr double kFullCosine = 0.65;

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
  units_.resize(count);
  for (int q = 0; q < count; ++q) {
    const float* x = rotated + static_cast<size_t>(q) * bits_;
    double square = 0;
    for (int j = 0; j < bits_; ++j) square += double{x[j]} * x[j];
    // Of a key at cosine c: sum_j x_j sign_j is about c |x| sqrt(2 bits / pi).
    const double full = kFullCosine * std::sqrt(square * 2 * bits_ / std::numbers::pi);
    const double factor = full > 0 ? 127 / full : 0;
    HWY_DYNAMIC_DISPATCH(FillTables)
    (x, bits_, static_cast<float>(factor), tables_.As<int8_t>().data() + size_t{8} * bits_ * q);
    units_[q] = static_cast<float>(
        factor > 0 ? double{scale} * std::numbers::log2e * kScoreUnit / factor : 0);
  }
}

void ScanSketches(const SketchView& sketches, const SketchTables& tables, int64_t row_begin,
                  int64_t row_end, int16_t* scores, int64_t stride, int16_t* highest) {
  CHECK(0 <= row_begin && row_begin <= row_end && row_end <= sketches.rows) << row_end;
  CHECK(sketches.bits == tables.bits()) << sketches.bits;
  ScanPass pass;
  pass.blocks = sketches.blocks;
  pass.factors = sketches.factors;
  pass.groups = sketches.bits / 8;
  const int64_t first = row_begin / kSketchPairRows * kSketchPairRows;
  const int64_t last = SketchView::PaddedRows(row_end);
  pass.row_begin = first;
  pass.row_end = last;
  for (int begin = 0; begin < tables.count(); begin += kScanQueries) {
    const int queries = std::min(kScanQueries, tables.count() - begin);
    for (int q = 0; q < queries; ++q) {
      const double multiplier = double{tables.unit(begin + q)} * sketches.factor_unit * 4194304.0;
      pass.tables[q] = tables.tables(begin + q);
      pass.multipliers[q] = static_cast<int16_t>(std::min(32767.0, std::nearbyint(multiplier)));
      pass.scores[q] = scores + (begin + q) * stride;
    }
    if (row_begin < row_end) HWY_DYNAMIC_DISPATCH(Scan)(pass, queries);
    for (int q = 0; q < queries; ++q) {
      int16_t* row = pass.scores[q];
      if (row_begin == row_end) {
        highest[begin + q] = kNoScore;
        continue;
      }
      std::fill(row + first, row + row_begin, kNoScore);
      std::fill(row + row_end, row + last, kNoScore);
      highest[begin + q] = HWY_DYNAMIC_DISPATCH(Highest)(row + first, last - first);
    }
  }
}

}  // namespace sounder::kv_node
#endif  // HWY_ONCE
