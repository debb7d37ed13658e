#include "gpu_worker/engine/prompt_file.h"

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/status_macros.h"

namespace sounder::gpu_worker {
namespace {

using Json = nlohmann::json;

absl::StatusOr<Prompt> ParsePrompt(const std::string& line, const Tokenizer* tokenizer) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("expected a JSON object");
  Prompt prompt;
  if (const auto id = json.find("id"); id != json.end()) {
    if (!id->is_string() && !id->is_number_integer()) {
      return absl::InvalidArgumentError("\"id\" is neither a string nor an integer");
    }
    prompt.numeric_id = id->is_number_integer();
    prompt.id = prompt.numeric_id ? id->dump() : id->get<std::string>();
  }
  if (const auto max = json.find("max_tokens"); max != json.end()) {
    if (!max->is_number_integer() || max->get<int64_t>() < 0) {
      return absl::InvalidArgumentError("\"max_tokens\" is not a count");
    }
    prompt.max_tokens = max->get<int64_t>();
  }
  if (const auto tokens = json.find("tokens"); tokens != json.end()) {
    if (!tokens->is_array()) return absl::InvalidArgumentError("\"tokens\" is not an array");
    for (const Json& token : *tokens) {
      if (!token.is_number_integer()) {
        return absl::InvalidArgumentError("\"tokens\" holds something that is no integer");
      }
      const bool fits = token.is_number_unsigned() ? token.get<uint64_t>() <= INT32_MAX
                                                   : token.get<int64_t>() >= INT32_MIN;
      if (!fits) return absl::InvalidArgumentError("no token: " + token.dump());
      prompt.tokens.push_back(token.get<int32_t>());
    }
    return prompt;
  }
  const auto text = json.find("text");
  if (text == json.end() || !text->is_string()) {
    return absl::InvalidArgumentError("neither \"text\" nor \"tokens\"");
  }
  if (tokenizer == nullptr) {
    return absl::InvalidArgumentError("\"text\" needs a model with a tokenizer.json");
  }
  ASSIGN_OR_RETURN(prompt.tokens, tokenizer->Encode(text->get<std::string>()));
  return prompt;
}

}  // namespace

absl::StatusOr<std::vector<Prompt>> ParsePrompts(std::istream& lines, const std::string& name,
                                                 const Tokenizer* tokenizer) {
  std::vector<Prompt> prompts;
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    absl::StatusOr<Prompt> prompt = ParsePrompt(line, tokenizer);
    if (!prompt.ok()) return base::Annotate(prompt.status(), absl::StrCat(name, ":", number));
    if (prompt->id.empty()) prompt->id = absl::StrCat(number);
    prompts.push_back(*std::move(prompt));
  }
  if (lines.bad()) return absl::NotFoundError(name + ": cannot be read");
  return prompts;
}

absl::StatusOr<std::vector<Prompt>> ReadPrompts(const std::string& path,
                                                const Tokenizer* tokenizer) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(path + ": cannot be read");
  return ParsePrompts(file, path, tokenizer);
}

std::string AnswerLine(const Sequence& sequence, const Tokenizer* tokenizer) {
  const std::span<const int32_t> answer =
      std::span(sequence.tokens).subspan(sequence.prompt_tokens);
  const AttentionCounts& counts = sequence.counts;
  Json json;
  json["id"] = sequence.numeric_id ? Json::parse(sequence.id) : Json(sequence.id);
  json["prompt_tokens"] = sequence.prompt_tokens;
  json["tokens"] = std::vector<int32_t>(answer.begin(), answer.end());
  if (tokenizer != nullptr) {
    const absl::StatusOr<std::string> text = tokenizer->Decode(answer, /*with_special=*/true);
    if (text.ok()) json["text"] = *text;
  }
  json["status"] = sequence.status.ok() ? "OK" : sequence.status.ToString();
  json["prefill_seconds"] = sequence.prefill_seconds;
  json["decode_seconds"] = sequence.decode_seconds;
  json["decode_steps"] = sequence.decode_steps;
  json["positions"] = counts.positions;
  json["positions_exact"] = counts.positions_exact;
  json["rows_visible"] = counts.rows_visible;
  json["rows_read"] = counts.rows_read;
  json["rows_loaded"] = counts.rows_loaded;
  json["audited"] = counts.audited;
  json["audited_error"] = counts.audited_error;
  // Messages may hold bytes of others that are no UTF-8.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace sounder::gpu_worker
