// Sketches of keys: b sign bits of the rotated, centred key and one factor, from which the logits
// of all rows of a segment are estimated without reading the rows. Here: the rotation, the layout,
// the build, and a float64 reference of the estimate.
//
// A key k with k' = k - mean is rotated by a random orthogonal R (two rounds of random signs and a
// Walsh-Hadamard transform; more rotations, one after another, when b exceeds the padded dimension;
// the first b coordinates when it is smaller). Its bits are the signs s_j of the coordinates, its
// factor is f = |k'|^2 / sum_j |(R k')_j|. Then f * sum_j (R q)_j s_j estimates q . k', exactly so
// for q = k' (the estimator of RaBitQ, arXiv 2405.12497, with a query in full precision).
//
// Every step is an elementwise f32 operation or an f32 sum in a fixed order, so a sketch has the
// same bits at every SIMD level.
#ifndef SOUNDER_KV_NODE_KERNELS_SKETCH_H_
#define SOUNDER_KV_NODE_KERNELS_SKETCH_H_

#include <cstdint>
#include <span>
#include <vector>

#include "common/memory/rows_view.h"

namespace sounder::kv_node {

// Rows are sketched in blocks of so many, and padded to whole pairs of blocks.
inline constexpr int64_t kSketchBlockRows = 32;
inline constexpr int64_t kSketchPairRows = 2 * kSketchBlockRows;
inline constexpr int kMaxSketchBits = 256;

// The random orthogonal map of a session. Immutable, thread safe; a pure function of its arguments.
class SketchRotation {
 public:
  // dim: of keys and queries, a multiple of 8, 8..512. bits: 64, 128 or 256.
  SketchRotation(int dim, int bits, uint64_t seed);

  int dim() const { return dim_; }
  int bits() const { return bits_; }
  // A power of two.
  int padded_dim() const { return padded_dim_; }
  // How many maps of padded_dim coordinates there are, and how many coordinates of each are used.
  int rotations() const { return rotations_; }
  int bits_per_rotation() const { return bits_ / rotations_; }
  // +1 or -1, [padded_dim]; two rounds per rotation.
  std::span<const float> signs(int rotation, int round) const {
    const int first = (2 * rotation + round) * padded_dim_;
    return {signs_.data() + first, static_cast<size_t>(padded_dim_)};
  }

 private:
  int dim_;
  int bits_;
  int padded_dim_;
  int rotations_;
  std::vector<float> signs_;
};

// The sketches of a segment. Non-owning.
//
// Block b holds rows [32 b, 32 b + 32): bits / 8 groups of 32 bytes; byte i of group j holds the
// signs of coordinates [8 j, 8 j + 8) of row 32 b + i, coordinate 8 j in the lowest bit, 1 for a
// positive one. Rows beyond the segment, up to a whole pair of blocks, are zero.
struct SketchView {
  int64_t rows = 0;
  int bits = 0;
  const uint8_t* blocks = nullptr;   // [PaddedRows(rows) / 32, bits / 8, 32]
  const uint8_t* factors = nullptr;  // [PaddedRows(rows)]; f = 2^factor_exponent * factor
  int factor_exponent = 0;

  static int64_t PaddedRows(int64_t rows) {
    return (rows + kSketchPairRows - 1) / kSketchPairRows * kSketchPairRows;
  }
  static size_t BlockBytes(int64_t rows, int bits) {
    return static_cast<size_t>(PaddedRows(rows) * bits / 8);
  }
};

// Sketches of keys minus `mean` (f32[dim]). blocks u8[BlockBytes], factors u8[PaddedRows]; returns
// the exponent of the factors' unit. Elements of k' that are not finite or exceed 1e15 count as 0.
int BuildSketch(const SketchRotation& rotation, const memory::RowsView& keys, const float* mean,
                uint8_t* blocks, uint8_t* factors);

// rotated f32[count, bits]: coordinates of vectors f32[count, dim] (not centred) at `stride`
// elements, in the order of the bits.
void RotateQueries(const SketchRotation& rotation, const float* vectors, int64_t stride,
                   int64_t count, float* rotated);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_KERNELS_SKETCH_H_
