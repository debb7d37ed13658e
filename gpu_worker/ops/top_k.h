// The best tokens of one row of logits, on the host.
#ifndef SOUNDER_GPU_WORKER_OPS_TOP_K_H_
#define SOUNDER_GPU_WORKER_OPS_TOP_K_H_

#include <cstdint>
#include <span>
#include <vector>

namespace sounder::gpu_worker {

struct TokenLogit {
  int32_t token = 0;
  float logit = 0;
};

// The min(k, logits.size()) largest, best first; equal logits in the order of their ids, so that
// the answer is a function of the logits alone. NaN counts as -infinity. k >= 0. Pure.
std::vector<TokenLogit> TopK(std::span<const float> logits, int k);

// The first of TopK without its allocation. logits is not empty.
TokenLogit ArgMax(std::span<const float> logits);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_OPS_TOP_K_H_
