#include "gpu_worker/model/model_config.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/absl_text.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "gpu_worker/model/json_fields.h"

namespace sounder::gpu_worker {
namespace {

using nlohmann::json;

// Far above any model there is; what they guard is the arithmetic of sizes.
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr size_t kMaxConfigBytes = size_t{1} << 20;
constexpr double kMost = 1e12;

absl::Status Refuse(const std::string& text) { return absl::UnimplementedError(text); }

absl::Status CheckKind(const JsonFields& fields) {
  if (const json* names = fields.Find("architectures"); names != nullptr) {
    if (!names->is_array() || names->empty()) return fields.Wrong("architectures", "an array");
    if ((*names)[0] != "LlamaForCausalLM") {
      return Refuse(absl::StrCat("architecture ", Show((*names)[0]),
                                 " is not supported, only \"LlamaForCausalLM\""));
    }
  }
  ASSIGN_OR_RETURN(const std::string type, fields.Text("model_type"));
  if (type != "llama") {
    return Refuse(absl::StrCat("model_type ", Show(type), " is not supported, only \"llama\""));
  }
  ASSIGN_OR_RETURN(const std::string activation, fields.Text("hidden_act", "silu"));
  if (activation != "silu") {
    return Refuse(absl::StrCat("hidden_act ", Show(activation), " is not supported, only silu"));
  }
  for (const char* bias : {"attention_bias", "mlp_bias"}) {
    ASSIGN_OR_RETURN(const bool present, fields.Bool(bias, false));
    if (present) return Refuse(absl::StrCat(bias, " = true is not supported"));
  }
  if (fields.Find("quantization_config") != nullptr) {
    return Refuse("quantization_config: quantised weights are not supported");
  }
  return absl::OkStatus();
}

absl::Status ReadShape(const JsonFields& fields, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.hidden_size, fields.Integer("hidden_size", 1, kMaxWidth));
  ASSIGN_OR_RETURN(config.intermediate_size, fields.Integer("intermediate_size", 1, kMaxWidth));
  ASSIGN_OR_RETURN(config.num_layers, fields.Integer("num_hidden_layers", 1, base::kMaxLayers));
  ASSIGN_OR_RETURN(
      config.num_query_heads,
      fields.Integer("num_attention_heads", 1, int64_t{base::kMaxKvHeads} * base::kMaxGroup));
  ASSIGN_OR_RETURN(config.num_kv_heads, fields.Integer("num_key_value_heads", 1, base::kMaxKvHeads,
                                                       config.num_query_heads <= base::kMaxKvHeads
                                                           ? std::optional(config.num_query_heads)
                                                           : std::nullopt));
  if (config.num_query_heads % config.num_kv_heads != 0 ||
      config.num_query_heads / config.num_kv_heads > base::kMaxGroup) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_attention_heads (", config.num_query_heads, ") must be a multiple, at most ",
        base::kMaxGroup, " times, of num_key_value_heads (", config.num_kv_heads, ")"));
  }
  ASSIGN_OR_RETURN(config.head_dim, fields.Integer("head_dim", 1, base::kMaxHeadDim,
                                                   config.hidden_size / config.num_query_heads));
  if (config.head_dim < 8 || config.head_dim % 8 != 0 || config.head_dim > base::kMaxHeadDim) {
    return absl::InvalidArgumentError(absl::StrCat("head_dim is ", config.head_dim,
                                                   ", expected a multiple of 8 from 8 to ",
                                                   base::kMaxHeadDim));
  }
  ASSIGN_OR_RETURN(config.vocab_size, fields.Integer("vocab_size", 1, kMaxVocab));
  ASSIGN_OR_RETURN(config.max_positions,
                   fields.Integer("max_position_embeddings", 1, base::kMaxPositions, 2048));
  ASSIGN_OR_RETURN(config.rms_norm_eps, fields.Number("rms_norm_eps", 1e-20, 1, 1e-6));
  ASSIGN_OR_RETURN(config.tied_embeddings, fields.Bool("tie_word_embeddings", false));
  return absl::OkStatus();
}

// Some relatives of Llama rotate only a part of each head.
absl::Status CheckWholeHeadRotates(const JsonFields& fields) {
  ASSIGN_OR_RETURN(const double part, fields.Number("partial_rotary_factor", 0, 1, 1.0));
  if (part != 1) return Refuse("partial_rotary_factor other than 1 is not supported");
  return absl::OkStatus();
}

// `rope` is the object that holds the rule: rope_scaling, or rope_parameters of newer files.
absl::Status ReadRopeRule(const JsonFields& rope, ModelConfig& config) {
  const char* key = rope.Find("rope_type") != nullptr ? "rope_type" : "type";
  ASSIGN_OR_RETURN(const std::string type, rope.Text(key, "default"));
  if (type == "default") return absl::OkStatus();
  if (type != "llama3") {
    return Refuse(absl::StrCat("RoPE type ", Show(type),
                               " is not supported, only \"default\" and \"llama3\""));
  }
  Llama3RopeScaling scaling;
  ASSIGN_OR_RETURN(scaling.factor, rope.Number("factor", 1, kMost));
  ASSIGN_OR_RETURN(scaling.low_freq_factor, rope.Number("low_freq_factor", 1e-6, kMost));
  ASSIGN_OR_RETURN(scaling.high_freq_factor,
                   rope.Number("high_freq_factor", scaling.low_freq_factor, kMost));
  ASSIGN_OR_RETURN(scaling.original_max_positions,
                   rope.Integer("original_max_position_embeddings", 1, base::kMaxPositions));
  if (scaling.high_freq_factor == scaling.low_freq_factor) {
    return rope.Wrong("high_freq_factor", "more than low_freq_factor");
  }
  config.rope_scaling = scaling;
  return absl::OkStatus();
}

absl::Status ReadRope(const JsonFields& fields, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.rope_theta, fields.Number("rope_theta", 1, kMost, 10000.0));
  RETURN_IF_ERROR(CheckWholeHeadRotates(fields));
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json* object = fields.Find(key);
    if (object == nullptr) continue;
    if (!object->is_object()) return fields.Wrong(key, "an object");
    const JsonFields rope(*object, absl::StrCat(key, "."));
    ASSIGN_OR_RETURN(config.rope_theta, rope.Number("rope_theta", 1, kMost, config.rope_theta));
    RETURN_IF_ERROR(CheckWholeHeadRotates(rope));
    RETURN_IF_ERROR(ReadRopeRule(rope, config));
  }
  return absl::OkStatus();
}

absl::Status ReadSpecialTokens(const JsonFields& fields, ModelConfig& config) {
  const int64_t last = config.vocab_size - 1;
  if (fields.Find("bos_token_id") != nullptr) {
    ASSIGN_OR_RETURN(const int64_t bos, fields.Integer("bos_token_id", 0, last));
    config.bos_token = static_cast<int32_t>(bos);
  }
  const json* eos = fields.Find("eos_token_id");
  if (eos == nullptr) return absl::OkStatus();
  const size_t count = eos->is_array() ? eos->size() : 1;
  for (size_t i = 0; i < count; ++i) {
    // Not copied: the library copies recursively, and this may be nested deeper than the stack.
    const json& token = eos->is_array() ? (*eos)[i] : *eos;
    const auto id = IntegerOf(token, 0, last);
    if (!id || count > 64) {
      return fields.Wrong("eos_token_id",
                          absl::StrCat("one token id, or at most 64, from 0 to ", last));
    }
    config.eos_tokens.push_back(static_cast<int32_t>(*id));
  }
  return absl::OkStatus();
}

std::string ScalingText(const ModelConfig& config) {
  const auto& scaling = config.rope_scaling;
  if (!scaling.has_value()) return "";
  return absl::StrFormat(
      "rope_scaling=llama3\nfactor=%.17g\nlow_freq_factor=%.17g\nhigh_freq_factor=%.17g\n"
      "original_max_positions=%d\n",
      scaling->factor, scaling->low_freq_factor, scaling->high_freq_factor,
      scaling->original_max_positions);
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json_text) {
  ASSIGN_OR_RETURN(const json object, ParseJsonObject(json_text));
  const JsonFields fields(object);
  ModelConfig config;
  RETURN_IF_ERROR(CheckKind(fields));
  RETURN_IF_ERROR(ReadShape(fields, config));
  RETURN_IF_ERROR(ReadRope(fields, config));
  RETURN_IF_ERROR(ReadSpecialTokens(fields, config));
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxConfigBytes));
  auto config = ParseModelConfig(text);
  if (!config.ok()) return base::Annotate(config.status(), path);
  return config;
}

std::string CanonicalText(const ModelConfig& config) {
  const std::string text = absl::StrFormat(
      "type=llama\nhidden_size=%d\nintermediate_size=%d\nnum_layers=%d\nnum_query_heads=%d\n"
      "num_kv_heads=%d\nhead_dim=%d\nvocab_size=%d\nrms_norm_eps=%.17g\nrope_theta=%.17g\n"
      "tied_embeddings=%d\n",
      config.hidden_size, config.intermediate_size, config.num_layers, config.num_query_heads,
      config.num_kv_heads, config.head_dim, config.vocab_size, config.rms_norm_eps,
      config.rope_theta, config.tied_embeddings ? 1 : 0);
  return text + ScalingText(config);
}

std::string CanonicalRopeText(const ModelConfig& config) {
  return absl::StrFormat("head_dim=%d\nrope_theta=%.17g\n", config.head_dim, config.rope_theta) +
         ScalingText(config);
}

}  // namespace sounder::gpu_worker
