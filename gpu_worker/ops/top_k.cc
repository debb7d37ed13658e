#include "gpu_worker/ops/top_k.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/base/check.h"

namespace sounder::gpu_worker {
namespace {

TokenLogit At(std::span<const float> logits, size_t token) {
  const float logit = logits[token];
  return {static_cast<int32_t>(token),
          std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit};
}

bool Better(const TokenLogit& a, const TokenLogit& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

}  // namespace

std::vector<TokenLogit> TopK(std::span<const float> logits, int k) {
  CHECK(k >= 0) << k;
  const size_t count = std::min(static_cast<size_t>(k), logits.size());
  std::vector<TokenLogit> best(logits.size());
  for (size_t token = 0; token < logits.size(); ++token) best[token] = At(logits, token);
  std::partial_sort(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(count), best.end(),
                    Better);
  best.resize(count);
  return best;
}

TokenLogit ArgMax(std::span<const float> logits) {
  CHECK(!logits.empty());
  TokenLogit best = At(logits, 0);
  for (size_t token = 1; token < logits.size(); ++token) {
    const TokenLogit candidate = At(logits, token);
    if (Better(candidate, best)) best = candidate;
  }
  return best;
}

}  // namespace sounder::gpu_worker
