// A worker that stops in the middle of whatever it does, and another that goes on with its session.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "common/base/limits.h"
#include "common/base/virtual_executor.h"
#include "gpu_worker/engine/conversation.h"
#include "tests/cluster/local_cluster.h"
#include "tests/gpu_worker/engine/golden_run.h"

namespace sounder::gpu_worker {
namespace {

using ::testing::HasSubstr;

constexpr int kTurns = 3;
constexpr int kAnswer = 6;

class AdoptTest : public testing::Test {
 protected:
  AdoptTest() {
    tests::LocalClusterOptions options;
    options.nodes = 2;
    options.client.deadline = options.control_deadline = std::chrono::seconds(2);
    cluster_ = std::make_unique<tests::LocalCluster>(options, &executor_);
    Use(LayerMode::kExact);
    prompt_.id = "p";
    prompt_.in_turns = true;
    for (int i = 0; i < kTurns; ++i) {
      Turn& turn = i == 0 ? prompt_ : prompt_.later_turns.emplace_back();
      for (int t = 0; t < 30 - 7 * i; ++t) turn.tokens.push_back((11 * i + 5 * t) % 83);
      turn.forced.emplace();  // no end of sequence
      turn.max_tokens = kAnswer;
    }
  }
  void Use(LayerMode mode) {
    options_ = GoldenOptions(*golden_.model, mode, base::DType::kBF16, 16);
    options_.session.shard_rows = 16;
    options_.session.min_indexed_rows = 8;
    AddIndex(mode, &options_);
  }
  // What a worker leaves that ends after so many steps over all turns. `wait`: when the nodes have
  // all it sent.
  base::SessionId Leave(const Prompt& prompt, int steps, bool wait = true) {
    SequenceRunner runner(options_, golden_.model.get(), &cluster_->client(), &executor_.clock());
    auto sequence = runner.Open({}, SampleKeyOf(options_.seed, prompt));
    EXPECT_TRUE(sequence.ok()) << sequence.status();
    Sequence* const alone[] = {sequence->get()};
    const std::shared_ptr<RemoteSession> session = alone[0]->session;
    int done = 0;
    for (size_t turn = 0; turn <= prompt.later_turns.size(); ++turn) {
      runner.BeginTurn(alone[0], turn == 0 ? prompt : prompt.later_turns[turn - 1]);
      EXPECT_TRUE(runner.Prefill(alone[0]).ok());
      while (!runner.TurnEnded(*alone[0]) && done < steps) {
        EXPECT_TRUE(runner.Decode(alone, nullptr).ok());
        ++done;
      }
      if (done == steps) break;
    }
    EXPECT_TRUE(alone[0]->status.ok()) << alone[0]->status;
    if (wait) {
      EXPECT_TRUE(cluster_->client().WaitAppended(session.get(), base::kMaxPositions).ok());
    }
    return session->id();
  }
  GoldenRun Run(const Prompt& prompt) {
    return Generate(options_, golden_.model.get(), &cluster_->client(), {prompt});
  }
  GoldenRun GoOn(const base::SessionId& id, Prompt prompt) {
    prompt.adopt = id;
    return Run(prompt);
  }

  base::VirtualExecutor executor_{1};
  std::unique_ptr<tests::LocalCluster> cluster_;
  GoldenModel golden_{"gqa_untied"};
  GeneratorOptions options_;
  Prompt prompt_;
};

// After every step: the same tokens, and the same logits bit for bit of the steps that are left,
// one of which the other worker had done.
TEST_F(AdoptTest, GoesOnAsIfNothingHadBeen) {
  for (const LayerMode mode : {LayerMode::kExact, LayerMode::kLsh}) {
    for (const bool local_layer : {false, true}) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(mode) << local_layer);
      Use(mode);
      if (local_layer) options_.attention.layers[0] = LayerMode::kExactLocal;
      const GoldenRun undisturbed = Run(prompt_);
      const auto& logits = undisturbed.logits.at("p");
      ASSERT_EQ(logits.size(), size_t{kTurns * kAnswer});
      for (int steps = 0; steps < kTurns * kAnswer; ++steps) {
        SCOPED_TRACE(steps);
        const GoldenRun run = GoOn(Leave(prompt_, steps), prompt_);
        ASSERT_TRUE(run.statuses.at("p").ok()) << run.statuses.at("p");
        EXPECT_EQ(run.tokens.at("p"), undisturbed.tokens.at("p"));
        const auto& rest = run.logits.at("p");
        const int left = kTurns * kAnswer - std::max(steps - 1, 0);
        ASSERT_EQ(static_cast<int>(rest.size()), left);
        EXPECT_TRUE(std::equal(rest.begin(), rest.end(), logits.end() - left));
        EXPECT_EQ(cluster_->Sessions(), 0u);
        EXPECT_EQ(cluster_->MemoryUsed(), 0u);
      }
    }
  }
}

// Also from what was in flight when it ended, of which the nodes may have more or less.
TEST_F(AdoptTest, AppendsInFlightAreDoneOrNot) {
  const GoldenRun undisturbed = Run(prompt_);
  for (int steps = 0; steps < kTurns * kAnswer; ++steps) {
    SCOPED_TRACE(steps);
    const GoldenRun run = GoOn(Leave(prompt_, steps, /*wait=*/false), prompt_);
    ASSERT_TRUE(run.statuses.at("p").ok()) << run.statuses.at("p");
    EXPECT_EQ(run.tokens.at("p"), undisturbed.tokens.at("p"));
  }
}

// In a prompt, of the first turn or a later one: what there is of it is not computed again.
TEST_F(AdoptTest, GoesOnInAPrompt) {
  const GoldenRun undisturbed = Run(prompt_);
  for (const size_t rows : {1, 10, 17, 29}) {
    SCOPED_TRACE(rows);
    Prompt begun = prompt_;
    begun.later_turns.clear();
    begun.max_tokens = 0;
    begun.tokens.resize(rows + 1);
    EXPECT_EQ(GoOn(Leave(begun, 0), prompt_).tokens.at("p"), undisturbed.tokens.at("p"));
    begun = prompt_;
    begun.later_turns.resize(1);
    begun.later_turns[0].tokens.resize(std::min<size_t>(rows, 23));
    begun.later_turns[0].max_tokens = 0;
    EXPECT_EQ(GoOn(Leave(begun, kAnswer + 1), prompt_).tokens.at("p"), undisturbed.tokens.at("p"));
  }
  EXPECT_EQ(cluster_->Sessions(), 0u);
}

TEST_F(AdoptTest, SketchesGoOnWithoutHints) {
  Use(LayerMode::kSketch);
  const GoldenRun run = GoOn(Leave(prompt_, 9), prompt_);
  EXPECT_TRUE(run.statuses.at("p").ok()) << run.statuses.at("p");
  EXPECT_GT(run.counts.at("p").rows_read, 0u);
}

// A wrong word takes nothing from whoever has the right one.
TEST_F(AdoptTest, WhatDoesNotFitIsRefusedAndLeft) {
  const GoldenRun undisturbed = Run(prompt_);
  const base::SessionId id = Leave(prompt_, 8);
  const auto refused = [&](const Prompt& prompt) {
    const absl::Status status = GoOn(id, prompt).statuses.at("p");
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_EQ(cluster_->Sessions(), 2u);
    return status.ToString();
  };
  Prompt other = prompt_;
  other.tokens[7] = 3;
  EXPECT_THAT(refused(other), HasSubstr("at position 7 it has token 35, the prompt has 3"));
  other = prompt_;
  other.later_turns[0].tokens[0] = 3;
  EXPECT_THAT(refused(other), HasSubstr("at position 36 it has token 11, the prompt has 3"));
  other = prompt_;
  other.forced = {80};
  EXPECT_THAT(refused(other), HasSubstr("the prompt has 80"));
  const GeneratorOptions right = options_;
  options_.attention.dtype = base::DType::kF32;
  EXPECT_THAT(refused(prompt_), HasSubstr("--dtype"));
  Use(LayerMode::kLsh);
  EXPECT_THAT(Run(prompt_).status.ToString(), HasSubstr("OK"));
  const absl::Status no_index = GoOn(id, prompt_).statuses.at("p");
  EXPECT_THAT(no_index.ToString(), HasSubstr("no LSH tables"));
  options_ = right;
  options_.session.model.weights_digest = "another";
  EXPECT_THAT(refused(prompt_), HasSubstr("another one"));
  options_ = right;
  EXPECT_EQ(GoOn({5, 5}, prompt_).statuses.at("p").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(GoOn(id, prompt_).tokens.at("p"), undisturbed.tokens.at("p"));
  EXPECT_EQ(cluster_->Sessions(), 0u);
}

// The turns that were answered are one; the next is answered as it would have been.
TEST_F(AdoptTest, AConversationGoesOn) {
  const GoldenRun undisturbed = Run(prompt_);
  const base::SessionId id = Leave(prompt_, 2 * kAnswer);
  {
    // The last turn's prompt was not computed: a worker that waited for somebody to say it.
    Prompt two = prompt_;
    two.later_turns.resize(1);
    const base::SessionId waiting = Leave(two, 2 * kAnswer);
    Conversation conversation(options_, golden_.model.get(), &cluster_->client(),
                              &executor_.clock());
    ASSERT_TRUE(conversation.Adopt(waiting).ok());
    EXPECT_EQ(conversation.session(), waiting);
    EXPECT_EQ(conversation.turns(), 1);
    EXPECT_EQ(conversation.tokens().size(), 30u + 23 + 2 * kAnswer);
    EXPECT_TRUE(conversation.Say(prompt_.later_turns[1], [](std::span<const int32_t>) {}).ok());
    EXPECT_EQ(conversation.figures().recomputed, 0);
    EXPECT_TRUE(std::equal(conversation.tokens().begin(), conversation.tokens().end(),
                           undisturbed.tokens.at("p").begin(), undisturbed.tokens.at("p").end()));
    const size_t end = conversation.tokens().size();
    ASSERT_TRUE(conversation.Undo().ok());
    EXPECT_TRUE(conversation.Say(prompt_.later_turns[1], [](std::span<const int32_t>) {}).ok());
    EXPECT_EQ(conversation.tokens().size(), end);
    EXPECT_EQ(conversation.tokens().back(), undisturbed.tokens.at("p").back());
  }
  Conversation conversation(options_, golden_.model.get(), &cluster_->client(), &executor_.clock());
  EXPECT_EQ(conversation.Adopt({5, 5}).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(conversation.session().empty());
  ASSERT_TRUE(conversation.Adopt(id).ok());
}

}  // namespace
}  // namespace sounder::gpu_worker
