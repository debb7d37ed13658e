#include "bench/two_tasks/prompts.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <utility>

namespace sounder::bench {
namespace {

// SplitMix64 with bounded draws.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  // Uniform in [0, bound): draws beyond the largest multiple of `bound` are rejected.
  int32_t Below(int32_t bound) {
    const uint64_t size = static_cast<uint64_t>(bound);
    const uint64_t excess = (UINT64_MAX % size + 1) % size;
    uint64_t draw = Next();
    while (draw > UINT64_MAX - excess) draw = Next();
    return static_cast<int32_t>(draw % size);
  }

  int32_t Pick(TokenRange range) { return range.begin + Below(range.size()); }

  // Uniform in [0, 1), 53 bits.
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

  // Moves a uniformly random choice of `count` elements, in random order, to the front.
  template <typename T>
  void Shuffle(std::vector<T>& items, int count) {
    const int size = static_cast<int>(items.size());
    for (int i = 0; i < count; ++i) std::swap(items[i], items[i + Below(size - i)]);
  }

  // `count` distinct tokens of `range`, in random order.
  std::vector<int32_t> Sample(TokenRange range, int count) {
    std::vector<int32_t> tokens(range.size());
    std::iota(tokens.begin(), tokens.end(), range.begin);
    Shuffle(tokens, count);
    tokens.resize(count);
    return tokens;
  }

 private:
  uint64_t state_;
};

Random PromptRandom(Task task, uint64_t seed, int index) {
  Random random(seed);
  const uint64_t stream = Random(random.Next() ^ static_cast<uint64_t>(task)).Next();
  return Random(stream + Random(static_cast<uint64_t>(index)).Next());
}

int NumPairs(const PromptLaw& law) {
  return static_cast<int>(static_cast<int64_t>(law.pairs_per_1024) * law.length / 1024);
}

// Tokens of a recall prompt that are neither pairs nor tail: the first, the query, its key.
constexpr int kRecallFrame = 3;
// The same for a words prompt: the first and the query.
constexpr int kWordsFrame = 2;

void AppendFillers(Random& random, int count, std::vector<int32_t>& tokens) {
  for (int i = 0; i < count; ++i) tokens.push_back(random.Pick(kFillerTokens));
}

void MakeRecall(Random& random, const PromptLaw& law, Prompt& prompt) {
  const int pairs = NumPairs(law);
  const int fillers = law.length - kRecallFrame - law.tail - 2 * pairs;
  const std::vector<int32_t> keys = random.Sample(kKeyTokens, pairs);
  std::vector<int32_t> values(pairs);
  for (int32_t& value : values) value = random.Pick(kValueTokens);
  std::vector<char> is_pair(pairs + fillers, 0);
  std::fill_n(is_pair.begin(), pairs, 1);
  random.Shuffle(is_pair, pairs + fillers);

  prompt.tokens.push_back(kBosToken);
  int next = 0;
  for (const char pair : is_pair) {
    if (pair != 0) {
      prompt.tokens.push_back(keys[next]);
      prompt.tokens.push_back(values[next]);
      ++next;
    } else {
      prompt.tokens.push_back(random.Pick(kFillerTokens));
    }
  }
  AppendFillers(random, law.tail, prompt.tokens);
  const int asked = random.Below(pairs);
  prompt.tokens.push_back(kRecallToken);
  prompt.tokens.push_back(keys[asked]);
  prompt.answer = values[asked];
}

// Cumulative weights of the ranks 1..size.
std::vector<double> ZipfLadder(int size, double alpha) {
  std::vector<double> ladder(size);
  double total = 0.0;
  for (int rank = 1; rank <= size; ++rank) {
    total += std::pow(rank, -alpha);
    ladder[rank - 1] = total;
  }
  return ladder;
}

// The most frequent word of `tokens`, or -1 when two words share the first place.
int32_t UniqueWinner(const std::vector<int32_t>& tokens) {
  std::vector<int> counts(kWordTokens.size(), 0);
  for (const int32_t token : tokens) {
    if (token >= kWordTokens.begin && token < kWordTokens.end) ++counts[token - kWordTokens.begin];
  }
  const auto best = std::max_element(counts.begin(), counts.end());
  if (std::count(counts.begin(), counts.end(), *best) != 1) return -1;
  return kWordTokens.begin + static_cast<int32_t>(best - counts.begin());
}

void MakeWords(Random& random, const PromptLaw& law, Prompt& prompt) {
  const int size = law.length - kWordsFrame - law.tail;
  prompt.answer = -1;
  while (prompt.answer < 0) {
    const int active = law.min_active + random.Below(law.max_active - law.min_active + 1);
    const std::vector<int32_t> words = random.Sample(kWordTokens, active);
    const std::vector<double> ladder = ZipfLadder(active, law.zipf_alpha);
    const int filler_percent = random.Below(law.max_filler_percent + 1);
    prompt.tokens.assign(1, kBosToken);
    for (int i = 0; i < size; ++i) {
      if (random.Below(100) < filler_percent) {
        prompt.tokens.push_back(random.Pick(kFillerTokens));
        continue;
      }
      const double height = random.Unit() * ladder.back();
      const auto rank = std::upper_bound(ladder.begin(), ladder.end() - 1, height);
      prompt.tokens.push_back(words[rank - ladder.begin()]);
    }
    prompt.answer = UniqueWinner(prompt.tokens);
  }
  AppendFillers(random, law.tail, prompt.tokens);
  prompt.tokens.push_back(kMostToken);
}

}  // namespace

const char* TaskName(Task task) { return task == Task::kRecall ? "recall" : "words"; }

std::string LawError(Task task, const PromptLaw& law) {
  if (law.tail < 0) return "the tail is negative";
  if (task == Task::kRecall) {
    const int pairs = NumPairs(law);
    if (pairs < 1) return "no pair fits the length";
    if (pairs > kKeyTokens.size()) return "more pairs than keys (1024)";
    if (kRecallFrame + law.tail + 2 * pairs > law.length) return "pairs and tail exceed the length";
    return "";
  }
  if (law.length - kWordsFrame - law.tail < 1) return "the tail leaves no context";
  if (law.min_active < 1 || law.min_active > law.max_active ||
      law.max_active > kWordTokens.size()) {
    return "the active words must be within 1..64";
  }
  if (law.max_filler_percent < 0 || law.max_filler_percent > 99) {
    return "the filler share must be within 0..99 percent";
  }
  if (!(law.zipf_alpha >= 0.0 && law.zipf_alpha <= 10.0)) return "alpha must be within 0..10";
  return "";
}

std::vector<Prompt> MakePrompts(Task task, const PromptLaw& law, int count, uint64_t seed) {
  assert(LawError(task, law).empty());
  std::vector<Prompt> prompts(count);
  for (int i = 0; i < count; ++i) {
    Random random = PromptRandom(task, seed, i);
    prompts[i].id = std::string(TaskName(task)) + "-" + std::to_string(i);
    prompts[i].tokens.reserve(law.length);
    if (task == Task::kRecall) {
      MakeRecall(random, law, prompts[i]);
    } else {
      MakeWords(random, law, prompts[i]);
    }
  }
  return prompts;
}

}  // namespace sounder::bench
