#include "common/lsh/projection.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "common/base/philox.h"
#include "common/base/status_macros.h"

namespace sounder::lsh {
namespace {

// Fewer padded dimensions than this would make the bits of a block too dependent.
constexpr int kMinPaddedDim = 128;
constexpr uint64_t kGaussianStream = 1;
constexpr uint64_t kHadamardStream = 2;

}  // namespace

absl::StatusOr<Projection> Projection::Create(const LshParams& params, int dim) {
  RETURN_IF_ERROR(params.Validate(dim));
  return Projection(params, dim);
}

Projection::Projection(const LshParams& params, int dim) : params_(params), dim_(dim) {
  if (params.projection == ProjectionKind::kGaussian) {
    DrawGaussian();
  } else {
    DrawHadamard();
  }
}

void Projection::DrawGaussian() {
  // |sum| <= dim * kGaussianLevels * limit < 2^31. Draws are cut at 5 standard deviations.
  const int limit = std::min(4095, static_cast<int>(2147483647LL / (dim_ * kGaussianLevels)));
  const double sigma = limit / 5.0;
  weights_.assign(static_cast<size_t>(dim_) * padded_bits(), 0);
  base::PhiloxStream stream(params_.seed, kGaussianStream);
  for (int bit = 0; bit < params_.bits(); ++bit) {
    for (int i = 0; i < dim_; ++i) {
      const double draw =
          std::clamp(std::nearbyint(stream.NextGaussian() * sigma), -double(limit), double(limit));
      weights_[(static_cast<size_t>(i / 2) * padded_bits() + bit) * 2 + i % 2] =
          static_cast<int16_t>(draw);
    }
  }
}

void Projection::DrawHadamard() {
  padded_dim_ =
      std::max(kMinPaddedDim, static_cast<int>(std::bit_ceil(static_cast<uint32_t>(dim_))));
  num_blocks_ = std::max(params_.bits_per_table, (params_.bits() + padded_dim_ - 1) / padded_dim_);
  // An output of the transform is a sum of padded_dim terms of random sign: about
  // sqrt(padded_dim) * rms, and the rms after two rounds is about 1/2.5 of the largest element.
  // 2.5 * sqrt(padded_dim) times the largest is then 6 standard deviations.
  hadamard_levels_ = static_cast<int>(32767 / (2.5 * std::sqrt(double(padded_dim_))));
  base::PhiloxStream stream(params_.seed, kHadamardStream);
  for (int i = 0; i < kHadamardRounds * padded_dim_; ++i) {
    round_signs_.push_back((stream.Next32() >> 31) != 0 ? -1.0f : 1.0f);
  }
  for (int i = 0; i < num_blocks_ * padded_dim_; ++i) {
    block_signs_.push_back((stream.Next32() >> 31) != 0 ? -1 : 0);
  }
}

}  // namespace sounder::lsh
