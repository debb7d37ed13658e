#include "gpu_worker/model/rope.h"

#include <xxhash.h>

#include <cmath>
#include <numbers>

#include "absl/strings/str_format.h"

namespace sounder::gpu_worker {
namespace {

double Scale(double frequency, const Llama3RopeScaling& scaling) {
  // Turns of this pair over the original context.
  const double turns =
      static_cast<double>(scaling.original_max_positions) * frequency / (2 * std::numbers::pi);
  if (turns > scaling.high_freq_factor) return frequency;
  if (turns < scaling.low_freq_factor) return frequency / scaling.factor;
  const double kept =
      (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - kept) * frequency / scaling.factor + kept * frequency;
}

}  // namespace

std::vector<double> InverseFrequencies(const ModelConfig& config) {
  std::vector<double> frequencies;
  for (int64_t i = 0; i < config.head_dim / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim);
    const double frequency = std::pow(config.rope_theta, exponent);
    frequencies.push_back(config.rope_scaling ? Scale(frequency, *config.rope_scaling) : frequency);
  }
  return frequencies;
}

std::string RopeDigest(const ModelConfig& config) {
  const std::string text = CanonicalRopeText(config);
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

}  // namespace sounder::gpu_worker
