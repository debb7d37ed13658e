// config.json of a model, folded.
#include <cmath>
#include <string>

#include "common/base/limits.h"
#include "gpu_worker/model/model_config.h"
#include "gpu_worker/model/rope.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/mutations.h"
#include "tests/fuzz/target.h"

namespace sounder::fuzz {
namespace {

using gpu_worker::ModelConfig;

void CheckBounds(const ModelConfig& config) {
  CHECK(config.hidden_size > 0 && config.intermediate_size > 0 && config.vocab_size > 0);
  CHECK(config.num_layers > 0 && config.num_layers <= base::kMaxLayers);
  CHECK(config.num_kv_heads > 0 && config.num_kv_heads <= base::kMaxKvHeads);
  CHECK(config.num_query_heads > 0 && config.num_query_heads % config.num_kv_heads == 0);
  CHECK(config.num_query_heads / config.num_kv_heads <= base::kMaxGroup);
  CHECK(config.head_dim > 0 && config.head_dim % 8 == 0 && config.head_dim <= base::kMaxHeadDim);
  CHECK(config.query_width() > 0 && config.kv_width() > 0 && config.max_positions > 0);
  CHECK(config.rms_norm_eps > 0 && config.rope_theta >= 1);
  // Sizes of weights stay far from overflow.
  CHECK(config.vocab_size * config.hidden_size <= int64_t{1} << 44);
  CHECK(config.intermediate_size * config.hidden_size <= int64_t{1} << 40);
  for (const double frequency : gpu_worker::InverseFrequencies(config)) {
    CHECK(std::isfinite(frequency) && frequency > 0) << frequency;
  }
  const auto is_token = [&](int32_t token) { return token >= 0 && token < config.vocab_size; };
  for (const int32_t token : config.eos_tokens) CHECK(is_token(token)) << token;
  if (config.bos_token) CHECK(is_token(*config.bos_token)) << *config.bos_token;
}

// A file that says what the config says, every field of it.
std::string FileOf(const ModelConfig& config) {
  nlohmann::json json = {{"model_type", "llama"},
                         {"hidden_size", config.hidden_size},
                         {"intermediate_size", config.intermediate_size},
                         {"num_hidden_layers", config.num_layers},
                         {"num_attention_heads", config.num_query_heads},
                         {"num_key_value_heads", config.num_kv_heads},
                         {"head_dim", config.head_dim},
                         {"vocab_size", config.vocab_size},
                         {"max_position_embeddings", config.max_positions},
                         {"rms_norm_eps", config.rms_norm_eps},
                         {"rope_theta", config.rope_theta},
                         {"tie_word_embeddings", config.tied_embeddings},
                         {"eos_token_id", config.eos_tokens}};
  if (config.bos_token) json["bos_token_id"] = *config.bos_token;
  if (const auto& scaling = config.rope_scaling) {
    json["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", scaling->factor},
                            {"low_freq_factor", scaling->low_freq_factor},
                            {"high_freq_factor", scaling->high_freq_factor},
                            {"original_max_position_embeddings", scaling->original_max_positions}};
  }
  return json.dump();
}

}  // namespace

bool RunTarget(std::span<const std::byte> input) {
  const auto config = gpu_worker::ParseModelConfig(Unfold(AsText(input)));
  if (!config.ok()) {
    CheckRefusal(config.status(),
                 {absl::StatusCode::kInvalidArgument, absl::StatusCode::kUnimplemented});
    return false;
  }
  CheckBounds(*config);
  const auto again = gpu_worker::ParseModelConfig(FileOf(*config));
  CHECK(again.ok()) << again.status().ToString();
  CHECK(gpu_worker::CanonicalText(*again) == gpu_worker::CanonicalText(*config));
  CHECK(gpu_worker::CanonicalRopeText(*again) == gpu_worker::CanonicalRopeText(*config));
  CHECK(FileOf(*again) == FileOf(*config)) << FileOf(*config);
  return true;
}

}  // namespace sounder::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return sounder::fuzz::MutateJson(data, size, max_size, seed);
}
