#include "gpu_worker/model/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/status_macros.h"
#include "gpu_worker/model/json_fields.h"

namespace sounder::gpu_worker {
namespace {

using nlohmann::json;

constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;
constexpr int64_t kMaxId = (int64_t{1} << 24) - 1;
constexpr size_t kMaxAddedTokens = 4096;

absl::Status Refuse(const std::string& text) { return absl::UnimplementedError(text); }

// Bytes of the blank (Unicode White_Space) that `text` starts with, or 0. The blanks beyond ASCII:
// U+0085 U+00A0 U+1680 U+2000..200A U+2028 U+2029 U+202F U+205F U+3000.
size_t LeadingBlank(std::string_view text) {
  const auto at = [&](size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
  };
  const unsigned first = at(0);
  if (first == ' ' || (first >= 0x09 && first <= 0x0d)) return 1;
  if (first == 0xc2) return at(1) == 0x85 || at(1) == 0xa0 ? 2 : 0;
  if (first == 0xe1) return at(1) == 0x9a && at(2) == 0x80 ? 3 : 0;
  if (first == 0xe3) return at(1) == 0x80 && at(2) == 0x80 ? 3 : 0;
  if (first != 0xe2) return 0;
  const unsigned third = at(2);
  if (at(1) == 0x81) return third == 0x9f ? 3 : 0;
  if (at(1) != 0x80) return 0;
  const bool blank =
      (third >= 0x80 && third <= 0x8a) || third == 0xa8 || third == 0xa9 || third == 0xaf;
  return blank ? 3 : 0;
}

bool IsWordByte(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }

// Absent, null, or an object whose type is in `allowed`.
absl::StatusOr<std::string> TypeOf(const JsonFields& fields, const char* key) {
  const json* part = fields.Find(key);
  if (part == nullptr) return std::string();
  if (!part->is_object()) return fields.Wrong(key, "an object");
  return JsonFields(*part, absl::StrCat(key, ".")).Text("type");
}

}  // namespace

// Builds a Tokenizer from the parts of the file.
class Tokenizer::Reader {
 public:
  explicit Reader(Tokenizer* to) : to_(*to) {}

  absl::Status Read(const json& object) {
    const JsonFields fields(object);
    RETURN_IF_ERROR(ReadPipeline(fields));
    const json* model = fields.Find("model");
    if (model == nullptr || !model->is_object()) return fields.Wrong("model", "an object");
    RETURN_IF_ERROR(ReadModel(JsonFields(*model, "model.")));
    if (const json* added = fields.Find("added_tokens"); added != nullptr) {
      if (!added->is_array() || added->size() > kMaxAddedTokens) {
        return fields.Wrong("added_tokens", absl::StrCat("an array of at most ", kMaxAddedTokens));
      }
      for (const json& token : *added) RETURN_IF_ERROR(ReadAddedToken(token));
    }
    std::stable_sort(to_.added_.begin(), to_.added_.end(),
                     [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
    return absl::OkStatus();
  }

 private:
  absl::Status ReadPipeline(const JsonFields& fields) {
    for (const char* part : {"normalizer", "post_processor", "decoder"}) {
      ASSIGN_OR_RETURN(const std::string type, TypeOf(fields, part));
      if (!type.empty()) return Refuse(absl::StrCat(part, " ", Show(type), " is not supported"));
    }
    ASSIGN_OR_RETURN(const std::string type, TypeOf(fields, "pre_tokenizer"));
    if (type == "WhitespaceSplit") {
      to_.split_ = Split::kBlanks;
    } else if (type == "Whitespace") {
      to_.split_ = Split::kWordsAndPunctuation;
    } else {
      return Refuse(absl::StrCat("pre_tokenizer ", type.empty() ? "null" : Show(type),
                                 " is not supported, only WhitespaceSplit and Whitespace"));
    }
    return absl::OkStatus();
  }

  absl::Status ReadModel(const JsonFields& model) {
    ASSIGN_OR_RETURN(const std::string type, model.Text("type"));
    if (type != "WordLevel") {
      return Refuse(
          absl::StrCat("tokenizer model ", Show(type), " is not supported, only \"WordLevel\""));
    }
    const json* vocab = model.Find("vocab");
    if (vocab == nullptr || !vocab->is_object()) return model.Wrong("vocab", "an object");
    for (const auto& [word, value] : vocab->items()) {
      const auto id = IntegerOf(value, 0, kMaxId);
      if (!id) return WrongId(word, value);
      RETURN_IF_ERROR(Claim(word, *id, /*special=*/false));
      to_.vocab_[word] = static_cast<int32_t>(*id);
    }
    ASSIGN_OR_RETURN(const std::string unknown, model.Text("unk_token", ""));
    if (const auto found = to_.vocab_.find(unknown); found != to_.vocab_.end()) {
      to_.unknown_ = found->second;
    } else if (!unknown.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.unk_token ", Show(unknown), " is not in the vocabulary"));
    }
    return absl::OkStatus();
  }

  absl::Status ReadAddedToken(const json& token) {
    if (!token.is_object()) return absl::InvalidArgumentError("added_tokens must hold objects");
    const JsonFields fields(token, "added_tokens.");
    ASSIGN_OR_RETURN(const int64_t id, fields.Integer("id", 0, kMaxId));
    ASSIGN_OR_RETURN(const std::string content, fields.Text("content"));
    if (content.empty()) return fields.Wrong("content", "a text");
    for (const char* key : {"single_word", "lstrip", "rstrip"}) {
      ASSIGN_OR_RETURN(const bool set, fields.Bool(key, false));
      if (set) return Refuse(absl::StrCat("added token ", Show(content), ": ", key, " = true"));
    }
    ASSIGN_OR_RETURN(const bool special, fields.Bool("special", false));
    RETURN_IF_ERROR(Claim(content, id, special));
    to_.added_.emplace_back(content, static_cast<int32_t>(id));
    return absl::OkStatus();
  }

  static absl::Status WrongId(const std::string& word, const json& value) {
    return absl::InvalidArgumentError(absl::StrCat("word ", Show(word), " has id ", Show(value),
                                                   ", expected an integer from 0 to ", kMaxId));
  }

  // Gives `id` to `word`, or agrees if it has it.
  absl::Status Claim(const std::string& text, int64_t id, bool special) {
    const auto [entry, first] = to_.words_.try_emplace(static_cast<int32_t>(id), Word{text});
    Word& word = entry->second;
    if (!first && word.text != text) {
      return absl::InvalidArgumentError(
          absl::StrCat("id ", id, " is given to both ", Show(word.text), " and ", Show(text)));
    }
    if (const auto other = to_.vocab_.find(text);
        other != to_.vocab_.end() && other->second != id) {
      return absl::InvalidArgumentError(
          absl::StrCat("word ", Show(text), " has both id ", other->second, " and ", id));
    }
    word.special = word.special || special;
    to_.vocab_size_ = std::max(to_.vocab_size_, id + 1);
    return absl::OkStatus();
  }

  Tokenizer& to_;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(std::string_view json_text) {
  ASSIGN_OR_RETURN(const json object, ParseJsonObject(json_text));
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer());
  RETURN_IF_ERROR(Reader(tokenizer.get()).Read(object));
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxTokenizerBytes));
  auto tokenizer = Parse(text);
  if (!tokenizer.ok()) return base::Annotate(tokenizer.status(), path);
  return tokenizer;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text) const {
  std::vector<int32_t> ids;
  size_t begin = 0;  // of the piece since the last added token
  for (size_t i = 0; i < text.size();) {
    const auto token = std::find_if(added_.begin(), added_.end(), [&](const auto& added) {
      return text.substr(i, added.first.size()) == added.first;
    });
    if (token == added_.end()) {
      ++i;
      continue;
    }
    RETURN_IF_ERROR(EncodePiece(text.substr(begin, i - begin), ids));
    ids.push_back(token->second);
    i += token->first.size();
    begin = i;
  }
  RETURN_IF_ERROR(EncodePiece(text.substr(begin), ids));
  return ids;
}

absl::Status Tokenizer::EncodePiece(std::string_view piece, std::vector<int32_t>& ids) const {
  for (size_t i = 0; i < piece.size();) {
    if (const size_t blank = LeadingBlank(piece.substr(i)); blank > 0) {
      i += blank;
      continue;
    }
    size_t end = i;
    const bool word = IsWordByte(piece[i]);
    for (; end < piece.size() && LeadingBlank(piece.substr(end)) == 0; ++end) {
      if (split_ == Split::kBlanks) continue;
      if (!absl::ascii_isascii(static_cast<unsigned char>(piece[end]))) {
        return absl::InvalidArgumentError(
            absl::StrCat("the pre-tokenizer Whitespace is supported for ASCII text only, not for ",
                         Show(std::string(piece.substr(end, 8)))));
      }
      if (IsWordByte(piece[end]) != word) break;
    }
    RETURN_IF_ERROR(EncodeWord(piece.substr(i, end - i), ids));
    i = end;
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::EncodeWord(std::string_view word, std::vector<int32_t>& ids) const {
  const auto found = vocab_.find(std::string(word));
  if (found == vocab_.end() && !unknown_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "word ", Show(std::string(word)), " is not in the vocabulary, which has no unknown token"));
  }
  ids.push_back(found == vocab_.end() ? *unknown_ : found->second);
  return absl::OkStatus();
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids,
                                              bool with_special) const {
  std::string text;
  bool first = true;
  for (const int32_t id : ids) {
    const auto found = words_.find(id);
    if (found == words_.end()) {
      return absl::InvalidArgumentError(absl::StrCat("token id ", id, " has no word"));
    }
    const Word& word = found->second;
    if (word.special && !with_special) continue;
    if (!first) text += ' ';
    text += word.text;
    first = false;
  }
  return text;
}

}  // namespace sounder::gpu_worker
