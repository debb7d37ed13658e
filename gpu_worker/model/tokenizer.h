// Word-level tokenizers from the tokenizer.json of a Hugging Face directory.
#ifndef SOUNDER_GPU_WORKER_MODEL_TOKENIZER_H_
#define SOUNDER_GPU_WORKER_MODEL_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"

namespace sounder::gpu_worker {

// Text to token ids and back: model WordLevel with the pre-tokenizer WhitespaceSplit (any UTF-8) or
// Whitespace (\w+|[^\w\s]+; ASCII text only, since beyond it \w needs Unicode's tables). Added
// tokens are cut out of the text first, wherever they occur, the longest first. Immutable, thread
// safe.
class Tokenizer {
 public:
  // UNIMPLEMENTED for anything that would tokenise differently: another model (BPE, ...),
  // pre-tokenizer, a normalizer, a post-processor, a decoder, added tokens that strip blanks or
  // match single words only. INVALID_ARGUMENT for a malformed file, an id given to two words or out
  // of [0, 2^24), an unknown token outside the vocabulary. Any text is safe.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(std::string_view json_text);
  // As above from a file; messages start with the path.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& path);

  // Words outside the vocabulary become the unknown token; INVALID_ARGUMENT names the word if the
  // file has none, or the first byte that the pre-tokenizer cannot judge.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text) const;

  // Words joined by one blank; special tokens (added tokens marked so) are left out unless asked
  // for. INVALID_ARGUMENT for an id without a word.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids, bool with_special = false) const;

  // One more than the largest id.
  int64_t vocab_size() const { return vocab_size_; }

 private:
  struct Word {
    std::string text;
    bool special = false;
  };
  enum class Split { kBlanks, kWordsAndPunctuation };
  class Reader;

  Tokenizer() = default;
  absl::Status EncodePiece(std::string_view piece, std::vector<int32_t>& ids) const;
  absl::Status EncodeWord(std::string_view word, std::vector<int32_t>& ids) const;

  std::unordered_map<int32_t, Word> words_;  // by id
  int64_t vocab_size_ = 0;
  std::unordered_map<std::string, int32_t> vocab_;      // the model's words
  std::vector<std::pair<std::string, int32_t>> added_;  // the longest first
  std::optional<int32_t> unknown_;
  Split split_ = Split::kBlanks;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_MODEL_TOKENIZER_H_
