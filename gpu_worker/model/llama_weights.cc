#include "gpu_worker/model/llama_weights.h"

#include <xxhash.h>

#include <new>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace sounder::gpu_worker {
namespace {

using tensor_file::TensorView;

class Digest {
 public:
  Digest() : state_(XXH3_createState()) {
    CHECK(state_ != nullptr);
    XXH3_128bits_reset(state_);
  }
  ~Digest() { XXH3_freeState(state_); }
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  void Add(std::string_view text) { XXH3_128bits_update(state_, text.data(), text.size()); }
  void Add(const std::string& name, const TensorView& view) {
    // The shape follows from the configuration.
    Add(absl::StrCat(name, ":", std::string(base::NameOf(view.dtype)), "\n"));
    XXH3_128bits_update(state_, view.data.data(), view.data.size());
  }
  std::string Hex() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_);
    return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
  }

 private:
  XXH3_state_t* state_;
};

// Finds, digests and loads tensors.
class Loader {
 public:
  Loader(const WeightFiles& files, Ops* ops) : files_(files), ops_(ops) {}

  absl::Status Vector(const std::string& name, const std::vector<int64_t>& shape, FloatArray& to) {
    ASSIGN_OR_RETURN(const TensorView view, files_.Find(name, shape));
    digest_.Add(name, view);
    ASSIGN_OR_RETURN(to, ops_->LoadArray(view));
    return absl::OkStatus();
  }

  absl::Status Weights(const std::string& name, int64_t outputs, int64_t inputs,
                       std::unique_ptr<Matrix>& to) {
    ASSIGN_OR_RETURN(const TensorView view, files_.Find(name, {outputs, inputs}));
    digest_.Add(name, view);
    ASSIGN_OR_RETURN(to, ops_->LoadMatrix(view));
    return absl::OkStatus();
  }

  Digest& digest() { return digest_; }

 private:
  const WeightFiles& files_;
  Ops* ops_;
  Digest digest_;
};

absl::Status LoadLayer(const ModelConfig& c, int64_t number, Loader& load, LlamaLayerWeights& to) {
  const std::string prefix = absl::StrCat("model.layers.", number, ".");
  const std::string attention = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  RETURN_IF_ERROR(
      load.Vector(prefix + "input_layernorm.weight", {c.hidden_size}, to.attention_norm));
  RETURN_IF_ERROR(
      load.Weights(attention + "q_proj.weight", c.query_width(), c.hidden_size, to.query));
  RETURN_IF_ERROR(load.Weights(attention + "k_proj.weight", c.kv_width(), c.hidden_size, to.key));
  RETURN_IF_ERROR(load.Weights(attention + "v_proj.weight", c.kv_width(), c.hidden_size, to.value));
  RETURN_IF_ERROR(load.Weights(attention + "o_proj.weight", c.hidden_size, c.query_width(),
                               to.attention_output));
  RETURN_IF_ERROR(
      load.Vector(prefix + "post_attention_layernorm.weight", {c.hidden_size}, to.mlp_norm));
  RETURN_IF_ERROR(
      load.Weights(mlp + "gate_proj.weight", c.intermediate_size, c.hidden_size, to.gate));
  RETURN_IF_ERROR(load.Weights(mlp + "up_proj.weight", c.intermediate_size, c.hidden_size, to.up));
  return load.Weights(mlp + "down_proj.weight", c.hidden_size, c.intermediate_size, to.down);
}

}  // namespace

absl::StatusOr<LlamaWeights> LoadLlamaWeights(const ModelConfig& config, const WeightFiles& files,
                                              Ops* ops) {
  LlamaWeights weights;
  Loader load(files, ops);
  load.digest().Add(CanonicalText(config));
  RETURN_IF_ERROR(load.Vector("model.embed_tokens.weight", {config.vocab_size, config.hidden_size},
                              weights.embedding));
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    RETURN_IF_ERROR(LoadLayer(config, layer, load, weights.layers.emplace_back()));
  }
  RETURN_IF_ERROR(load.Vector("model.norm.weight", {config.hidden_size}, weights.final_norm));
  RETURN_IF_ERROR(
      load.Weights(config.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight",
                   config.vocab_size, config.hidden_size, weights.head));
  weights.digest = load.digest().Hex();
  return weights;
}

}  // namespace sounder::gpu_worker
