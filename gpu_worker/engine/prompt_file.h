// Prompts in and answers out, one JSON object per line.
//
//   {"id": "a", "text": "some words", "max_tokens": 8}     or     {"tokens": [1, 2, 3]}
//
// id is a text or an integer, and comes back as it came; it defaults to the line number (as text),
// max_tokens to 16; other members are ignored. "forced": [4, 5] are tokens that are fed instead of
// those that the model chooses (teacher forcing); they do not end at an end of sequence.
//
// "adopt": "32 hexadecimal digits" names the session on the nodes that another worker left with the
// same prompt: what it had done of it is taken over. (sounderctl status --sessions lists sessions.)
//
// A conversation has a list of turns instead, each a text (as in MT-bench's question files) or an
// object with members as above; the line's max_tokens holds for turns that say none:
//
//   {"id": "b", "turns": ["first question", {"text": "second", "max_tokens": 2}], "max_tokens": 8}
//
// A turn's tokens follow what the turn before it was answered with, as they are. Nothing is put
// between them: what a model expects around a turn is part of its text. There is one answer line
// per turn, with its number as "turn": 1, 2, ...
#ifndef SOUNDER_GPU_WORKER_ENGINE_PROMPT_FILE_H_
#define SOUNDER_GPU_WORKER_ENGINE_PROMPT_FILE_H_

#include <istream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/engine/generator.h"
#include "gpu_worker/model/tokenizer.h"

namespace sounder::gpu_worker {

// INVALID_ARGUMENT naming file and line; NOT_FOUND for a file that cannot be read. `tokenizer` may
// be null: then only "tokens" are taken.
absl::StatusOr<std::vector<Prompt>> ReadPrompts(const std::string& path,
                                                const Tokenizer* tokenizer);
// The same of a stream's lines; `name` stands for the path in messages.
absl::StatusOr<std::vector<Prompt>> ParsePrompts(std::istream& lines, const std::string& name,
                                                 const Tokenizer* tokenizer);

// One line, without its end, of an answered turn: id, tokens, text, status, counts and times.
std::string AnswerLine(const Sequence& sequence, const Tokenizer* tokenizer);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_ENGINE_PROMPT_FILE_H_
