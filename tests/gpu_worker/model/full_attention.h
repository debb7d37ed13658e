// Exact causal attention over one session held in memory, in double precision: the reference
// LayerAttention of the model's tests.
#ifndef SOUNDER_TESTS_GPU_WORKER_MODEL_FULL_ATTENTION_H_
#define SOUNDER_TESTS_GPU_WORKER_MODEL_FULL_ATTENTION_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "gpu_worker/model/layer_attention.h"
#include "gpu_worker/model/model_config.h"

namespace sounder::gpu_worker {

class FullAttention final : public LayerAttention {
 public:
  explicit FullAttention(const ModelConfig& config)
      : config_(config), layers_(static_cast<size_t>(config.num_layers)) {}

  // The next Forward has this many rows, at the positions after those it has seen.
  void Expect(int64_t rows) { rows_ = rows; }

  absl::Status Attend(int layer, const float* q, const float* k, const float* v,
                      float* out) override {
    Cache& cache = layers_.at(static_cast<size_t>(layer));
    const int64_t seen = static_cast<int64_t>(cache.k.size()) / config_.kv_width();
    cache.k.insert(cache.k.end(), k, k + rows_ * config_.kv_width());
    cache.v.insert(cache.v.end(), v, v + rows_ * config_.kv_width());
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t head = 0; head < config_.num_query_heads; ++head) {
        const int64_t at = row * config_.query_width() + head * config_.head_dim;
        One(cache, q + at, head, seen + row + 1, out + at);
      }
    }
    return absl::OkStatus();
  }

 private:
  struct Cache {
    std::vector<float> k;  // [positions, kv_width]
    std::vector<float> v;
  };

  // One query over the first `visible` positions.
  void One(const Cache& cache, const float* q, int64_t head, int64_t visible, float* out) const {
    const int64_t d = config_.head_dim;
    const int64_t kv_head = head / (config_.num_query_heads / config_.num_kv_heads);
    const auto row = [&](const std::vector<float>& rows, int64_t position) {
      return rows.data() + position * config_.kv_width() + kv_head * d;
    };
    std::vector<double> weights(static_cast<size_t>(visible));
    for (int64_t p = 0; p < visible; ++p) {
      double dot = 0;
      for (int64_t i = 0; i < d; ++i) dot += double{q[i]} * row(cache.k, p)[i];
      weights[static_cast<size_t>(p)] = dot / std::sqrt(static_cast<double>(d));
    }
    const double largest = *std::max_element(weights.begin(), weights.end());
    double total = 0;
    for (double& weight : weights) total += weight = std::exp(weight - largest);
    for (int64_t i = 0; i < d; ++i) {
      double sum = 0;
      for (int64_t p = 0; p < visible; ++p) {
        sum += weights[static_cast<size_t>(p)] * row(cache.v, p)[i];
      }
      out[i] = static_cast<float>(sum / total);
    }
  }

  const ModelConfig config_;
  std::vector<Cache> layers_;
  int64_t rows_ = 0;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_TESTS_GPU_WORKER_MODEL_FULL_ATTENTION_H_
