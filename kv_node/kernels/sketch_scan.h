// The scan of a segment's sketches by the queries of a group: an estimate of every logit, in the
// 1/128ths of a binary order of magnitude that bf16 counts in.
//
// All arithmetic after the query's tables is integer, in a fixed order: scores, and so the rows
// that are sampled by them, are the same at every SIMD level. The estimate may be as rough as it
// likes: it decides with which probability a row is read, never what the row counts for.
#ifndef SOUNDER_KV_NODE_KERNELS_SKETCH_SCAN_H_
#define SOUNDER_KV_NODE_KERNELS_SKETCH_SCAN_H_

#include <cstdint>
#include <span>
#include <vector>

#include "common/memory/aligned_buffer.h"
#include "kv_node/kernels/sketch.h"

namespace sounder::kv_node {

// A score s stands for the weight 2^(s / kScoreUnit).
inline constexpr int kScoreUnit = 128;
// The score of a row that may not be sampled. No visible row has it.
inline constexpr int16_t kNoScore = -32768;

// Look-up tables of a group's queries, for one rotation. Reused from call to call.
//
// Per query and group of 8 coordinates two tables of 16 signed bytes, one for the lower and one for
// the upper 4 signs: the sum of +- the 4 coordinates of the rotated query, scaled so that the sums
// of all tables for a key at cosine .65 reach 127. Each is stored twice, side by side.
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
  // The score that one unit of the sum of the tables stands for, at a factor of 1.
  float unit(int query) const { return units_[query]; }

 private:
  int count_ = 0;
  int bits_ = 0;
  memory::AlignedBuffer rotated_;
  memory::AlignedBuffer tables_;
  std::vector<float> units_;
};

// scores[q * stride + r] of rows [row_begin, row_end) of the segment, and kNoScore for the other
// rows of their pairs of blocks; stride >= PaddedRows(sketches.rows). highest[q]: the largest score
// in the range (kNoScore where it is empty).
//
// The sum a of a row's tables is taken over groups 0, 2, 4, .. and 1, 3, 5, .. in int8 with
// saturation, then over both; the score is mulhrs(mulhrs(256 a, factor), m_q), mulhrs(x, y) =
// (x y + 2^14) >> 15, m_q = round(unit(q) * factor_unit * 2^22), at most 32767.
void ScanSketches(const SketchView& sketches, const SketchTables& tables, int64_t row_begin,
                  int64_t row_end, int16_t* scores, int64_t stride, int16_t* highest);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_KERNELS_SKETCH_SCAN_H_
