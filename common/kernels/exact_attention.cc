#include "common/kernels/exact_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "common/base/check.h"
#include "common/memory/aligned_buffer.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/exact_attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h.
#include "common/kernels/dot4-inl.h"
#include "common/kernels/exp-inl.h"
#include "common/kernels/row_load-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sounder::kernels {
namespace HWY_NAMESPACE {

// Rows whose weights and values are handled before the next are loaded.
constexpr size_t kTileRows = 64;
// Rows summed in one run before the run is added to the total: bounds the rounding error.
constexpr int64_t kRunRows = 512;
constexpr int64_t kPageBytes = 4096;
// Logits are kept in units of ln 2: weights are powers of two, relative to 2^reference. A reference
// is a whole number, so that rescaling to another is exact, and when a logit passes it, it is
// raised by this much more than needed: most calls raise it once.
constexpr float kSpare = 8;
// Below every logit; finite, so that differences with it are numbers.
constexpr float kNoReference = -3e38f;
// Logits, and their weights, of kDotRows rows: a chunk.
constexpr size_t kChunk = 4 * kDotRows;

// Four queries under way. Vectors over dim are in the order of LoadPair.
struct QueryBlock {
  float* queries;  // [4 * dim], packed
  float* run;      // [4, dim] weighted values of this run
  float* total;    // [4, dim] of the runs before
  float reference[4];
  float run_sum[kChunk];  // parts of the weights' sums, query i % 4
  float total_sum[4];
  int64_t visible[4];
  int64_t visible_min;
  int64_t visible_max;
};

HWY_INLINE void ScaleRow(size_t dim, float factor, float* HWY_RESTRICT x) {
  const hn::CappedTag<float, 8> d;
  for (size_t i = 0; i < dim; i += hn::Lanes(d)) {
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor)), d, x + i);
  }
}

// Raises the references over a tile's `logits` [rows, 4] and rescales what was summed under the old
// ones. Rare.
HWY_NOINLINE void RaiseReferences(const float* HWY_RESTRICT logits, size_t rows, size_t dim,
                                  QueryBlock& block) {
  for (size_t q = 0; q < 4; ++q) {
    float max = kNoReference;
    for (size_t k = 0; k < rows; ++k) max = std::max(max, logits[4 * k + q]);
    const float before = block.reference[q];
    if (!(max > before)) continue;
    block.reference[q] = std::ceil(max) + kSpare;
    const float factor = std::exp2(before - block.reference[q]);
    for (size_t i = q; i < kChunk; i += 4) block.run_sum[i] *= factor;
    block.total_sum[q] *= factor;
    ScaleRow(dim, factor, block.run + q * dim);
    ScaleRow(dim, factor, block.total + q * dim);
  }
}

// logits [rows, 4] of a tile, whole chunks, become weights 2^(logit - reference); their sums are
// added to run_sum.
HWY_INLINE void WeighLogits(float* HWY_RESTRICT logits, size_t rows, size_t dim,
                            QueryBlock& block) {
  const hn::CappedTag<float, kChunk> d;
  const size_t lanes = hn::Lanes(d);
  auto reference = hn::LoadDup128(d, block.reference);
  auto max = reference;
  for (size_t i = 0; i < 4 * rows; i += lanes) max = hn::Max(max, hn::LoadU(d, logits + i));
  if (HWY_UNLIKELY(!hn::AllTrue(d, hn::Eq(max, reference)))) {
    RaiseReferences(logits, rows, dim, block);
    reference = hn::LoadDup128(d, block.reference);
  }
  auto sum = hn::LoadU(d, block.run_sum);
  for (size_t i = 0; i < 4 * rows; i += lanes) {
    const auto weights = Exp2NonPositive(d, hn::Sub(hn::LoadU(d, logits + i), reference));
    hn::StoreU(weights, d, logits + i);
    sum = hn::Add(sum, weights);
  }
  hn::StoreU(sum, d, block.run_sum);
}

// run += weights^T [4, rows] * values [rows, dim], kPairs pairs of vectors from column `i` on. Asks
// for the same columns `ahead` bytes further on (0: no more).
template <class Rows, size_t kPairs, class D>
HWY_INLINE void AddValues(D d, const memory::RowsView& values, int64_t begin, size_t rows,
                          const float* HWY_RESTRICT weights, size_t i, size_t dim, int64_t ahead,
                          float* HWY_RESTRICT run) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d);
  const size_t bytes = kPairs * 2 * lanes * Rows::kBytes;
  if (i * Rows::kBytes % 64 != 0) ahead = 0;  // a line of which the columns before asked
  V sums[4][2 * kPairs];
  for (size_t q = 0; q < 4; ++q) {
    for (size_t v = 0; v < 2 * kPairs; ++v)
      sums[q][v] = hn::LoadU(d, run + q * dim + i + v * lanes);
  }
  const std::byte* row = values.Row(begin);
  for (size_t k = 0; k < rows; ++k, row += values.row_stride) {
    V x[2 * kPairs];
    for (size_t p = 0; p < kPairs; ++p) {
      Rows::LoadPair(d, row, i + 2 * p * lanes, x[2 * p], x[2 * p + 1]);
    }
    for (size_t b = 0; b < bytes; b += 64) {
      __builtin_prefetch(row + ahead + i * Rows::kBytes + b, 0, 2);
    }
    for (size_t q = 0; q < 4; ++q) {
      const V weight = hn::Set(d, weights[4 * k + q]);
      for (size_t v = 0; v < 2 * kPairs; ++v) sums[q][v] = hn::MulAdd(weight, x[v], sums[q][v]);
    }
  }
  for (size_t q = 0; q < 4; ++q) {
    for (size_t v = 0; v < 2 * kPairs; ++v) {
      hn::StoreU(sums[q][v], d, run + q * dim + i + v * lanes);
    }
  }
}

// Asks for kDotRows rows from `row` on.
HWY_INLINE void PrefetchRows(const memory::RowsView& rows, int64_t row) {
  const int64_t bytes = rows.dim * base::SizeOf(rows.dtype);
  const int64_t end = row + static_cast<int64_t>(kDotRows);
  for (; row < end; ++row) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(rows.Row(row) + i, 0, 2);
  }
}

// Asks for a line of every page of `count` rows from `row` on.
HWY_INLINE void PrefetchPages(const memory::RowsView& rows, int64_t row, size_t count) {
  const int64_t bytes = static_cast<int64_t>(count) * rows.row_stride;
  for (int64_t i = 0; i < bytes; i += kPageBytes) __builtin_prefetch(rows.Row(row) + i, 0, 2);
}

// Rows [begin, begin + count) of a block whose queries do not all see them: logits of those that a
// query does not see become -inf.
HWY_INLINE void HideRows(const QueryBlock& block, int64_t begin, size_t count,
                         float* HWY_RESTRICT logits) {
  for (size_t j = 0; j < 4 * count; ++j) {
    if (begin + static_cast<int64_t>(j / 4) < block.visible[j % 4]) continue;
    logits[j] = -std::numeric_limits<float>::infinity();
  }
}

// weights [rows, 4] of a tile's rows for one block of queries, padded with zeros to a chunk. Asks
// for keys `ahead` rows further on (0: no more).
template <class Rows, class D>
HWY_INLINE void WeighTile(D d, const ExactAttentionArgs& args, int64_t begin, size_t rows,
                          int64_t ahead, QueryBlock& block, float* HWY_RESTRICT weights) {
  const size_t dim = args.keys.dim;
  const std::byte* keys = args.keys.Row(begin);
  const int64_t stride = args.keys.row_stride;
  size_t k = 0;
  for (; k + kDotRows <= rows; k += kDotRows) {
    const int64_t row = begin + static_cast<int64_t>(k);
    if (ahead > 0) PrefetchRows(args.keys, row + ahead);
    DotFour<Rows, kDotRows>(
        d, [&](size_t j) HWY_ATTR { return keys + static_cast<int64_t>(k + j) * stride; },
        block.queries, dim, weights + 4 * k);
  }
  for (; k < rows; ++k) {
    DotFour<Rows, 1>(
        d, [&](size_t) HWY_ATTR { return keys + static_cast<int64_t>(k) * stride; }, block.queries,
        dim, weights + 4 * k);
  }
  if (begin + static_cast<int64_t>(rows) > block.visible_min) HideRows(block, begin, rows, weights);
  const size_t padded_rows = hwy::RoundUpTo(rows, kDotRows);
  std::fill(weights + 4 * rows, weights + 4 * padded_rows, -std::numeric_limits<float>::infinity());
  WeighLogits(weights, padded_rows, dim, block);
}

// One tile of rows for one block of queries; the first block asks for rows ahead: keys while logits
// are computed, values while values are summed, so that memory always has requests.
template <class Rows, class D>
HWY_INLINE void AttendTile(D d, const ExactAttentionArgs& args, int64_t begin, size_t rows,
                           bool first, QueryBlock& block) {
  const size_t dim = args.keys.dim;
  const int64_t left = args.keys.rows - begin - static_cast<int64_t>(rows);
  const KernelSchedule& schedule = args.schedule;
  const int64_t ahead = first && left >= schedule.exact_rows_ahead ? schedule.exact_rows_ahead : 0;
  const int64_t pages = schedule.exact_page_rows_ahead;
  if (first && pages > 0 && left >= pages) {
    PrefetchPages(args.keys, begin + pages, rows);
    PrefetchPages(args.values, begin + pages, rows);
  }
  HWY_ALIGN float weights[4 * kTileRows];
  WeighTile<Rows>(d, args, begin, rows, ahead, block, weights);
  const int64_t bytes_ahead = ahead * args.values.row_stride;
  const size_t pair = 2 * hn::Lanes(d);
  size_t i = 0;
  for (; ValuePairs(schedule) == 2 && i + 2 * pair <= dim; i += 2 * pair) {
    AddValues<Rows, 2>(d, args.values, begin, rows, weights, i, dim, bytes_ahead, block.run);
  }
  for (; i < dim; i += pair) {
    AddValues<Rows, 1>(d, args.values, begin, rows, weights, i, dim, bytes_ahead, block.run);
  }
}

// Adds the run to the total and empties it.
HWY_INLINE void EndRun(size_t dim, QueryBlock& block) {
  const hn::CappedTag<float, 8> d;
  for (size_t i = 0; i < 4 * dim; i += hn::Lanes(d)) {
    hn::StoreU(hn::Add(hn::LoadU(d, block.total + i), hn::LoadU(d, block.run + i)), d,
               block.total + i);
    hn::StoreU(hn::Zero(d), d, block.run + i);
  }
  for (size_t i = 0; i < kChunk; ++i) {
    block.total_sum[i % 4] += block.run_sum[i];
    block.run_sum[i] = 0;
  }
}

template <class Rows, class D>
HWY_INLINE void Finish(D d, const QueryBlock& block, size_t count, size_t dim, float* outputs,
                       float* lse) {
  for (size_t q = 0; q < count; ++q) {
    const float sum = block.total_sum[q];
    float* output = outputs + q * dim;
    if (!(sum > 0)) {
      std::fill(output, output + dim, 0.0f);
      lse[q] = -std::numeric_limits<float>::infinity();
      continue;
    }
    const float* total = block.total + q * dim;
    const auto divisor = hn::Set(d, sum);
    for (size_t i = 0; i < dim; i += 2 * hn::Lanes(d)) {
      const auto a = hn::Div(hn::LoadU(d, total + i), divisor);
      const auto b = hn::Div(hn::LoadU(d, total + i + hn::Lanes(d)), divisor);
      StoreF32Pair<Rows>(d, a, b, output + i);
    }
    lse[q] = static_cast<float>(std::numbers::ln2 * (static_cast<double>(block.reference[q]) +
                                                     std::log2(static_cast<double>(sum))));
  }
}

template <class Rows, class D>
HWY_INLINE void Prepare(D d, const ExactAttentionArgs& args, int first, size_t count, float* memory,
                        QueryBlock& block) {
  const size_t dim = args.keys.dim;
  block.queries = memory;
  block.run = memory + 4 * dim;
  block.total = memory + 8 * dim;
  PackFourQueries<Rows>(d, args.queries + first * args.query_stride, args.query_stride, count, dim,
                        args.scale * std::numbers::log2e_v<float>, block.queries);
  std::fill(block.run, block.run + 8 * dim, 0.0f);
  block.visible_min = args.keys.rows;
  block.visible_max = 0;
  std::fill(block.run_sum, block.run_sum + kChunk, 0.0f);
  for (size_t q = 0; q < 4; ++q) {
    block.reference[q] = kNoReference;
    block.total_sum[q] = 0;
    block.visible[q] = q >= count                  ? 0
                       : args.visible_rows.empty() ? args.keys.rows
                                                   : args.visible_rows[first + q];
    if (q >= count) continue;
    block.visible_min = std::min(block.visible_min, block.visible[q]);
    block.visible_max = std::max(block.visible_max, block.visible[q]);
  }
}

template <class Rows, class D>
HWY_NOINLINE void AttendAll(D d, const ExactAttentionArgs& args, float* outputs, float* lse) {
  const size_t dim = args.keys.dim;
  const size_t num_blocks = (args.num_queries + 3) / 4;
  memory::AlignedBuffer state(num_blocks * sizeof(QueryBlock));
  memory::AlignedBuffer vectors(num_blocks * 12 * dim * sizeof(float));
  QueryBlock* blocks = state.As<QueryBlock>().data();
  int64_t last_row = 0;
  for (size_t b = 0; b < num_blocks; ++b) {
    const size_t count = std::min<size_t>(4, args.num_queries - 4 * b);
    Prepare<Rows>(d, args, static_cast<int>(4 * b), count,
                  vectors.As<float>().data() + b * 12 * dim, blocks[b]);
    last_row = std::max(last_row, blocks[b].visible_max);
  }
  const size_t first_pages = std::min<int64_t>(last_row, args.schedule.exact_page_rows_ahead);
  PrefetchPages(args.keys, 0, first_pages);
  PrefetchPages(args.values, 0, first_pages);
  for (int64_t run = 0; run < last_row; run += kRunRows) {
    const int64_t run_end = std::min(last_row, run + kRunRows);
    for (int64_t begin = run; begin < run_end; begin += kTileRows) {
      const size_t rows = std::min<int64_t>(kTileRows, run_end - begin);
      for (size_t b = 0; b < num_blocks; ++b) {
        if (begin >= blocks[b].visible_max) continue;
        AttendTile<Rows>(d, args, begin, rows, b == 0, blocks[b]);
      }
    }
    for (size_t b = 0; b < num_blocks; ++b) {
      if (run < blocks[b].visible_max) EndRun(dim, blocks[b]);
    }
  }
  for (size_t b = 0; b < num_blocks; ++b) {
    const size_t count = std::min<size_t>(4, args.num_queries - 4 * b);
    Finish<Rows>(d, blocks[b], count, dim, outputs + b * 4 * dim, lse + 4 * b);
  }
}

void Attend(const ExactAttentionArgs& args, float* outputs, float* lse) {
  WithRows(args.keys.dtype, [&](auto rows) HWY_ATTR {
    WithWidestTag(args.keys.dim,
                  [&](auto d) HWY_ATTR { AttendAll<decltype(rows)>(d, args, outputs, lse); });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sounder::kernels {

HWY_EXPORT(Attend);

void ExactAttention(const ExactAttentionArgs& args, float* outputs, float* lse) {
  const int dim = args.keys.dim;
  CHECK(dim >= 8 && dim <= 512 && dim % 8 == 0) << "dim " << dim;
  CHECK(args.values.dim == dim && args.values.dtype == args.keys.dtype &&
        args.values.rows == args.keys.rows)
      << "K and V differ in shape";
  CHECK(args.visible_rows.empty() ||
        args.visible_rows.size() == static_cast<size_t>(args.num_queries))
      << args.visible_rows.size();
  for (int64_t visible : args.visible_rows) {
    CHECK(visible >= 0 && visible <= args.keys.rows) << visible;
  }
  if (args.num_queries == 0) return;
  HWY_DYNAMIC_DISPATCH(Attend)(args, outputs, lse);
}

}  // namespace sounder::kernels
#endif  // HWY_ONCE
