#include "gpu_worker/engine/prompt_file.h"

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/status_macros.h"

namespace sounder::gpu_worker {
namespace {

using Json = nlohmann::json;

// The tokens of a member of that name.
absl::StatusOr<std::vector<int32_t>> ParseTokens(const Json& tokens, const std::string& name) {
  if (!tokens.is_array()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", name, "\" is not an array"));
  }
  std::vector<int32_t> parsed;
  for (const Json& token : tokens) {
    if (!token.is_number_integer()) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", name, "\" holds something that is no integer"));
    }
    const bool fits = token.is_number_unsigned() ? token.get<uint64_t>() <= INT32_MAX
                                                 : token.get<int64_t>() >= INT32_MIN;
    if (!fits) return absl::InvalidArgumentError("no token: " + token.dump());
    parsed.push_back(token.get<int32_t>());
  }
  return parsed;
}

absl::StatusOr<std::vector<int32_t>> Encode(const Json& text, const Tokenizer* tokenizer) {
  if (tokenizer == nullptr) {
    return absl::InvalidArgumentError("\"text\" needs a model with a tokenizer.json");
  }
  return tokenizer->Encode(text.get<std::string>());
}

absl::StatusOr<int64_t> ParseMaxTokens(const Json& json, int64_t otherwise) {
  const auto max = json.find("max_tokens");
  if (max == json.end()) return otherwise;
  if (!max->is_number_integer() || max->get<int64_t>() < 0) {
    return absl::InvalidArgumentError("\"max_tokens\" is not a count");
  }
  return max->get<int64_t>();
}

// What is asked in an object: a line, or a turn of one.
absl::Status ParseTurn(const Json& json, const Tokenizer* tokenizer, Turn* turn) {
  ASSIGN_OR_RETURN(turn->max_tokens, ParseMaxTokens(json, turn->max_tokens));
  if (const auto forced = json.find("forced"); forced != json.end()) {
    ASSIGN_OR_RETURN(turn->forced, ParseTokens(*forced, "forced"));
  }
  if (const auto tokens = json.find("tokens"); tokens != json.end()) {
    ASSIGN_OR_RETURN(turn->tokens, ParseTokens(*tokens, "tokens"));
    return absl::OkStatus();
  }
  const auto text = json.find("text");
  if (text == json.end() || !text->is_string()) {
    return absl::InvalidArgumentError("neither \"text\" nor \"tokens\"");
  }
  ASSIGN_OR_RETURN(turn->tokens, Encode(*text, tokenizer));
  return absl::OkStatus();
}

absl::Status ParseTurns(const Json& turns, const Tokenizer* tokenizer, int64_t max_tokens,
                        Prompt* prompt) {
  if (!turns.is_array() || turns.empty()) {
    return absl::InvalidArgumentError("\"turns\" is not a list of one turn or more");
  }
  prompt->in_turns = true;
  prompt->later_turns.resize(turns.size() - 1);
  for (size_t i = 0; i < turns.size(); ++i) {
    Turn* const turn = i == 0 ? prompt : &prompt->later_turns[i - 1];
    turn->max_tokens = max_tokens;
    absl::Status status;
    if (turns[i].is_string()) {
      absl::StatusOr<std::vector<int32_t>> tokens = Encode(turns[i], tokenizer);
      status = tokens.status();
      if (tokens.ok()) turn->tokens = *std::move(tokens);
    } else if (turns[i].is_object()) {
      status = ParseTurn(turns[i], tokenizer, turn);
    } else {
      status = absl::InvalidArgumentError("neither a text nor an object");
    }
    if (!status.ok()) return base::Annotate(status, absl::StrCat("turn ", i + 1));
  }
  return absl::OkStatus();
}

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
  if (const auto adopt = json.find("adopt"); adopt != json.end()) {
    const auto id =
        adopt->is_string() ? base::SessionId::Parse(adopt->get<std::string>()) : std::nullopt;
    if (!id.has_value() || id->empty()) {
      return absl::InvalidArgumentError("\"adopt\" is no session, expected 32 hexadecimal digits");
    }
    prompt.adopt = *id;
  }
  const auto turns = json.find("turns");
  if (turns == json.end()) {
    RETURN_IF_ERROR(ParseTurn(json, tokenizer, &prompt));
    return prompt;
  }
  for (const char* other : {"text", "tokens", "forced"}) {
    if (!json.contains(other)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("both \"turns\" and \"", other, "\", which belongs into a turn"));
  }
  ASSIGN_OR_RETURN(const int64_t max_tokens, ParseMaxTokens(json, prompt.max_tokens));
  RETURN_IF_ERROR(ParseTurns(*turns, tokenizer, max_tokens, &prompt));
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
  if (sequence.in_turns) json["turn"] = sequence.turn;
  json["prompt_tokens"] = sequence.prompt_tokens - sequence.turn_begin;
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
  if (counts.prefill_blocks > 0) {
    json["prefill_rows_loaded"] = counts.prefill_rows_loaded;
    json["prefill_blocks"] = counts.prefill_blocks;
  }
  json["audited"] = counts.audited;
  json["audited_error"] = counts.audited_error;
  // Messages may hold bytes of others that are no UTF-8.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace sounder::gpu_worker
