#include "gpu_worker/model/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "common/base/absl_text.h"
#include "nlohmann/json.hpp"

namespace sounder::gpu_worker {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

json Minimal() {
  return {{"pre_tokenizer", {{"type", "WhitespaceSplit"}}},
          {"model",
           {{"type", "WordLevel"}, {"vocab", {{"?", 0}, {"a", 1}, {"b", 2}}}, {"unk_token", "?"}}}};
}

json Added(const std::string& content, int id, bool special) {
  return {{"id", id}, {"content", content}, {"special", special}};
}

std::string Refusal(const json& file) {
  const auto tokenizer = Tokenizer::Parse(file.dump());
  return tokenizer.ok() ? "ok" : base::MessageOf(tokenizer.status());
}

// The message for Minimal() with one top-level part replaced.
std::string RefusalWith(const char* key, const json& value) {
  json file = Minimal();
  file[key] = value;
  return Refusal(file);
}

std::unique_ptr<Tokenizer> Make(const json& file) {
  auto tokenizer = Tokenizer::Parse(file.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(TokenizerTest, AgreesWithHuggingFace) {
  const auto tokenizer = Tokenizer::Load("tests/golden/llama/gqa_tied/tokenizer.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 97);
  std::ifstream in("tests/golden/llama/gqa_tied/golden.json");
  const json texts = json::parse(in).at("texts");
  ASSERT_GE(texts.size(), 8u);
  for (const json& golden : texts) {
    const auto ids = (*tokenizer)->Encode(golden.at("text").get<std::string>());
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, golden.at("ids").get<std::vector<int32_t>>()) << golden;
    const auto text = (*tokenizer)->Decode(*ids);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, golden.at("decoded").get<std::string>());
  }
}

TEST(TokenizerTest, EveryUnicodeBlankSeparates) {
  const auto tokenizer = Make(Minimal());
  for (const char* blank : {" ", "\t", "\n", "\v", "\f", "\r", "\u0085", "\u00a0", "\u1680",
                            "\u2000", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"}) {
    EXPECT_THAT(*tokenizer->Encode(std::string("a") + blank + "b"), ElementsAre(1, 2)) << blank;
  }
  // Not blanks: zero width space, word joiner, other symbols of the same blocks; broken UTF-8.
  for (const char* other :
       {"\u200b", "\u2060", "\u2010", "\u2030", "\u00a1", "\u3001", "\xe2\x80", "\xc2", "\xe3"}) {
    EXPECT_THAT(*tokenizer->Encode(std::string("a") + other + "b"), ElementsAre(0)) << other;
  }
}

TEST(TokenizerTest, WhitespaceSplitsPunctuationToo) {
  json file = Minimal();
  file["pre_tokenizer"]["type"] = "Whitespace";
  file["model"]["vocab"] = {{"?", 0}, {"it", 1}, {"'", 2}, {"s", 3}, {"a_1", 4}, {"...", 5}};
  const auto tokenizer = Make(file);
  EXPECT_THAT(*tokenizer->Encode("it's a_1... it"), ElementsAre(1, 2, 3, 4, 5, 1));
  EXPECT_THAT(base::MessageOf(tokenizer->Encode("it naïve").status()), HasSubstr("ASCII"));
  EXPECT_THAT(*tokenizer->Encode("it\u00a0s"), ElementsAre(1, 3));
}

TEST(TokenizerTest, AddedTokensAreCutOutLongestFirst) {
  json file = Minimal();
  file["added_tokens"] = {Added("<", 3, false), Added("<x>", 4, true)};
  const auto tokenizer = Make(file);
  EXPECT_THAT(*tokenizer->Encode("a<x>b<<x> a<xb"), ElementsAre(1, 4, 2, 3, 4, 1, 3, 0));
  EXPECT_EQ(*tokenizer->Decode(std::vector<int32_t>{1, 4, 2, 3}), "a b <");
  EXPECT_EQ(*tokenizer->Decode(std::vector<int32_t>{1, 4, 2, 3}, true), "a <x> b <");
}

TEST(TokenizerTest, UnknownWords) {
  EXPECT_THAT(*Make(Minimal())->Encode("a zebra"), ElementsAre(1, 0));
  json file = Minimal();
  file["model"].erase("unk_token");
  EXPECT_THAT(base::MessageOf(Make(file)->Encode("a zebra").status()), HasSubstr("\"zebra\""));
  EXPECT_THAT(base::MessageOf(Make(file)->Encode("\xff").status()), HasSubstr("vocabulary"));
  file["model"]["unk_token"] = "nowhere";
  EXPECT_THAT(Refusal(file), HasSubstr("model.unk_token \"nowhere\""));
}

TEST(TokenizerTest, DecodeRefusesIdsWithoutAWord) {
  json file = Minimal();
  file["model"]["vocab"]["far"] = 9;
  const auto tokenizer = Make(file);
  EXPECT_EQ(tokenizer->vocab_size(), 10);
  for (const int32_t id : {-1, 3, 10, INT32_MAX, INT32_MIN}) {
    EXPECT_THAT(base::MessageOf(tokenizer->Decode(std::vector<int32_t>{1, id}).status()),
                HasSubstr("token id " + std::to_string(id)));
  }
}

TEST(TokenizerTest, WhatWouldTokeniseDifferentlyIsRefused) {
  for (const char* type : {"BPE", "Unigram", "WordPiece"}) {
    json file = Minimal();
    file["model"]["type"] = type;
    EXPECT_THAT(Refusal(file), HasSubstr("tokenizer model \"" + std::string(type) + "\""));
    EXPECT_EQ(Tokenizer::Parse(file.dump()).status().code(), absl::StatusCode::kUnimplemented);
  }
  EXPECT_THAT(RefusalWith("normalizer", {{"type", "Lowercase"}}),
              HasSubstr("normalizer \"Lowercase\""));
  EXPECT_THAT(RefusalWith("post_processor", {{"type", "TemplateProcessing"}}),
              HasSubstr("post_processor"));
  EXPECT_THAT(RefusalWith("decoder", {{"type", "ByteLevel"}}), HasSubstr("decoder"));
  EXPECT_THAT(RefusalWith("pre_tokenizer", {{"type", "ByteLevel"}}), HasSubstr("\"ByteLevel\""));
  EXPECT_THAT(RefusalWith("pre_tokenizer", nullptr), HasSubstr("pre_tokenizer null"));
  for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
    json token = Added("x", 3, false);
    token[flag] = true;
    EXPECT_THAT(RefusalWith("added_tokens", json::array({token})), HasSubstr(flag));
  }
}

TEST(TokenizerTest, DuplicateIdsAreNamed) {
  json file = Minimal();
  file["model"]["vocab"]["c"] = 1;
  EXPECT_THAT(Refusal(file), HasSubstr("id 1 is given to both \"a\" and \"c\""));
  EXPECT_THAT(RefusalWith("added_tokens", json::array({Added("x", 2, false)})),
              HasSubstr("id 2 is given to both \"b\" and \"x\""));
  EXPECT_THAT(RefusalWith("added_tokens", json::array({Added("a", 7, false)})),
              HasSubstr("\"a\" has both id 1 and 7"));
  EXPECT_EQ(RefusalWith("added_tokens", json::array({Added("a", 1, true)})), "ok");
}

TEST(TokenizerTest, MalformedFilesAreRefused) {
  for (const json& id : {json(-1), json(1.5), json("1"), json(nullptr), json(1 << 24),
                         json(UINT64_MAX), json::array()}) {
    json file = Minimal();
    file["model"]["vocab"]["c"] = id;
    EXPECT_THAT(Refusal(file), HasSubstr("word \"c\" has id")) << id;
  }
  EXPECT_THAT(RefusalWith("model", 7), HasSubstr("model is 7"));
  EXPECT_THAT(RefusalWith("model", nullptr), HasSubstr("model is missing"));
  EXPECT_THAT(RefusalWith("model", {{"type", "WordLevel"}}), HasSubstr("model.vocab is missing"));
  EXPECT_THAT(RefusalWith("added_tokens", 7), HasSubstr("added_tokens"));
  EXPECT_THAT(RefusalWith("added_tokens", json::array({7})), HasSubstr("added_tokens"));
  EXPECT_THAT(RefusalWith("added_tokens", json::array({Added("", 4, false)})),
              HasSubstr("content"));
  EXPECT_THAT(RefusalWith("added_tokens", json::array({Added("x", -4, false)})),
              HasSubstr("added_tokens.id"));
  EXPECT_THAT(RefusalWith("pre_tokenizer", "WhitespaceSplit"), HasSubstr("pre_tokenizer"));
  EXPECT_FALSE(Tokenizer::Parse("").ok());
  EXPECT_THAT(base::MessageOf(Tokenizer::Load("/nowhere/tokenizer.json").status()),
              HasSubstr("/nowhere/tokenizer.json"));
}

}  // namespace
}  // namespace sounder::gpu_worker
