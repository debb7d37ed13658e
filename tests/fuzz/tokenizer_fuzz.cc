// tokenizer.json, folded; and the tokenizer it describes, over the file itself as a text.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/model/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/mutations.h"
#include "tests/fuzz/target.h"

namespace sounder::fuzz {
namespace {

using gpu_worker::Tokenizer;

constexpr size_t kMaxWords = 32;

std::vector<int32_t> CheckEncode(const Tokenizer& tokenizer, std::string_view text, bool* ok) {
  const auto ids = tokenizer.Encode(text);
  *ok = ids.ok();
  if (!ids.ok()) {
    CheckRefusal(ids.status());
    return {};
  }
  for (const int32_t id : *ids) {
    CHECK(id >= 0 && id < tokenizer.vocab_size()) << id;
    CHECK(tokenizer.Decode({&id, 1}).ok()) << id;
  }
  CHECK(tokenizer.Decode(*ids, /*with_special=*/true).ok());
  return *ids;
}

// Two texts with a blank between them are their tokens, one after the other. (An added token may
// hold the blank; then not.)
void CheckTwoTexts(const Tokenizer& tokenizer, std::string_view first, std::string_view second) {
  bool first_ok = false, second_ok = false, both_ok = false;
  std::vector<int32_t> ids = CheckEncode(tokenizer, first, &first_ok);
  const std::vector<int32_t> more = CheckEncode(tokenizer, second, &second_ok);
  const std::vector<int32_t> both =
      CheckEncode(tokenizer, std::string(first) + " " + std::string(second), &both_ok);
  CHECK(both_ok == (first_ok && second_ok));
  ids.insert(ids.end(), more.begin(), more.end());
  if (both_ok) CHECK(both == ids);
}

// Words of the vocabulary made of letters alone are themselves, as texts.
void CheckWords(const Tokenizer& tokenizer, const nlohmann::json& vocab) {
  size_t checked = 0;
  for (const auto& [word, id] : vocab.items()) {
    const bool letters = std::all_of(word.begin(), word.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    });
    if (word.empty() || !letters) continue;
    if (++checked > kMaxWords) return;
    const auto ids = tokenizer.Encode(word);
    CHECK(ids.ok() && ids->size() == 1 && ids->front() == id.get<int32_t>()) << word;
    CHECK(tokenizer.Decode(*ids, /*with_special=*/true).value() == word) << word;
  }
}

}  // namespace

bool RunTarget(std::span<const std::byte> input) {
  const std::string text = Unfold(AsText(input));
  const auto tokenizer = Tokenizer::Parse(text);
  if (!tokenizer.ok()) {
    CheckRefusal(tokenizer.status(),
                 {absl::StatusCode::kInvalidArgument, absl::StatusCode::kUnimplemented});
    return false;
  }
  bool ok = false;
  CheckEncode(**tokenizer, text, &ok);
  for (int32_t id = -1; id < 100; ++id) {
    const auto word = (*tokenizer)->Decode({&id, 1});
    if (!word.ok()) CheckRefusal(word.status());
    if (id < 0 || id >= (*tokenizer)->vocab_size()) CHECK(!word.ok()) << id;
  }
  const auto json = nlohmann::json::parse(text);
  const auto added = json.find("added_tokens");
  if (added == json.end() || added->is_null() || added->empty()) {
    const std::string_view all = text;
    CheckTwoTexts(**tokenizer, all.substr(0, all.size() / 2), all.substr(all.size() / 2));
    CheckWords(**tokenizer, json["model"]["vocab"]);
  }
  return true;
}

}  // namespace sounder::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return sounder::fuzz::MutateJson(data, size, max_size, seed);
}
