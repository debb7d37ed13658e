// The frequencies of rotary position embeddings.
#ifndef SOUNDER_GPU_WORKER_MODEL_ROPE_H_
#define SOUNDER_GPU_WORKER_MODEL_ROPE_H_

#include <string>
#include <vector>

#include "gpu_worker/model/model_config.h"

namespace sounder::gpu_worker {

// head_dim / 2 angles per position, in radians: theta^(-2i / head_dim) (Su et al., RoFormer, 2021),
// and with llama3 scaling (Llama 3.1, 2024) three ranges by wavelength w = 2 pi / frequency and
// the original context n: unchanged for w < n / high_freq_factor, divided by `factor` for
// w > n / low_freq_factor, and in between a mix, linear in n / w. Pure.
std::vector<double> InverseFrequencies(const ModelConfig& config);

// Tells rules of rotation apart: rows of one are worth nothing under another. XXH3-128 of
// CanonicalRopeText, in hex.
std::string RopeDigest(const ModelConfig& config);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_MODEL_ROPE_H_
