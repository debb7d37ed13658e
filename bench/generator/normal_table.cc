#include "bench/generator/normal_table.h"

#include <cmath>
#include <cstddef>

#include "common/base/philox.h"

namespace sounder::generator {
namespace {

// The x with upper tail probability `tail` (0 < tail <= .5), by Newton's method on erfc. From
// x = 0 the iteration climbs monotonically (the tail is convex for x >= 0).
double UpperQuantile(double tail) {
  double x = 0;
  for (int i = 0; i < 60; ++i) {
    const double error = 0.5 * std::erfc(x * M_SQRT1_2) - tail;
    const double density = std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI);
    const double step = error / density;
    x += step;
    if (std::abs(step) < 1e-12) break;
  }
  return x;
}

}  // namespace

NormalTable::NormalTable() : quantiles_(65536) {
  for (int i = 0; i < 32768; ++i) {
    const float x = static_cast<float>(UpperQuantile((i + 0.5) / 65536));
    quantiles_[i] = -x;
    quantiles_[65535 - i] = x;
  }
}

void NormalTable::Fill(uint64_t key, uint64_t counter, uint32_t lane, std::span<float> out) const {
  for (size_t i = 0; i < out.size(); i += 8) {
    const base::PhiloxBlock block =
        base::Philox(key, {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                           static_cast<uint32_t>(i / 8), lane});
    for (size_t j = 0; j < 8 && i + j < out.size(); ++j) {
      out[i + j] = At(static_cast<uint16_t>(block[j / 2] >> (16 * (j % 2))));
    }
  }
}

}  // namespace sounder::generator
