// The random directions of a session and the exact recipe of its signatures. Every step is integer
// arithmetic, an elementwise f32 operation, or f32 additions in a fixed order without fusing, so a
// signature has the same bits at every SIMD width and on every device.
//
// Recipe for a vector x (f32[dim]); elements that are not finite or exceed 1e30 count as 0.
//
// Gaussian: m = max |x_i|; z_i = round(x_i * (kGaussianLevels / m)), to nearest even;
//   bit g = [sum_i z_i * weight(i, g) > 0]. Weights are N(0, 1) scaled to integers so that sums
//   fit 32 bits.
// Hadamard: y = x padded with zeros to padded_dim; twice: y = H(signs_r * y), H the Walsh-Hadamard
//   transform as butterflies (a, b) -> (a + b, a - b) at distances 1, 2, 4, ...; m = max |y_i|;
//   z_i = round(y_i * (hadamard_levels / m)); block b: w = H(block_signs_b * z) in int16 with
//   saturating additions; bit g = [w[g / num_blocks] > 0] of block b = g % num_blocks.
//   So the bits of one table come from different blocks: bits of one block are orthogonal
//   directions and collide less often together than independent ones would.
// m < 1e-30 (the zero vector): all bits 0.
#ifndef SOUNDER_COMMON_LSH_PROJECTION_H_
#define SOUNDER_COMMON_LSH_PROJECTION_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/lsh/lsh_params.h"

namespace sounder::lsh {

inline constexpr int kGaussianLevels = 4095;
inline constexpr int kHadamardRounds = 2;
inline constexpr float kLargestElement = 1e30f;
inline constexpr float kSmallestNorm = 1e-30f;

// Immutable after Create; thread safe; copy it or share it. Gaussian holds 2 bytes per dimension
// and bit (0.4 MB at dim 128, 10 bits, 150 tables), Hadamard a few KB. A pure function of params
// and dim.
class Projection {
 public:
  static absl::StatusOr<Projection> Create(const LshParams& params, int dim);

  const LshParams& params() const { return params_; }
  int dim() const { return dim_; }

  // Gaussian. Weights of dimensions 2i and 2i+1 for bit g are adjacent:
  // weights()[(i * padded_bits() + g) * 2 + parity]; padded with zeros to a multiple of 64 bits and
  // an even number of dimensions.
  std::span<const int16_t> weights() const { return weights_; }
  int padded_bits() const { return (params_.bits() + 63) / 64 * 64; }
  int weight(int dimension, int bit) const {
    return weights_[(dimension / 2 * padded_bits() + bit) * 2 + dimension % 2];
  }

  // Hadamard. A power of two >= 128.
  int padded_dim() const { return padded_dim_; }
  // At least bits_per_table.
  int num_blocks() const { return num_blocks_; }
  // Largest |z_i|: small enough that transforms saturate in no realistic case.
  int hadamard_levels() const { return hadamard_levels_; }
  // +1 or -1, [padded_dim].
  std::span<const float> round_signs(int round) const {
    return {round_signs_.data() + round * padded_dim_, static_cast<size_t>(padded_dim_)};
  }
  // 0 (keep) or -1 (negate), [padded_dim].
  std::span<const int16_t> block_signs(int block) const {
    return {block_signs_.data() + block * padded_dim_, static_cast<size_t>(padded_dim_)};
  }

 private:
  Projection(const LshParams& params, int dim);
  void DrawGaussian();
  void DrawHadamard();

  LshParams params_;
  int dim_;
  int padded_dim_ = 0;
  int num_blocks_ = 0;
  int hadamard_levels_ = 0;
  std::vector<int16_t> weights_;
  std::vector<float> round_signs_;
  std::vector<int16_t> block_signs_;
};

}  // namespace sounder::lsh

#endif  // SOUNDER_COMMON_LSH_PROJECTION_H_
