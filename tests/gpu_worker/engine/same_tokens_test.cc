// Conversations of three turns with the trained test model: the same tokens as when everything up
// to an answer is given at once, to one machine.
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/two_tasks/prompts.h"
#include "common/base/check.h"
#include "common/base/virtual_executor.h"
#include "gpu_worker/engine/generator.h"
#include "gpu_worker/ops/ops_cpu.h"
#include "tests/cluster/local_cluster.h"

namespace sounder::gpu_worker {
namespace {

constexpr int kConversations = 24;
constexpr int64_t kAnswer = 4;  // tokens of each

// Recall, recall, words; every turn is longer than the window.
std::vector<Prompt> Conversations(std::vector<int32_t>* expected) {
  using bench::Task;
  const bench::PromptLaw laws[] = {
      {.length = 220, .tail = 40}, {.length = 130, .tail = 20}, {.length = 170, .tail = 30}};
  const auto first = bench::MakePrompts(Task::kRecall, laws[0], kConversations, 11);
  const auto second = bench::MakePrompts(Task::kRecall, laws[1], kConversations, 12);
  const auto third = bench::MakePrompts(Task::kWords, laws[2], kConversations, 13);
  std::vector<Prompt> prompts;
  for (int i = 0; i < kConversations; ++i) {
    const auto at = static_cast<size_t>(i);
    Prompt& prompt = prompts.emplace_back();
    prompt.id = absl::StrCat(i);
    prompt.tokens = first[at].tokens;
    prompt.max_tokens = kAnswer;
    for (const bench::Prompt& turn : {second[at], third[at]}) {
      Turn& later = prompt.later_turns.emplace_back();
      later.tokens.assign(turn.tokens.begin() + 1, turn.tokens.end());  // without the first token
      later.max_tokens = kAnswer;
    }
    expected->push_back(first[at].answer);
  }
  return prompts;
}

struct Answer {
  std::vector<int32_t> before;  // all tokens up to it
  std::vector<int32_t> tokens;
  uint64_t rows_on_nodes = 0;  // read while its turn was prefilled
};
using Answers = std::map<std::pair<std::string, int64_t>, Answer>;  // by id and turn

class SameTokensTest : public testing::TestWithParam<base::DType> {
 protected:
  SameTokensTest() : ops_(*MakeCpuOps({.threads = 1})) {
    auto model = LlamaModel::Load("tests/models/two_tasks", ops_.get());
    CHECK(model.ok()) << model.status().ToString();
    model_ = *std::move(model);
  }

  GeneratorOptions Options(LayerMode mode) const {
    GeneratorOptions options;
    options.attention.dtype = GetParam();
    options.attention.sinks = 4;
    options.attention.window = 32;
    options.attention.layers.assign(static_cast<size_t>(model_->config().num_layers), mode);
    options.session.model = IdentityOf(*model_, "two_tasks");
    options.session.seal_rows = 64;
    options.session.min_indexed_rows = 32;
    options.prefill_tokens = 100;
    return options;
  }

  Answers Run(const GeneratorOptions& options, KvClient* client, std::vector<Prompt> prompts) {
    Answers answers;
    const base::SteadyClock clock;
    Generator generator(options, model_.get(), client, &clock);
    const absl::Status ran = generator.Run(std::move(prompts), [&](const Sequence& sequence) {
      EXPECT_TRUE(sequence.status.ok()) << sequence.id << ": " << sequence.status;
      const auto end = sequence.tokens.begin() + static_cast<int64_t>(sequence.prompt_tokens);
      answers[{sequence.id, sequence.turn}] = {{sequence.tokens.begin(), end},
                                               {end, sequence.tokens.end()},
                                               sequence.counts.prefill_rows_loaded};
    });
    EXPECT_TRUE(ran.ok()) << ran;
    return answers;
  }

  // What one machine answers to everything up to each answer, given at once.
  Answers OneShot(const Answers& conversations) {
    std::vector<Prompt> prompts;
    for (const auto& [name, answer] : conversations) {
      Prompt& prompt = prompts.emplace_back();
      prompt.id = absl::StrCat(name.first, "/", name.second);
      prompt.tokens = answer.before;
      prompt.max_tokens = kAnswer;
    }
    return Run(Options(LayerMode::kExactLocal), nullptr, std::move(prompts));
  }

  const std::unique_ptr<Ops> ops_;
  std::unique_ptr<LlamaModel> model_;
};

TEST_P(SameTokensTest, ThreeTurnsAndOneShot) {
  std::vector<int32_t> expected;
  const std::vector<Prompt> prompts = Conversations(&expected);
  struct Layout {
    const char* name;
    int nodes;
    int64_t shard_rows;
    int head_shards;
    int64_t batch;
    int64_t prefill_tokens;
    int64_t prefill_local_rows;
  };
  const Layout layouts[] = {
      {"1 node, alone", 1, 0, 1, 1, 100, 0},
      {"2 nodes by range, batch 5", 2, 64, 1, 5, 64, 0},
      {"2 nodes by head, batch 8, first turn in blocks too", 2, 0, 2, 8, 33, 50},
      {"3 nodes by both, batch 24", 3, 128, 2, 24, 512, 0},
  };
  Answers one_shot;
  for (const Layout& layout : layouts) {
    SCOPED_TRACE(layout.name);
    if (GetParam() == base::DType::kBF16 && layout.nodes == 2) continue;
    base::VirtualExecutor executor(1);
    tests::LocalClusterOptions cluster_options;
    cluster_options.nodes = layout.nodes;
    tests::LocalCluster cluster(cluster_options, &executor);
    GeneratorOptions options = Options(LayerMode::kExact);
    options.session.shard_rows = layout.shard_rows;
    options.session.head_shards = layout.head_shards;
    options.batch = layout.batch;
    options.prefill_tokens = layout.prefill_tokens;
    options.prefill_local_rows = layout.prefill_local_rows;
    const Answers answers = Run(options, &cluster.client(), prompts);
    ASSERT_EQ(answers.size(), size_t{3 * kConversations});
    if (one_shot.empty()) one_shot = OneShot(answers);
    int same = 0;
    int right = 0;
    for (const auto& [name, answer] : answers) {
      const Answer& other = one_shot.at({absl::StrCat(name.first, "/", name.second), 1});
      EXPECT_EQ(answer.before, other.before) << name.first << ", turn " << name.second;
      EXPECT_EQ(answer.tokens, other.tokens) << name.first << ", turn " << name.second;
      same += answer.tokens == other.tokens ? 1 : 0;
      if (name.second == 1) {
        const auto number = static_cast<size_t>(std::stoi(name.first));
        right += answer.tokens.at(0) == expected[number] ? 1 : 0;
      }
      EXPECT_EQ(answer.rows_on_nodes > 0, name.second > 1 || layout.prefill_local_rows > 0);
    }
    std::printf("three-turn conversations, %s: %d of %d answers the same tokens as one-shot\n",
                layout.name, same, 3 * kConversations);
    EXPECT_GE(right, kConversations - 2) << "the model answers the first turn";
    EXPECT_EQ(cluster.Sessions(), 0u);
    EXPECT_EQ(cluster.MemoryUsed(), 0u);
  }
}

// Negative control: a turn that begins one token later, or a token less seen, gives other tokens.
TEST_P(SameTokensTest, AnotherTokenIsNoticed) {
  if (GetParam() == base::DType::kBF16) GTEST_SKIP() << "once is enough";
  std::vector<int32_t> expected;
  std::vector<Prompt> prompts = Conversations(&expected);
  const Answers right = Run(Options(LayerMode::kExactLocal), nullptr, prompts);
  for (Prompt& prompt : prompts) prompt.tokens.erase(prompt.tokens.begin() + 1);
  for (Prompt& prompt : prompts) prompt.tokens.back() = prompt.tokens[5];
  const Answers wrong = Run(Options(LayerMode::kExactLocal), nullptr, prompts);
  int same = 0;
  for (const auto& [name, answer] : right) same += answer.tokens == wrong.at(name).tokens ? 1 : 0;
  std::printf("control: %d of %d the same\n", same, 3 * kConversations);
  EXPECT_LT(same, 2 * kConversations);
}

INSTANTIATE_TEST_SUITE_P(DTypes, SameTokensTest,
                         testing::Values(base::DType::kF32, base::DType::kBF16),
                         [](const auto& test) {
                           return test.param == base::DType::kF32 ? "f32" : "bf16";
                         });

}  // namespace
}  // namespace sounder::gpu_worker
