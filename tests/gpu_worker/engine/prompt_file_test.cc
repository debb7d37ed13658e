// Prompts in, answers out.
#include "gpu_worker/engine/prompt_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <string>

#include "nlohmann/json.hpp"

namespace sounder::gpu_worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class PromptFileTest : public testing::Test {
 protected:
  ~PromptFileTest() override { std::remove(path_.c_str()); }
  absl::StatusOr<std::vector<Prompt>> Read(const std::string& text, bool with_tokenizer = true) {
    std::ofstream(path_) << text;
    return ReadPrompts(path_, with_tokenizer ? tokenizer_->get() : nullptr);
  }
  // The refusal of a file whose second line is `line`.
  std::string Refusal(const std::string& line, bool with_tokenizer = true) {
    const auto prompts = Read("{\"tokens\": [1]}\n" + line + "\n", with_tokenizer);
    EXPECT_EQ(prompts.status().code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_THAT(prompts.status().ToString(), HasSubstr(path_ + ":2: ")) << line;
    return prompts.status().ToString();
  }

  const std::string path_ = testing::TempDir() + "/prompts." + std::to_string(getpid());
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer_ =
      Tokenizer::Load("tests/golden/llama/gqa_tied/tokenizer.json");
};

TEST_F(PromptFileTest, ReadsTokensAndText) {
  const auto prompts = Read(
      "{\"id\": \"a\", \"tokens\": [5, 6, 7], \"max_tokens\": 3, \"answer\": \"ignored\"}\r\n"
      "\n"
      "{\"text\": \"apple river Stone\"}\n"
      "  {\"tokens\": []}");
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  ASSERT_EQ(prompts->size(), 3u);
  EXPECT_EQ((*prompts)[0].id, "a");
  EXPECT_THAT((*prompts)[0].tokens, ElementsAre(5, 6, 7));
  EXPECT_EQ((*prompts)[0].max_tokens, 3);
  EXPECT_EQ((*prompts)[1].id, "3") << "the line's number";
  EXPECT_THAT((*prompts)[1].tokens, ElementsAre(3, 4, 5));
  EXPECT_EQ((*prompts)[1].max_tokens, 16);
  EXPECT_EQ((*prompts)[2].id, "4");
  EXPECT_TRUE((*prompts)[2].tokens.empty());
}

TEST_F(PromptFileTest, SessionsToTakeOver) {
  const auto prompts = Read(
      "{\"tokens\": [5], \"adopt\": \"000000000000000A0000000000000002\"}\n"
      "{\"turns\": [\"apple\"], \"adopt\": \"00000000000000000000000000000003\"}\n{\"tokens\": "
      "[]}");
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  EXPECT_EQ((*prompts)[0].adopt, (base::SessionId{10, 2}));
  EXPECT_EQ((*prompts)[1].adopt, (base::SessionId{0, 3}));
  EXPECT_TRUE((*prompts)[2].adopt.empty());
  for (const char* wrong : {"3", "\"3\"", "\"00000000000000000000000000000000\"",
                            "\"0000000000000001000000000000000g\""}) {
    EXPECT_THAT(Refusal(std::string("{\"tokens\": [5], \"adopt\": ") + wrong + "}"),
                HasSubstr("\"adopt\" is no session"));
  }
}

TEST_F(PromptFileTest, IdsComeBackAsTheyCame) {
  for (const std::string id : {"7", "-3", "0", "18446744073709551615", "\"7\"", "\"a\""}) {
    const auto prompts = Read("{\"id\": " + id + ", \"tokens\": [1]}");
    ASSERT_TRUE(prompts.ok()) << prompts.status();
    Sequence sequence;
    sequence.id = (*prompts)[0].id;
    sequence.numeric_id = (*prompts)[0].numeric_id;
    EXPECT_THAT(AnswerLine(sequence, nullptr), HasSubstr("\"id\":" + id + ","));
  }
}

TEST_F(PromptFileTest, EmptyAndMissingFiles) {
  EXPECT_TRUE(Read("").ok());
  EXPECT_TRUE(Read("\n \t\r\n")->empty());
  const absl::Status missing = ReadPrompts("/nowhere/prompts", nullptr).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(missing.ToString(), HasSubstr("/nowhere/prompts"));
  EXPECT_FALSE(ReadPrompts(testing::TempDir(), nullptr).ok()) << "a directory";
}

TEST_F(PromptFileTest, EveryMistakeIsNamedWithItsLine) {
  EXPECT_THAT(Refusal("{\"tokens\": [1"), HasSubstr("JSON object"));
  EXPECT_THAT(Refusal("[1, 2]"), HasSubstr("JSON object"));
  EXPECT_THAT(Refusal("{}"), HasSubstr("neither \"text\" nor \"tokens\""));
  EXPECT_THAT(Refusal("{\"text\": 5}"), HasSubstr("neither"));
  EXPECT_THAT(Refusal("{\"tokens\": 5}"), HasSubstr("not an array"));
  EXPECT_THAT(Refusal("{\"tokens\": [1, \"2\"]}"), HasSubstr("no integer"));
  EXPECT_THAT(Refusal("{\"tokens\": [1, 2.5]}"), HasSubstr("no integer"));
  EXPECT_THAT(Refusal("{\"id\": 7.5, \"tokens\": [1]}"), HasSubstr("\"id\""));
  EXPECT_THAT(Refusal("{\"id\": null, \"tokens\": [1]}"), HasSubstr("\"id\""));
  EXPECT_THAT(Refusal("{\"id\": 18446744073709551616, \"tokens\": [1]}"), HasSubstr("\"id\""));
  EXPECT_THAT(Refusal("{\"tokens\": [1], \"max_tokens\": -1}"), HasSubstr("max_tokens"));
  EXPECT_THAT(Refusal("{\"tokens\": [1], \"max_tokens\": \"9\"}"), HasSubstr("max_tokens"));
  EXPECT_THAT(Refusal("{\"text\": \"apple\"}", false), HasSubstr("tokenizer.json"));
}

TEST_F(PromptFileTest, ReadsTurns) {
  const auto prompts = Read(
      "{\"id\": 5, \"turns\": [\"apple river\", {\"text\": \"Stone\", \"max_tokens\": 2},"
      " {\"tokens\": [9], \"forced\": [7, 8]}], \"max_tokens\": 6}\n"
      "{\"turns\": [{\"tokens\": [4]}]}\n"
      "{\"tokens\": [4], \"forced\": []}");
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  ASSERT_EQ(prompts->size(), 3u);
  const Prompt& first = (*prompts)[0];
  EXPECT_TRUE(first.in_turns);
  EXPECT_EQ(first.id, "5");
  EXPECT_THAT(first.tokens, ElementsAre(3, 4));
  EXPECT_EQ(first.max_tokens, 6);
  EXPECT_FALSE(first.forced.has_value());
  ASSERT_EQ(first.later_turns.size(), 2u);
  EXPECT_THAT(first.later_turns[0].tokens, ElementsAre(5));
  EXPECT_EQ(first.later_turns[0].max_tokens, 2);
  EXPECT_THAT(first.later_turns[1].tokens, ElementsAre(9));
  EXPECT_EQ(first.later_turns[1].max_tokens, 6);
  EXPECT_THAT(first.later_turns[1].forced.value(), ElementsAre(7, 8));
  EXPECT_TRUE((*prompts)[1].in_turns);
  EXPECT_TRUE((*prompts)[1].later_turns.empty());
  EXPECT_EQ((*prompts)[1].max_tokens, 16);
  EXPECT_FALSE((*prompts)[2].in_turns);
  EXPECT_TRUE((*prompts)[2].forced.has_value());
}

TEST_F(PromptFileTest, MistakesInTurnsAreNamed) {
  EXPECT_THAT(Refusal("{\"turns\": []}"), HasSubstr("one turn or more"));
  EXPECT_THAT(Refusal("{\"turns\": \"apple\"}"), HasSubstr("one turn or more"));
  EXPECT_THAT(Refusal("{\"turns\": [\"apple\", 5]}"), HasSubstr("turn 2: neither a text nor"));
  EXPECT_THAT(Refusal("{\"turns\": [\"apple\", null]}"), HasSubstr("turn 2: neither a text nor"));
  EXPECT_THAT(Refusal("{\"turns\": [{}]}"), HasSubstr("turn 1: neither \"text\" nor"));
  EXPECT_THAT(Refusal("{\"turns\": [{\"turns\": [\"apple\"]}]}"), HasSubstr("turn 1: neither"));
  EXPECT_THAT(Refusal("{\"turns\": [{\"tokens\": [1], \"max_tokens\": -1}]}"),
              HasSubstr("turn 1: \"max_tokens\""));
  EXPECT_THAT(Refusal("{\"turns\": [{\"tokens\": [1], \"forced\": 7}]}"),
              HasSubstr("turn 1: \"forced\" is not an array"));
  EXPECT_THAT(Refusal("{\"tokens\": [1], \"forced\": [1.5]}"), HasSubstr("\"forced\" holds"));
  EXPECT_THAT(Refusal("{\"turns\": [\"apple\"], \"tokens\": [1]}"), HasSubstr("both"));
  EXPECT_THAT(Refusal("{\"turns\": [\"apple\"], \"text\": \"river\"}"), HasSubstr("both"));
  EXPECT_THAT(Refusal("{\"turns\": [\"apple\"], \"max_tokens\": \"9\"}"), HasSubstr("max_tokens"));
  EXPECT_THAT(Refusal("{\"turns\": [\"apple\"]}", false), HasSubstr("tokenizer.json"));
}

TEST_F(PromptFileTest, NumbersThatDoNotFitAreRefused) {
  // Not the token 5 of another number modulo 2^32.
  EXPECT_THAT(Refusal("{\"tokens\": [4294967301]}"), HasSubstr("4294967301"));
  EXPECT_THAT(Refusal("{\"tokens\": [-4294967291]}"), HasSubstr("-4294967291"));
  EXPECT_THAT(Refusal("{\"tokens\": [1], \"max_tokens\": 18446744073709551615}"),
              HasSubstr("max_tokens"));
}

TEST_F(PromptFileTest, AnswerLines) {
  Sequence sequence;
  sequence.id = "quoted \"id\"\n";
  sequence.tokens = {9, 9, 3, 4};
  sequence.prompt_tokens = 2;
  sequence.counts.rows_read = 12;
  sequence.decode_steps = 2;
  const std::string line = AnswerLine(sequence, tokenizer_->get());
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const nlohmann::json json = nlohmann::json::parse(line);
  EXPECT_EQ(json["id"], sequence.id);
  EXPECT_EQ(json["prompt_tokens"], 2);
  EXPECT_EQ(json["tokens"], (std::vector<int>{3, 4}));
  EXPECT_EQ(json["text"], "apple river");
  EXPECT_EQ(json["status"], "OK");
  EXPECT_EQ(json["rows_read"], 12);
  EXPECT_EQ(json["decode_steps"], 2);

  EXPECT_FALSE(json.contains("turn"));

  sequence.in_turns = true;
  sequence.turn = 2;
  sequence.turn_begin = 1;
  sequence.counts.prefill_blocks = 3;
  sequence.counts.prefill_rows_loaded = 99;
  const nlohmann::json turn = nlohmann::json::parse(AnswerLine(sequence, nullptr));
  EXPECT_EQ(turn["turn"], 2);
  EXPECT_EQ(turn["prompt_tokens"], 1) << "of this turn";
  EXPECT_EQ(turn["tokens"], (std::vector<int>{3, 4}));
  EXPECT_EQ(turn["prefill_rows_loaded"], 99);

  Sequence refused;
  refused.id = std::string("bytes \xff that are no text");
  refused.status = absl::UnavailableError("node a:1: gone");
  const nlohmann::json failed = nlohmann::json::parse(AnswerLine(refused, nullptr));
  EXPECT_THAT(failed["status"].get<std::string>(), HasSubstr("UNAVAILABLE: node a:1: gone"));
  EXPECT_FALSE(failed.contains("text"));
  EXPECT_TRUE(failed["tokens"].empty());
}

}  // namespace
}  // namespace sounder::gpu_worker
