// A conversation over a cluster: what is said to it when, what is undone, what fails.
#include "gpu_worker/engine/conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <vector>

#include "common/base/virtual_executor.h"
#include "tests/cluster/local_cluster.h"
#include "tests/gpu_worker/engine/golden_run.h"

namespace sounder::gpu_worker {
namespace {

using ::testing::HasSubstr;

class ConversationTest : public testing::Test {
 protected:
  ConversationTest() {
    tests::LocalClusterOptions options;
    options.nodes = 2;
    options.client.deadline = options.control_deadline = std::chrono::seconds(2);
    cluster_ = std::make_unique<tests::LocalCluster>(options, &executor_);
    options_ = GoldenOptions(*golden_.model, LayerMode::kExact, base::DType::kF32, 16);
    options_.session.shard_rows = 16;
    options_.measure_nodes = true;
    options_.stop = &stop_;
    for (int i = 0; i < 3; ++i) {
      Turn& turn = turns_.emplace_back();
      for (int t = 0; t < 30 - 7 * i; ++t) turn.tokens.push_back((11 * i + 5 * t) % 83);
      turn.forced.emplace();  // no end of sequence
      turn.max_tokens = 6;
    }
  }
  std::unique_ptr<Conversation> Begin() {
    return std::make_unique<Conversation>(options_, golden_.model.get(), &cluster_->client(),
                                          &executor_.clock());
  }
  // Says a turn, which is answered; the answer.
  std::vector<int32_t> Say(Conversation& conversation, const Turn& turn) {
    std::vector<int32_t> answer;
    size_t calls = 0;
    const absl::Status status = conversation.Say(turn, [&](std::span<const int32_t> generated) {
      ++calls;
      EXPECT_EQ(generated.size(), calls);
      answer.assign(generated.begin(), generated.end());
    });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(conversation.figures().generated, static_cast<int64_t>(answer.size()));
    return answer;
  }
  void ExpectNothingLeft() {
    EXPECT_EQ(cluster_->Sessions(), 0u);
    EXPECT_EQ(cluster_->MemoryUsed(), 0u);
  }

  base::VirtualExecutor executor_{1};
  std::unique_ptr<tests::LocalCluster> cluster_;
  GoldenModel golden_{"gqa_untied"};
  std::atomic<bool> stop_ = false;
  GeneratorOptions options_;
  std::vector<Turn> turns_;
};

TEST_F(ConversationTest, EqualsAPromptOfTurns) {
  Prompt prompt;
  static_cast<Turn&>(prompt) = turns_[0];
  prompt.id = "p";
  prompt.later_turns = {turns_[1], turns_[2]};
  const GoldenRun run = Generate(options_, golden_.model.get(), &cluster_->client(), {prompt});
  {
    const auto conversation = Begin();
    for (const Turn& turn : turns_) EXPECT_EQ(Say(*conversation, turn).size(), 6u);
    EXPECT_EQ(std::vector<int32_t>(conversation->tokens().begin(), conversation->tokens().end()),
              run.tokens.at("p"));
    EXPECT_EQ(conversation->turns(), 3);
    EXPECT_EQ(cluster_->Sessions(), 2u) << "open on both nodes between turns";
    EXPECT_GT(conversation->figures().node_memory, 0u);
    EXPECT_GT(conversation->figures().attend_bytes, 0u);
    EXPECT_EQ(conversation->figures().recomputed, 0);
  }
  ExpectNothingLeft();
}

TEST_F(ConversationTest, UndoAndReset) {
  const auto conversation = Begin();
  EXPECT_EQ(conversation->Undo().code(), absl::StatusCode::kFailedPrecondition);
  const std::vector<int32_t> first = Say(*conversation, turns_[0]);
  const std::vector<int32_t> second = Say(*conversation, turns_[1]);
  const size_t tokens = conversation->tokens().size();
  Say(*conversation, turns_[2]);
  ASSERT_TRUE(conversation->Undo().ok());
  EXPECT_EQ(conversation->tokens().size(), tokens);
  ASSERT_TRUE(conversation->Undo().ok());
  EXPECT_EQ(conversation->turns(), 1);
  EXPECT_EQ(cluster_->Sessions(), 2u) << "the session goes on";
  EXPECT_FALSE(conversation->recomputes());
  EXPECT_EQ(Say(*conversation, turns_[1]), second);
  EXPECT_EQ(conversation->figures().recomputed, 0);
  ASSERT_TRUE(conversation->Undo().ok());
  ASSERT_TRUE(conversation->Undo().ok());
  EXPECT_EQ(conversation->turns(), 0);
  ExpectNothingLeft();
  EXPECT_EQ(Say(*conversation, turns_[0]), first);
  conversation->Reset();
  ExpectNothingLeft();
  EXPECT_EQ(Say(*conversation, turns_[0]), first);
  EXPECT_EQ(conversation->figures().recomputed, 0);
  EXPECT_TRUE(conversation->TakeCloseFailure().ok());
}

// Another turn is answered as if the one that was undone had never been: the same rows are read,
// and nothing is computed for undoing it.
TEST_F(ConversationTest, UndoneTurnsWereNever) {
  for (const LayerMode mode : {LayerMode::kExact, LayerMode::kLsh, LayerMode::kSketch}) {
    for (const bool local_layer : {false, true}) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(mode) << local_layer);
      options_ = GoldenOptions(*golden_.model, mode, base::DType::kBF16, 16);
      options_.session.shard_rows = 16;
      options_.session.min_indexed_rows = 8;
      AddIndex(mode, &options_);
      if (local_layer) options_.attention.layers[0] = LayerMode::kExactLocal;
      const auto fresh = Begin();
      Say(*fresh, turns_[0]);
      const std::vector<int32_t> expected = Say(*fresh, turns_[2]);
      const auto undone = Begin();
      Say(*undone, turns_[0]);
      Say(*undone, turns_[1]);
      const uint64_t asked = cluster_->client().counters().attend_bytes_sent;
      ASSERT_TRUE(undone->Undo().ok());
      EXPECT_EQ(cluster_->client().counters().attend_bytes_sent, asked);
      EXPECT_EQ(Say(*undone, turns_[2]), expected);
      const TurnFigures& figures = undone->figures();
      EXPECT_EQ(figures.recomputed, 0);
      EXPECT_EQ(figures.counts.rows_read, fresh->figures().counts.rows_read);
      EXPECT_EQ(figures.counts.prefill_rows_loaded, fresh->figures().counts.prefill_rows_loaded);
    }
  }
}

TEST_F(ConversationTest, WhereTheNodesLostItUndoComputesAgain) {
  const auto conversation = Begin();
  Say(*conversation, turns_[0]);
  const std::vector<int32_t> second = Say(*conversation, turns_[1]);
  Say(*conversation, turns_[2]);
  for (int node = 0; node < 2; ++node) {
    cluster_->Kill(node);
    cluster_->Restart(node);
  }
  ASSERT_TRUE(conversation->Undo().ok());
  EXPECT_TRUE(conversation->recomputes());
  ASSERT_TRUE(conversation->Undo().ok());
  EXPECT_EQ(Say(*conversation, turns_[1]), second);
  EXPECT_EQ(conversation->figures().recomputed, 36);
  // From then on it goes on as any other.
  Say(*conversation, turns_[2]);
  ASSERT_TRUE(conversation->Undo().ok());
  ASSERT_TRUE(conversation->Undo().ok());
  EXPECT_EQ(Say(*conversation, turns_[1]), second);
  EXPECT_EQ(conversation->figures().recomputed, 0);
}

// Also where the turn before it was stopped before anything was computed.
TEST_F(ConversationTest, UndoGoesBackToATurnWithoutRows) {
  const auto conversation = Begin();
  stop_ = true;
  EXPECT_FALSE(conversation->Say(turns_[0], nullptr).ok()) << "no session yet";
  stop_ = false;
  std::vector<int32_t> first;
  EXPECT_EQ(conversation
                ->Say(turns_[0],
                      [&](std::span<const int32_t> generated) {
                        first.assign(generated.begin(), generated.end());
                        stop_ = true;
                      })
                .code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(conversation->Say(turns_[1], nullptr).code(), absl::StatusCode::kCancelled);
  stop_ = false;
  Say(*conversation, turns_[2]);
  ASSERT_TRUE(conversation->Undo().ok());
  ASSERT_TRUE(conversation->Undo().ok());
  EXPECT_EQ(conversation->turns(), 1);
  EXPECT_EQ(conversation->tokens().size(), 31u);
  const std::vector<int32_t> answer = Say(*conversation, turns_[2]);
  EXPECT_EQ(conversation->figures().recomputed, 0);
  Prompt at_once;
  at_once.id = "all";
  at_once.forced.emplace();
  at_once.max_tokens = 6;
  at_once.tokens.assign(conversation->tokens().begin(), conversation->tokens().end() - 6);
  const GoldenRun run = Generate(options_, golden_.model.get(), &cluster_->client(), {at_once});
  EXPECT_EQ(std::vector<int32_t>(run.tokens.at("all").end() - 6, run.tokens.at("all").end()),
            answer);
}

// What was generated until then stays, and so does the session.
TEST_F(ConversationTest, StoppedInAnAnswerItGoesOn) {
  const auto conversation = Begin();
  const absl::Status status = conversation->Say(
      turns_[0], [&](std::span<const int32_t> generated) { stop_ = generated.size() == 3; });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
  EXPECT_EQ(conversation->figures().generated, 3);
  EXPECT_EQ(conversation->tokens().size(), 33u);
  // Stopped before a prompt is computed: it is, with the next turn.
  EXPECT_EQ(conversation->Say(turns_[1], nullptr).code(), absl::StatusCode::kCancelled);
  stop_ = false;
  const std::vector<int32_t> answer = Say(*conversation, turns_[2]);
  EXPECT_EQ(conversation->figures().recomputed, 0);
  EXPECT_EQ(conversation->turns(), 3);
  Prompt at_once;
  at_once.id = "all";
  at_once.forced.emplace();
  at_once.max_tokens = 6;
  at_once.tokens.assign(conversation->tokens().begin(), conversation->tokens().end() - 6);
  const GoldenRun run = Generate(options_, golden_.model.get(), &cluster_->client(), {at_once});
  EXPECT_EQ(std::vector<int32_t>(run.tokens.at("all").end() - 6, run.tokens.at("all").end()),
            answer);
}

TEST_F(ConversationTest, WhatCannotBeSaidChangesNothing) {
  const auto conversation = Begin();
  const std::vector<int32_t> first = Say(*conversation, turns_[0]);
  const size_t tokens = conversation->tokens().size();
  Turn wrong = turns_[1];
  wrong.tokens[2] = 83;
  EXPECT_THAT(conversation->Say(wrong, nullptr).ToString(), HasSubstr("token 83 is not in"));
  EXPECT_THAT(conversation->Say({}, nullptr).ToString(), HasSubstr("no tokens"));
  EXPECT_EQ(conversation->tokens().size(), tokens);
  EXPECT_EQ(cluster_->Sessions(), 2u);
  Say(*conversation, turns_[1]);
  EXPECT_EQ(conversation->figures().recomputed, 0);
}

TEST_F(ConversationTest, OutlivesItsNodes) {
  const auto conversation = Begin();
  const std::vector<int32_t> first = Say(*conversation, turns_[0]);
  for (int node = 0; node < 2; ++node) cluster_->Kill(node);
  for (int attempt = 0; attempt < 2; ++attempt) {
    const absl::Status status = conversation->Say(turns_[1], nullptr);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(status.ToString(), HasSubstr("node"));
    EXPECT_EQ(conversation->turns(), 1);
    EXPECT_EQ(conversation->tokens().size(), 36u);
  }
  for (int node = 0; node < 2; ++node) cluster_->Restart(node);
  EXPECT_EQ(Say(*conversation, turns_[1]).size(), 6u);
  EXPECT_EQ(conversation->figures().recomputed, 36);
  conversation->Reset();
  ExpectNothingLeft();
}

}  // namespace
}  // namespace sounder::gpu_worker
