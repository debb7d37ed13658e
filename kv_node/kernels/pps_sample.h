// One systematic sample of a segment's rows for a whole group of queries, with probabilities
// proportional to size: the size of a row is the largest share of any query's attention it is
// estimated to hold, plus a floor that all rows share.
//
// Sizes are integers, and those integers are what is sampled: whatever the estimates are worth, a
// sum over sampled rows divided by their probabilities is unbiased. All arithmetic is integer or
// elementwise, so that every SIMD level draws the same rows. Pure functions over caller-owned
// memory, thread safe.
#ifndef SOUNDER_KV_NODE_KERNELS_PPS_SAMPLE_H_
#define SOUNDER_KV_NODE_KERNELS_PPS_SAMPLE_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace sounder::kv_node {

// Rows are summed in blocks of so many; what is given here is padded to whole pairs of blocks with
// rows that may not be sampled (kNoScore).
inline constexpr int64_t kSizeBlockRows = 32;
// The size of a row that holds all of a query's attention.
inline constexpr int kFullSizeBits = 26;

// Scores of a group: scores[q * stride + r] as ScanSketches writes them; a row's share of query q's
// attention is 2^((score - offset_q) step / kScoreUnit).
struct GroupScores {
  const int8_t* scores = nullptr;
  int64_t stride = 0;
  int64_t padded_rows = 0;
  int step = 1;
  std::span<const int16_t> offsets;  // one per query, -127..1000
};

// Sizes without the floor, in a form that needs a pass over the rows only where a row is drawn.
struct GroupSizes {
  int8_t* shares = nullptr;  // [padded_rows], largest share in units of score, <= 0; kNoScore
  uint32_t* sums = nullptr;  // [padded_rows / 32], of the sizes of a block
  int64_t padded_rows = 0;
  int step = 1;
  uint64_t total = 0;
};

// Fills all of `sizes` (what its pointers point to).
void MeasureSizes(const GroupScores& scores, GroupSizes* sizes);

// A row's inclusion probability is min(1, (size + floor) / step).
struct PpsPlan {
  uint64_t step = 0;  // 0: nothing is drawn
  uint32_t floor = 0;
};

// The plan that draws `wanted` rows in expectation, of which floor_share (in [0, 1)) without regard
// to sizes. visible: rows that are not kNoScore. wanted >= visible: every row, with certainty.
// large: working memory, u32[padded_rows + 1].
PpsPlan PlanSample(const GroupSizes& sizes, int64_t visible, double wanted, double floor_share,
                   uint32_t* large);

// Memory of a row that will be read soon: `bytes` from data + row * stride on.
struct RowMemory {
  const std::byte* data = nullptr;
  int64_t stride = 0;
  size_t bytes = 0;
};

// Draws rows in ascending order and asks for their memory. One uniform number (start, 32 bits)
// decides all. rows and probabilities need room for padded_rows; returns how many were drawn.
int64_t DrawSystematic(const GroupSizes& sizes, const PpsPlan& plan, uint32_t start,
                       std::span<const RowMemory> memory, uint16_t* rows, float* probabilities);

// The same of rows [row_begin, row_end), all alike: `wanted` rows in expectation.
int64_t DrawAlike(int64_t row_begin, int64_t row_end, double wanted, uint32_t start,
                  std::span<const RowMemory> memory, uint16_t* rows, float* probabilities);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_KERNELS_PPS_SAMPLE_H_
