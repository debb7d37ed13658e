// A Llama-type model and its forward pass.
#ifndef SOUNDER_GPU_WORKER_MODEL_FORWARD_H_
#define SOUNDER_GPU_WORKER_MODEL_FORWARD_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/model/layer_attention.h"
#include "gpu_worker/model/llama_weights.h"
#include "gpu_worker/model/model_config.h"
#include "gpu_worker/ops/ops.h"

namespace sounder::gpu_worker {

// Rows to compute, of one session or of many, in any order.
struct ForwardBatch {
  std::span<const int32_t> tokens;      // in [0, vocab_size)
  std::span<const int64_t> positions;   // one per token, in [0, kMaxPositions]
  std::span<const int32_t> logit_rows;  // rows (indices into tokens) whose logits are wanted
};

// Owns the weights; immutable but for scratch that grows to the largest batch seen and is reused.
// Thread compatible: one Forward at a time.
class LlamaModel {
 public:
  // Reads config.json and the weights of a Hugging Face directory. `ops` is borrowed and must
  // outlive the model. Errors name the file and, where it applies, the tensor or field.
  static absl::StatusOr<std::unique_ptr<LlamaModel>> Load(const std::string& directory, Ops* ops);

  LlamaModel(const LlamaModel&) = delete;
  LlamaModel& operator=(const LlamaModel&) = delete;

  // Writes logits [logit_rows, vocab_size], host memory. INVALID_ARGUMENT for a token, position or
  // row out of range; otherwise an error of `attention` or of the backend. An empty batch is OK and
  // does not call `attention`.
  absl::Status Forward(const ForwardBatch& batch, LayerAttention& attention,
                       std::span<float> logits);

  const ModelConfig& config() const { return config_; }
  // Of configuration and weights; see LoadLlamaWeights.
  const std::string& weights_digest() const { return weights_.digest; }

 private:
  LlamaModel(Ops* ops, ModelConfig config, LlamaWeights weights);
  absl::Status CheckBatch(const ForwardBatch& batch, std::span<float> logits) const;
  absl::Status Reserve(int64_t rows, int64_t logit_rows);

  Ops* const ops_;
  const ModelConfig config_;
  const LlamaWeights weights_;
  const std::vector<double> inverse_frequencies_;  // [head_dim / 2]

  // Scratch, [rows, ...] each.
  int64_t rows_ = 0;        // room for this many
  int64_t logit_rows_ = 0;  // room for this many
  FloatArray cos_;          // [head_dim / 2]
  FloatArray sin_;          // [head_dim / 2]
  FloatArray hidden_;       // [hidden]: the residual stream
  FloatArray normed_;       // [hidden]
  FloatArray q_;            // [query_width]
  FloatArray k_;            // [kv_width]
  FloatArray v_;            // [kv_width]
  FloatArray attended_;     // [query_width]
  FloatArray gate_;         // [intermediate]
  FloatArray up_;           // [intermediate]
  FloatArray added_;        // [hidden]: what a block adds to the residual stream
  FloatArray wanted_;       // [hidden], logit_rows_ of them
  FloatArray logits_;       // [vocab], logit_rows_ of them
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_MODEL_FORWARD_H_
