#include "gpu_worker/model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/absl_text.h"
#include "nlohmann/json.hpp"

namespace sounder::gpu_worker {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

// The smallest configuration that is accepted.
json Minimal() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 64},
          {"intermediate_size", 100},
          {"num_attention_heads", 8},
          {"num_hidden_layers", 3},
          {"vocab_size", 50}};
}

json Llama3() {
  return {{"rope_type", "llama3"},
          {"factor", 8.0},
          {"low_freq_factor", 1.0},
          {"high_freq_factor", 4.0},
          {"original_max_position_embeddings", 8192}};
}

absl::StatusOr<ModelConfig> With(const std::string& key, const json& value) {
  json config = Minimal();
  config[key] = value;
  return ParseModelConfig(config.dump());
}

std::string Refusal(const std::string& key, const json& value) {
  const auto config = With(key, value);
  return config.ok() ? "ok" : base::MessageOf(config.status());
}

TEST(ModelConfigTest, DefaultsAreThoseOfHuggingFace) {
  const auto config = ParseModelConfig(Minimal().dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_kv_heads, 8);
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->rms_norm_eps, 1e-6);
  EXPECT_EQ(config->rope_theta, 10000);
  EXPECT_EQ(config->max_positions, 2048);
  EXPECT_FALSE(config->tied_embeddings);
  EXPECT_FALSE(config->rope_scaling.has_value());
  EXPECT_FALSE(config->bos_token.has_value());
  EXPECT_TRUE(config->eos_tokens.empty());
}

TEST(ModelConfigTest, NullCountsAsAbsent) {
  for (const char* key : {"head_dim", "num_key_value_heads", "rope_scaling", "eos_token_id",
                          "rope_theta", "tie_word_embeddings", "quantization_config"}) {
    EXPECT_EQ(Refusal(key, nullptr), "ok") << key;
  }
}

TEST(ModelConfigTest, EosIsOneTokenOrMany) {
  EXPECT_THAT(With("eos_token_id", 7)->eos_tokens, ElementsAre(7));
  EXPECT_THAT(With("eos_token_id", {7, 3})->eos_tokens, ElementsAre(7, 3));
  EXPECT_EQ(With("bos_token_id", 1)->bos_token, 1);
  for (const json& wrong :
       {json(-1), json(50), json("2"), json({2, 50}), json({{"a", 1}}), json(2.5)}) {
    EXPECT_THAT(Refusal("eos_token_id", wrong), HasSubstr("from 0 to 49")) << wrong;
  }
}

// It was copied, by a function that calls itself for each bracket: no stack was enough.
TEST(ModelConfigTest, EosNestedDeepIsRefused) {
  std::string text = Minimal().dump();
  text.pop_back();
  text += ",\"eos_token_id\":" + std::string(500'000, '[') + std::string(500'000, ']') + "}";
  EXPECT_THAT(base::MessageOf(ParseModelConfig(text).status()), HasSubstr("from 0 to 49"));
}

TEST(ModelConfigTest, RopeScalingUnderEitherName) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto config = With(key, Llama3());
    ASSERT_TRUE(config.ok()) << config.status();
    ASSERT_TRUE(config->rope_scaling.has_value());
    EXPECT_EQ(config->rope_scaling->factor, 8);
    EXPECT_EQ(config->rope_scaling->original_max_positions, 8192);
  }
  json newer = Llama3();
  newer["rope_theta"] = 500000;
  EXPECT_EQ(With("rope_parameters", newer)->rope_theta, 500000);
  EXPECT_EQ(Refusal("rope_scaling", {{"type", "default"}}), "ok");
}

TEST(ModelConfigTest, WhatWouldBeComputedWronglyIsRefused) {
  EXPECT_THAT(Refusal("architectures", {"MistralForCausalLM"}),
              HasSubstr("architecture \"MistralForCausalLM\" is not supported"));
  EXPECT_THAT(Refusal("architectures", json::array()), HasSubstr("architectures"));
  EXPECT_THAT(Refusal("model_type", "qwen2"), HasSubstr("model_type \"qwen2\""));
  EXPECT_THAT(Refusal("hidden_act", "gelu"), HasSubstr("hidden_act \"gelu\""));
  EXPECT_THAT(Refusal("attention_bias", true), HasSubstr("attention_bias = true"));
  EXPECT_THAT(Refusal("mlp_bias", true), HasSubstr("mlp_bias = true"));
  EXPECT_THAT(Refusal("quantization_config", {{"bits", 4}}), HasSubstr("quantised"));
  EXPECT_THAT(Refusal("partial_rotary_factor", 0.5), HasSubstr("partial_rotary_factor"));
  for (const char* type : {"linear", "dynamic", "yarn", "longrope"}) {
    EXPECT_THAT(Refusal("rope_scaling", {{"rope_type", type}, {"factor", 2.0}}),
                HasSubstr("RoPE type \"" + std::string(type) + "\" is not supported"));
    EXPECT_THAT(Refusal("rope_scaling", {{"type", type}, {"factor", 2.0}}), HasSubstr("RoPE type"));
  }
  EXPECT_EQ(With("mlp_bias", true).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(ModelConfigTest, MissingFieldsAreNamed) {
  for (const char* key : {"model_type", "hidden_size", "intermediate_size", "num_attention_heads",
                          "num_hidden_layers", "vocab_size"}) {
    json config = Minimal();
    config.erase(key);
    const absl::Status status = ParseModelConfig(config.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(base::MessageOf(status), HasSubstr(std::string(key) + " is missing"));
  }
  const json whole = Llama3();
  for (const auto& [key, ignored] : whole.items()) {
    if (key == "rope_type") continue;
    json rope = whole;
    rope.erase(key);
    EXPECT_THAT(Refusal("rope_scaling", rope), HasSubstr("rope_scaling." + key + " is missing"));
  }
}

TEST(ModelConfigTest, WrongTypesAndRangesAreNamed) {
  const json wrong[] = {-1,   0,          1e3,       "64",     json::array({64}), json::object(),
                        true, UINT64_MAX, INT64_MAX, INT64_MIN};
  for (const char* key : {"hidden_size", "intermediate_size", "num_attention_heads",
                          "num_key_value_heads", "head_dim", "num_hidden_layers", "vocab_size"}) {
    for (const json& value : wrong) {
      EXPECT_THAT(Refusal(key, value), HasSubstr(key)) << value;
    }
  }
  for (const json& value : {json(-1.0), json("x"), json(0), json(2), json(true)}) {
    EXPECT_THAT(Refusal("rms_norm_eps", value), HasSubstr("rms_norm_eps")) << value;
  }
  EXPECT_THAT(Refusal("rope_theta", 0.5), HasSubstr("rope_theta"));
  EXPECT_THAT(Refusal("rope_theta", 1e300), HasSubstr("rope_theta"));
  EXPECT_THAT(Refusal("tie_word_embeddings", "no"), HasSubstr("tie_word_embeddings is \"no\""));
  EXPECT_THAT(Refusal("rope_scaling", "llama3"), HasSubstr("rope_scaling"));
  EXPECT_THAT(Refusal("max_position_embeddings", 0), HasSubstr("max_position_embeddings"));
  json rope = Llama3();
  rope["high_freq_factor"] = 1.0;
  EXPECT_THAT(Refusal("rope_scaling", rope), HasSubstr("more than low_freq_factor"));
  rope["factor"] = 0;
  EXPECT_THAT(Refusal("rope_scaling", rope), HasSubstr("rope_scaling.factor is 0"));
}

TEST(ModelConfigTest, HeadsMustFit) {
  EXPECT_THAT(Refusal("num_key_value_heads", 3), HasSubstr("multiple"));
  EXPECT_THAT(Refusal("num_key_value_heads", 16), HasSubstr("multiple"));
  EXPECT_THAT(Refusal("head_dim", 12), HasSubstr("head_dim is 12, expected a multiple of 8"));
  EXPECT_THAT(Refusal("hidden_size", 63), HasSubstr("head_dim is 7"));
  EXPECT_EQ(Refusal("head_dim", 40), "ok");
}

TEST(ModelConfigTest, NotJson) {
  for (const char* text : {"", "{", "[]", "7", "\xff", "{\"model_type\":\"llama\",}"}) {
    EXPECT_FALSE(ParseModelConfig(text).ok()) << text;
  }
  EXPECT_THAT(base::MessageOf(LoadModelConfig("/nowhere/config.json").status()),
              HasSubstr("/nowhere/config.json"));
}

TEST(ModelConfigTest, CanonicalTextTellsModelsApart) {
  const ModelConfig base = *ParseModelConfig(Minimal().dump());
  const std::string text = CanonicalText(base);
  // What changes no logit changes nothing here.
  EXPECT_EQ(CanonicalText(*With("max_position_embeddings", 77)), text);
  EXPECT_EQ(CanonicalText(*With("eos_token_id", 7)), text);
  EXPECT_EQ(CanonicalText(*With("head_dim", 8)), text);
  EXPECT_NE(CanonicalText(*With("head_dim", 16)), text);
  EXPECT_NE(CanonicalText(*With("rope_theta", 10000.000001)), text);
  EXPECT_NE(CanonicalText(*With("rms_norm_eps", 1e-5)), text);
  EXPECT_NE(CanonicalText(*With("rope_scaling", Llama3())), text);
  EXPECT_NE(CanonicalText(*With("tie_word_embeddings", true)), text);
}

}  // namespace
}  // namespace sounder::gpu_worker
