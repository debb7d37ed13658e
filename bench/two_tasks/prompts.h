// Evaluation prompts of the two_tasks test model (tests/models/two_tasks/README.md states the law).
//
// Both tasks need the whole context: recalling the value of one key among hundreds, and naming
// the most frequent word. Every prompt ends with a filler tail longer than a local window, then the
// query, so neither the window nor earlier answers help.
//
// Prompts are a pure function of (task, law, seed, index): the generator and every draw are our
// own, so that all standard libraries give the same prompts.

#ifndef SOUNDER_BENCH_TWO_TASKS_PROMPTS_H_
#define SOUNDER_BENCH_TWO_TASKS_PROMPTS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace sounder::bench {

enum class Task { kRecall, kWords };

// A contiguous range of token ids.
struct TokenRange {
  int32_t begin;
  int32_t end;  // One past the last.
  int32_t size() const { return end - begin; }
};

// The vocabulary of the model.
inline constexpr int32_t kBosToken = 0;
inline constexpr int32_t kRecallToken = 1;
inline constexpr int32_t kMostToken = 2;
inline constexpr TokenRange kFillerTokens{8, 72};
inline constexpr TokenRange kValueTokens{72, 136};
inline constexpr TokenRange kWordTokens{136, 200};
inline constexpr TokenRange kKeyTokens{200, 1224};

// Lengths count every token of the prompt.
struct PromptLaw {
  int length = 2048;            // The whole prompt, first and last token included.
  int tail = 96;                // Fillers between the context and the query.
  int pairs_per_1024 = 200;     // Recall: floor(pairs_per_1024 * length / 1024) pairs.
  double zipf_alpha = 0.8;      // Words: the word of rank r has weight r^-alpha.
  int min_active = 8;           // Words: the number of distinct words is uniform in
  int max_active = 40;          // [min_active, max_active].
  int max_filler_percent = 30;  // Words: the share of fillers is uniform in 0..this, in percent.
};

struct Prompt {
  std::string id;  // "recall-0"
  std::vector<int32_t> tokens;
  int32_t answer;  // The token that should follow.
};

const char* TaskName(Task task);

// Why no prompt of this law exists; empty when the law is good.
std::string LawError(Task task, const PromptLaw& law);

// Requires: LawError(task, law) is empty. The first prompts do not depend on `count`.
std::vector<Prompt> MakePrompts(Task task, const PromptLaw& law, int count, uint64_t seed);

}  // namespace sounder::bench

#endif  // SOUNDER_BENCH_TWO_TASKS_PROMPTS_H_
