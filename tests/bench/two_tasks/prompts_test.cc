// Prompts keep the law of tests/models/two_tasks/README.md.
#include "bench/two_tasks/prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

namespace sounder::bench {
namespace {

using ::testing::Each;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Le;
using Tokens = std::vector<int32_t>;

bool Within(TokenRange range, int32_t token) { return token >= range.begin && token < range.end; }

PromptLaw Law(int length, int tail) {
  PromptLaw law;
  law.length = length;
  law.tail = tail;
  return law;
}

const std::vector<PromptLaw>& Laws() {
  static const auto* const laws = new std::vector<PromptLaw>{
      Law(160, 48), Law(1024, 0), Law(1024, 96), Law(2048, 96), Law(2047, 1), Law(4096, 96)};
  return *laws;
}

// The context: between `<s>` and the tail, after checking those and the query of `query` tokens.
Tokens ContextOf(const Prompt& prompt, const PromptLaw& law, int query) {
  const Tokens& tokens = prompt.tokens;
  EXPECT_EQ(static_cast<int>(tokens.size()), law.length);
  EXPECT_EQ(tokens.front(), kBosToken);
  const auto tail = tokens.end() - query - law.tail;
  for (auto token = tail; token != tokens.end() - query; ++token) {
    EXPECT_TRUE(Within(kFillerTokens, *token)) << *token << " in the tail";
  }
  return {tokens.begin() + 1, tail};
}

struct RecallContext {
  std::map<int32_t, int32_t> pairs;
  std::map<int32_t, size_t> places;  // of the keys
  int fillers = 0;
};

RecallContext ReadRecall(const Tokens& context) {
  RecallContext read;
  for (size_t i = 0; i < context.size(); ++i) {
    if (Within(kFillerTokens, context[i])) {
      ++read.fillers;
      continue;
    }
    const int32_t key = context[i];
    EXPECT_TRUE(Within(kKeyTokens, key)) << key << " where a pair may begin";
    if (++i == context.size()) {
      ADD_FAILURE() << "a key without a value at the end";
      break;
    }
    EXPECT_TRUE(Within(kValueTokens, context[i])) << context[i] << " behind a key";
    EXPECT_TRUE(read.pairs.emplace(key, context[i]).second) << "key " << key << " twice";
    read.places[key] = i - 1;
  }
  return read;
}

TEST(PromptsTest, Recall) {
  for (const PromptLaw& law : Laws()) {
    SCOPED_TRACE(testing::Message() << "length " << law.length << ", tail " << law.tail);
    const int pairs = 200 * law.length / 1024;
    double place = 0;  // mean of the asked keys', over the context
    std::set<int32_t> answers;
    const std::vector<Prompt> prompts = MakePrompts(Task::kRecall, law, 64, 11);
    ASSERT_EQ(prompts.size(), 64u);
    for (const Prompt& prompt : prompts) {
      const Tokens context = ContextOf(prompt, law, 2);
      const RecallContext read = ReadRecall(context);
      EXPECT_EQ(static_cast<int>(read.pairs.size()), pairs);
      EXPECT_EQ(read.fillers, law.length - 3 - law.tail - 2 * pairs);
      EXPECT_EQ(prompt.tokens[prompt.tokens.size() - 2], kRecallToken);
      const int32_t asked = prompt.tokens.back();
      ASSERT_TRUE(read.pairs.contains(asked));
      EXPECT_EQ(prompt.answer, read.pairs.at(asked));
      answers.insert(prompt.answer);
      place += static_cast<double>(read.places.at(asked)) / static_cast<double>(context.size());
    }
    // Uniform: a standard error of .036, and 40 of 64 values where each is as likely.
    EXPECT_NEAR(place / 64, 0.5, 0.15);
    EXPECT_GT(answers.size(), 28u);
  }
}

// How often words occur, most frequent first.
std::vector<std::pair<int, int32_t>> CountWords(const Tokens& context) {
  std::map<int32_t, int> counts;
  for (const int32_t token : context) {
    EXPECT_TRUE(Within(kWordTokens, token) || Within(kFillerTokens, token)) << token;
    if (Within(kWordTokens, token)) ++counts[token];
  }
  std::vector<std::pair<int, int32_t>> sorted;
  for (const auto& [word, count] : counts) sorted.emplace_back(count, word);
  std::sort(sorted.rbegin(), sorted.rend());
  return sorted;
}

TEST(PromptsTest, Words) {
  for (const PromptLaw& law : Laws()) {
    SCOPED_TRACE(testing::Message() << "length " << law.length << ", tail " << law.tail);
    std::set<int32_t> answers;
    for (const Prompt& prompt : MakePrompts(Task::kWords, law, 64, 12)) {
      const Tokens context = ContextOf(prompt, law, 1);
      EXPECT_EQ(static_cast<int>(context.size()), law.length - 2 - law.tail);
      EXPECT_EQ(prompt.tokens.back(), kMostToken);
      const auto counts = CountWords(context);
      ASSERT_GE(counts.size(), 2u);
      EXPECT_EQ(prompt.answer, counts[0].second);
      EXPECT_GT(counts[0].first, counts[1].first) << "no word shares the first place";
      answers.insert(prompt.answer);
    }
    EXPECT_GT(answers.size(), 28u);
  }
}

// Over long prompts the shares are those of the law.
TEST(PromptsTest, WordsFollowTheirLaw) {
  const PromptLaw law = Law(4096, 96);
  std::vector<int> active;
  std::vector<double> fillers;
  double first = 0;
  double fourth = 0;
  for (const Prompt& prompt : MakePrompts(Task::kWords, law, 200, 13)) {
    const Tokens context = ContextOf(prompt, law, 1);
    const auto counts = CountWords(context);
    active.push_back(static_cast<int>(counts.size()));
    fillers.push_back(static_cast<double>(std::count_if(
                          context.begin(), context.end(),
                          [](int32_t token) { return Within(kFillerTokens, token); })) /
                      static_cast<double>(context.size()));
    first += counts[0].first;
    fourth += counts[3].first;
  }
  EXPECT_THAT(active, Each(testing::AllOf(Ge(8), Le(40))));
  EXPECT_LE(*std::min_element(active.begin(), active.end()), 9);
  EXPECT_GE(*std::max_element(active.begin(), active.end()), 39);
  EXPECT_THAT(fillers, Each(Le(0.34)));  // .3 and 5 standard deviations
  EXPECT_LT(*std::min_element(fillers.begin(), fillers.end()), 0.02);
  EXPECT_GT(*std::max_element(fillers.begin(), fillers.end()), 0.28);
  // Ranks 1 and 4 have weights 4^0.8 : 1 = 3.03; sorting by count moves that a little.
  EXPECT_NEAR(first / fourth, 3.03, 0.15);
}

bool SameTokens(const Prompt& a, const Prompt& b) {
  return a.id == b.id && a.tokens == b.tokens && a.answer == b.answer;
}

TEST(PromptsTest, AreAFunctionOfTheSeed) {
  for (const Task task : {Task::kRecall, Task::kWords}) {
    SCOPED_TRACE(TaskName(task));
    const PromptLaw law = Law(512, 48);
    const std::vector<Prompt> prompts = MakePrompts(task, law, 8, 1);
    const std::vector<Prompt> more = MakePrompts(task, law, 20, 1);
    const std::vector<Prompt> others = MakePrompts(task, law, 8, 2);
    std::set<Tokens> different;
    for (size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(prompts[i].id, std::string(TaskName(task)) + "-" + std::to_string(i));
      EXPECT_TRUE(SameTokens(prompts[i], more[i])) << i;
      different.insert(prompts[i].tokens);
      different.insert(others[i].tokens);
    }
    EXPECT_EQ(different.size(), 16u);
  }
}

// The accuracy of the model is stated for these: whoever changes them measures again.
TEST(PromptsTest, AreTheOnesTheModelWasMeasuredWith) {
  const auto digest = [](Task task) {
    uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a over the token ids
    for (const Prompt& prompt : MakePrompts(task, PromptLaw(), 512, 2001)) {
      for (const int32_t token : prompt.tokens) {
        hash = (hash ^ static_cast<uint32_t>(token)) * 0x100000001b3u;
      }
    }
    return hash;
  };
  EXPECT_EQ(digest(Task::kRecall), 16808508815426085070u);
  EXPECT_EQ(digest(Task::kWords), 16737792192591060267u);
}

TEST(PromptsTest, RefusesLawsThatNoPromptCanKeep) {
  for (const PromptLaw& law : Laws()) {
    EXPECT_THAT(LawError(Task::kRecall, law), IsEmpty());
    EXPECT_THAT(LawError(Task::kWords, law), IsEmpty());
  }
  EXPECT_THAT(LawError(Task::kRecall, Law(5, 0)), HasSubstr("no pair"));
  EXPECT_THAT(LawError(Task::kRecall, Law(8192, 96)), HasSubstr("more pairs than keys"));
  EXPECT_THAT(LawError(Task::kRecall, Law(160, 130)), HasSubstr("exceed the length"));
  EXPECT_THAT(LawError(Task::kWords, Law(98, 96)), HasSubstr("no context"));
  for (const Task task : {Task::kRecall, Task::kWords}) {
    EXPECT_THAT(LawError(task, Law(2048, -1)), HasSubstr("negative"));
  }
  PromptLaw law;
  law.max_active = 65;
  EXPECT_THAT(LawError(Task::kWords, law), HasSubstr("active"));
  law = PromptLaw();
  law.max_filler_percent = 100;
  EXPECT_THAT(LawError(Task::kWords, law), HasSubstr("filler share"));
  law = PromptLaw();
  law.zipf_alpha = -0.1;
  EXPECT_THAT(LawError(Task::kWords, law), HasSubstr("alpha"));
}

}  // namespace
}  // namespace sounder::bench
