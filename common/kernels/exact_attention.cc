#include "common/kernels/exact_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/base/check.h"
#include "common/memory/aligned_buffer.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/exact_attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h.
#include "common/kernels/dot4-inl.h"
#include "common/kernels/row_load-inl.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sounder::kernels {
namespace HWY_NAMESPACE {

// Rows whose logits, weights and values are handled before the next are loaded.
constexpr size_t kTileRows = 32;
// Rows summed in one run before the run is added to the total: bounds the rounding error.
constexpr int64_t kRunRows = 512;
// Rows are asked for this many ahead of their use, into the second-level cache: 64 KB at dim 128 in
// bf16. Without it a tile's column-wise pass over V defeats the hardware's prefetcher; into the
// first level, the core's few miss buffers become the limit.
constexpr int64_t kRowsAhead = 4 * kTileRows;
// Below every logit; finite, so that differences with it are numbers.
constexpr float kNoMax = -3e38f;

// Four queries under way. Vectors over dim are in the order of LoadPair.
struct QueryBlock {
  float* queries;  // [4 * dim], packed
  float* run;      // [4, dim] weighted values of this run
  float* total;    // [4, dim] of the runs before
  float max[4];
  float run_sum[4];
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

// Raises the maxima to those of `logits` [rows, 4] and rescales what was summed under the old ones.
HWY_INLINE void RaiseMaxima(const float* HWY_RESTRICT logits, size_t rows, size_t dim,
                            QueryBlock& block) {
  const hn::CappedTag<float, 4> d;
  auto max = hn::LoadU(d, block.max);
  const auto before = max;
  for (size_t k = 0; k < rows; ++k) max = hn::Max(max, hn::LoadU(d, logits + 4 * k));
  if (hn::AllTrue(d, hn::Eq(max, before))) return;
  const auto factors = hn::Exp(d, hn::Max(hn::Sub(before, max), hn::Set(d, -200.0f)));
  float factor[4];
  hn::StoreU(factors, d, factor);
  hn::StoreU(max, d, block.max);
  for (size_t q = 0; q < 4; ++q) {
    if (factor[q] == 1.0f) continue;
    block.run_sum[q] *= factor[q];
    block.total_sum[q] *= factor[q];
    ScaleRow(dim, factor[q], block.run + q * dim);
    ScaleRow(dim, factor[q], block.total + q * dim);
  }
}

// logits [kTileRows, 4] become weights exp(logit - max); their sums are added to run_sum. Rows
// beyond the tile's are padded with -inf.
template <class D>
HWY_INLINE void WeightsOfLogits(D d, float* HWY_RESTRICT logits, size_t rows, QueryBlock& block) {
  const size_t lanes = hn::Lanes(d);
  const auto max = hn::LoadDup128(d, block.max);
  auto sum = hn::Zero(d);
  for (size_t i = 0; i < 4 * rows; i += lanes) {
    const auto x = hn::Sub(hn::LoadU(d, logits + i), max);
    const auto weight = hn::Exp(d, hn::Max(x, hn::Set(d, -200.0f)));
    sum = hn::Add(sum, weight);
    hn::StoreU(weight, d, logits + i);
  }
  float sums[hn::MaxLanes(d)];
  hn::StoreU(sum, d, sums);
  for (size_t i = 0; i < lanes; ++i) block.run_sum[i % 4] += sums[i];
}

// run += weights^T [4, rows] * values [rows, dim], kPairs pairs of vectors from column `i` on.
template <class Rows, size_t kPairs, class D>
HWY_INLINE void AddValues(D d, const memory::RowsView& values, int64_t begin, size_t rows,
                          const float* HWY_RESTRICT weights, size_t i, size_t dim,
                          float* HWY_RESTRICT run) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d);
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

#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
constexpr size_t kValuePairs = 2;
#else
constexpr size_t kValuePairs = 1;
#endif

// Asks for `count` K and V rows from `row` on, as far as there are such rows.
HWY_INLINE void PrefetchRows(const ExactAttentionArgs& args, int64_t row, size_t count) {
  const int64_t end = std::min(args.keys.rows, row + static_cast<int64_t>(count));
  const int64_t bytes = static_cast<int64_t>(args.keys.dim * base::SizeOf(args.keys.dtype));
  for (; row < end; ++row) {
    for (int64_t i = 0; i < bytes; i += 64) {
      __builtin_prefetch(args.keys.Row(row) + i, 0, 2);
      __builtin_prefetch(args.values.Row(row) + i, 0, 2);
    }
  }
}

// One tile of rows for one block of queries; the first block asks for rows ahead.
template <class Rows, class D>
HWY_INLINE void AttendTile(D d, const ExactAttentionArgs& args, int64_t begin, size_t rows,
                           bool first, QueryBlock& block) {
  const size_t dim = args.keys.dim;
  const std::byte* keys = args.keys.Row(begin);
  const int64_t stride = args.keys.row_stride;
  HWY_ALIGN float logits[4 * kTileRows];
  size_t k = 0;
  for (; k + kDotRows <= rows; k += kDotRows) {
    if (first) PrefetchRows(args, begin + static_cast<int64_t>(k) + kRowsAhead, kDotRows);
    DotFour<Rows, kDotRows>(
        d, [&](size_t j) HWY_ATTR { return keys + static_cast<int64_t>(k + j) * stride; },
        block.queries, dim, logits + 4 * k);
  }
  for (; k < rows; ++k) {
    DotFour<Rows, 1>(
        d, [&](size_t) HWY_ATTR { return keys + static_cast<int64_t>(k) * stride; }, block.queries,
        dim, logits + 4 * k);
  }
  const size_t padded_rows = (rows + 3) / 4 * 4;
  const float none = -std::numeric_limits<float>::infinity();
  std::fill(logits + 4 * rows, logits + 4 * padded_rows, none);
  if (begin + static_cast<int64_t>(rows) > block.visible_min) {
    for (size_t j = 0; j < rows; ++j) {
      for (size_t q = 0; q < 4; ++q) {
        if (begin + static_cast<int64_t>(j) >= block.visible[q]) logits[4 * j + q] = none;
      }
    }
  }
  RaiseMaxima(logits, rows, dim, block);
  WeightsOfLogits(d, logits, padded_rows, block);
  const size_t pair = 2 * hn::Lanes(d);
  size_t i = 0;
  for (; i + kValuePairs * pair <= dim; i += kValuePairs * pair) {
    AddValues<Rows, kValuePairs>(d, args.values, begin, rows, logits, i, dim, block.run);
  }
  for (; i < dim; i += pair) {
    AddValues<Rows, 1>(d, args.values, begin, rows, logits, i, dim, block.run);
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
  for (size_t q = 0; q < 4; ++q) {
    block.total_sum[q] += block.run_sum[q];
    block.run_sum[q] = 0;
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
    for (size_t i = 0; i < dim; ++i) output[i] = total[PairPosition<Rows>(i, hn::Lanes(d))] / sum;
    lse[q] = block.max[q] + std::log(sum);
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
                        args.scale, block.queries);
  std::fill(block.run, block.run + 8 * dim, 0.0f);
  block.visible_min = args.keys.rows;
  block.visible_max = 0;
  for (size_t q = 0; q < 4; ++q) {
    block.max[q] = kNoMax;
    block.run_sum[q] = block.total_sum[q] = 0;
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
