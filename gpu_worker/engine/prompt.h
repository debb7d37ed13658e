// What a sequence is asked: one prompt, or a conversation of several turns.
#ifndef SOUNDER_GPU_WORKER_ENGINE_PROMPT_H_
#define SOUNDER_GPU_WORKER_ENGINE_PROMPT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/ids.h"

namespace sounder::gpu_worker {

// Tokens that are added to a sequence, and how far it goes on from there.
struct Turn {
  std::vector<int32_t> tokens;  // at least one
  int64_t max_tokens = 16;
  std::optional<std::vector<int32_t>> forced;  // teacher forcing: what is fed instead of the argmax
};

// Its own turn is the first.
struct Prompt : Turn {
  std::string id;
  bool numeric_id = false;        // of the sequence
  std::vector<Turn> later_turns;  // each begins when the one before it has been answered
  bool in_turns = false;          // it came as a list of turns, if only of one
  base::SessionId session;        // on the nodes, decides placement; empty: random
  base::SessionId adopt;          // the session that another worker began it in; empty: none
};

// What a prompt's sequence draws its samples from: a function of the seed, the prompt's id and the
// tokens of its first turn, so that a prompt gets the same samples in whatever batch and on
// whatever nodes it is answered, and two prompts of a file get different ones.
uint64_t SampleKeyOf(uint64_t seed, const Prompt& prompt);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_ENGINE_PROMPT_H_
