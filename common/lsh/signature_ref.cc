#include "common/lsh/signature_ref.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace sounder::lsh {
namespace {

template <typename T, typename Add, typename Sub>
void WalshHadamard(std::vector<T>& x, Add add, Sub sub) {
  const size_t n = x.size();
  for (size_t h = 1; h < n; h *= 2) {
    for (size_t i = 0; i < n; ++i) {
      if ((i & h) != 0) continue;
      const T a = x[i];
      const T b = x[i + h];
      x[i] = add(a, b);
      x[i + h] = sub(a, b);
    }
  }
}

// Empty for the zero vector.
std::vector<int> Quantise(const std::vector<float>& x, int levels) {
  float max = 0;
  for (float value : x) max = std::max(max, std::abs(value));
  if (max < kSmallestNorm) return {};
  const float factor = static_cast<float>(levels) / max;
  std::vector<int> z;
  for (float value : x) z.push_back(static_cast<int>(std::nearbyint(value * factor)));
  return z;
}

void SetBit(uint64_t* signature, int bit) { signature[bit / 64] |= uint64_t{1} << (bit % 64); }

void GaussianBits(const Projection& projection, const std::vector<float>& x, uint64_t* signature) {
  const std::vector<int> z = Quantise(x, kGaussianLevels);
  if (z.empty()) return;
  for (int bit = 0; bit < projection.params().bits(); ++bit) {
    int sum = 0;
    for (int i = 0; i < projection.dim(); ++i) sum += z[i] * projection.weight(i, bit);
    if (sum > 0) SetBit(signature, bit);
  }
}

void HadamardBits(const Projection& projection, std::vector<float> x, uint64_t* signature) {
  const int padded_dim = projection.padded_dim();
  x.resize(padded_dim, 0.0f);
  for (int round = 0; round < kHadamardRounds; ++round) {
    for (int i = 0; i < padded_dim; ++i) x[i] *= projection.round_signs(round)[i];
    WalshHadamard(
        x, [](float a, float b) { return a + b; }, [](float a, float b) { return a - b; });
  }
  const std::vector<int> z = Quantise(x, projection.hadamard_levels());
  if (z.empty()) return;
  const auto saturate = [](int value) { return std::clamp(value, -32768, 32767); };
  for (int block = 0; block < projection.num_blocks(); ++block) {
    std::vector<int> w = z;
    for (int i = 0; i < padded_dim; ++i) {
      if (projection.block_signs(block)[i] != 0) w[i] = -w[i];
    }
    WalshHadamard(
        w, [&](int a, int b) { return saturate(a + b); },
        [&](int a, int b) { return saturate(a - b); });
    for (int i = 0; i < padded_dim; ++i) {
      const int bit = i * projection.num_blocks() + block;
      if (bit < projection.params().bits() && w[i] > 0) SetBit(signature, bit);
    }
  }
}

}  // namespace

void SignatureRef(const Projection& projection, const float* vector, const float* mean,
                  uint64_t* signature) {
  std::fill(signature, signature + projection.params().words(), 0);
  std::vector<float> x(vector, vector + projection.dim());
  for (int i = 0; i < projection.dim(); ++i) {
    if (mean != nullptr) x[i] = x[i] - mean[i];
    if (!(std::abs(x[i]) <= kLargestElement)) x[i] = 0;
  }
  if (projection.params().projection == ProjectionKind::kGaussian) {
    GaussianBits(projection, x, signature);
  } else {
    HadamardBits(projection, std::move(x), signature);
  }
}

}  // namespace sounder::lsh
