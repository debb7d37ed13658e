// Files of prompts, folded, with a tokenizer and without.
#include <memory>
#include <sstream>
#include <string>

#include "gpu_worker/engine/prompt_file.h"
#include "gpu_worker/model/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/mutations.h"
#include "tests/fuzz/target.h"

namespace sounder::fuzz {
namespace {

using gpu_worker::Prompt;
using gpu_worker::Tokenizer;

// A word of the vocabulary, an added token, and no token for unknown words.
const Tokenizer& SmallTokenizer() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      Tokenizer::Parse(R"({"pre_tokenizer":{"type":"Whitespace"},)"
                       R"("added_tokens":[{"id":2,"content":"<s>","special":true}],)"
                       R"("model":{"type":"WordLevel","vocab":{"a":0,"some":1}}})")
          .value();
  return *tokenizer;
}

// The answer to a prompt is one line of JSON and names the prompt as it was named.
void CheckAnswer(const Prompt& prompt, const Tokenizer* tokenizer) {
  gpu_worker::Sequence sequence;
  sequence.id = prompt.id;
  sequence.numeric_id = prompt.numeric_id;
  sequence.tokens = prompt.tokens;
  const std::string line = gpu_worker::AnswerLine(sequence, tokenizer);
  CHECK(line.find('\n') == line.npos) << line;
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  CHECK(json.is_object()) << line;
  CHECK(json["id"].is_string() != prompt.numeric_id) << line;
  const std::string id = prompt.numeric_id ? json["id"].dump() : json["id"].get<std::string>();
  CHECK(id == prompt.id) << line;
  CHECK(json["tokens"].get<std::vector<int32_t>>() == prompt.tokens) << line;
}

bool Run(const std::string& text, const Tokenizer* tokenizer) {
  std::istringstream lines(text);
  const auto prompts = gpu_worker::ParsePrompts(lines, "f", tokenizer);
  if (!prompts.ok()) {
    CheckRefusal(prompts.status());
    CHECK(prompts.status().message().substr(0, 2) == "f:") << prompts.status().ToString();
    return false;
  }
  for (const Prompt& prompt : *prompts) {
    CHECK(!prompt.id.empty() && prompt.max_tokens >= 0);
    CheckAnswer(prompt, tokenizer);
  }
  return !prompts->empty();
}

}  // namespace

bool RunTarget(std::span<const std::byte> input) {
  const std::string text = Unfold(AsText(input));
  const bool without = Run(text, nullptr);
  const bool with = Run(text, &SmallTokenizer());
  CHECK(with || !without) << "a tokenizer only adds to what is accepted";
  return with;
}

}  // namespace sounder::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return sounder::fuzz::MutateJson(data, size, max_size, seed);
}
