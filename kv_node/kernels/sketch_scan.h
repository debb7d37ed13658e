// The scan of a segment's sketches by the queries of a group: an estimate of every logit, in eight
// bits, and of the sum of every query's weights.
//
// All arithmetic after the query's tables is integer, or f32 in a fixed order: scores, and so the
// rows that are sampled by them, are the same at every SIMD level. The estimate may be as rough as
// it likes: it decides with which probability a row is read, never what the row counts for.
#ifndef SOUNDER_KV_NODE_KERNELS_SKETCH_SCAN_H_
#define SOUNDER_KV_NODE_KERNELS_SKETCH_SCAN_H_

#include <cstdint>
#include <span>
#include <vector>

#include "common/kernels/kernel_schedule.h"
#include "common/memory/aligned_buffer.h"
#include "kv_node/kernels/sketch.h"

namespace sounder::kv_node {

// Estimates are counted in 1/128ths of a binary order of magnitude, as bf16 counts: x units stand
// for the weight 2^(x / kScoreUnit). A score is `step` units, the same for all queries of a group.
inline constexpr int kScoreUnit = 128;
inline constexpr int kMaxScoreStep = 128;
// The score of a row that may not be sampled. No visible row has it.
inline constexpr int8_t kNoScore = -128;

// Look-up tables of a group's queries, for one rotation. Reused from call to call.
//
// Per query and group of 8 coordinates two tables of 16 signed bytes, one for the lower and one for
// the upper 4 signs: the sum of +- the 4 coordinates of the rotated query, in a unit that is the
// same for all queries: for the longest one and a key at cosine .75 all tables sum up to 127. Each
// is stored twice, side by side.
class SketchTables {
 public:
  // queries f32[count, dim], packed; logits are scale * (q . k). 1 <= count.
  void Prepare(const SketchRotation& rotation, const float* queries, int count, float scale);

  int count() const { return count_; }
  int bits() const { return bits_; }
  // [bits / 16] pairs of groups, [lower, upper], [group 2 p, group 2 p + 1], [32].
  const int8_t* tables(int query) const {
    return tables_.As<int8_t>().data() + size_t{8} * bits_ * query;
  }
  // The units of score that one unit of a sum stands for, at a factor of 1. 0: all logits are 0.
  double unit() const { return unit_; }

 private:
  int count_ = 0;
  int bits_ = 0;
  memory::AlignedBuffer rotated_;
  memory::AlignedBuffer tables_;
  double unit_ = 0;
};

// The step that goes with these tables and factors, rounded: 1..kMaxScoreStep. (Where it would have
// to be out of range, all logits are next to nothing or beyond what any softmax tells apart.)
int ScoreStep(const SketchView& sketches, const SketchTables& tables);

// scores[q * stride + r] of rows [row_begin, row_end) of the segment, and kNoScore for the other
// rows of their pairs of blocks; stride >= PaddedRows(sketches.rows). log_sums[q]: kScoreUnit *
// log2 of the sum of 2^(score step / kScoreUnit) over the range, as bf16 counts (at most 7 % too
// much), without rows more than 127 orders of magnitude below the highest possible score; -inf
// where there are no others. step: 1..kMaxScoreStep.
//
// The sum a of a row's tables is taken over groups 0, 2, 4, .. and 1, 3, 5, .. in int8 with
// saturation, then over both; the score is (max(a, -127) factor + 128) >> 8.
void ScanSketches(const SketchView& sketches, const SketchTables& tables, int64_t row_begin,
                  int64_t row_end, int step, int8_t* scores, int64_t stride, double* log_sums,
                  const kernels::KernelSchedule& schedule = {});

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_KERNELS_SKETCH_SCAN_H_
