// The shape and the constants of a Llama-type model, from the config.json of a Hugging Face
// directory.
#ifndef SOUNDER_GPU_WORKER_MODEL_MODEL_CONFIG_H_
#define SOUNDER_GPU_WORKER_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace sounder::gpu_worker {

// The llama3 rule for stretching RoPE to longer contexts; see rope.h.
struct Llama3RopeScaling {
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 1;  // > low_freq_factor
  int64_t original_max_positions = 0;
};

struct ModelConfig {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_query_heads = 0;  // a multiple of num_kv_heads
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;  // a multiple of 8; num_query_heads * head_dim need not be hidden_size
  int64_t vocab_size = 0;
  int64_t max_positions = 0;  // what the model was trained for; not enforced by Forward
  double rms_norm_eps = 0;
  double rope_theta = 0;
  std::optional<Llama3RopeScaling> rope_scaling;
  bool tied_embeddings = false;  // the head is the embedding table
  std::optional<int32_t> bos_token;
  std::vector<int32_t> eos_tokens;  // any of them ends a sequence; may be empty

  int64_t query_width() const { return num_query_heads * head_dim; }
  int64_t kv_width() const { return num_kv_heads * head_dim; }
};

// Absent fields get the defaults of Hugging Face's LlamaConfig. INVALID_ARGUMENT names a field that
// is missing, of the wrong type or out of range; UNIMPLEMENTED names what would be computed
// wrongly: another architecture, RoPE rule or activation, biases, quantised weights. Any text is
// safe. Pure.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json_text);

// As above; messages start with the path.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& path);

// Every field that changes what the model computes, one "name=value" a line: equal texts mean
// equal models given equal weights. (Not max_positions, bos and eos: they change no logit.)
std::string CanonicalText(const ModelConfig& config);
// The same for what decides how keys are rotated.
std::string CanonicalRopeText(const ModelConfig& config);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_MODEL_MODEL_CONFIG_H_
