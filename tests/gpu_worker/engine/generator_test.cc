// What the generator refuses, and what it does about prompts it cannot serve.
#include "gpu_worker/engine/generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>

#include "common/base/virtual_executor.h"
#include "tests/cluster/local_cluster.h"
#include "tests/gpu_worker/engine/golden_run.h"

namespace sounder::gpu_worker {
namespace {

using ::testing::HasSubstr;

class GeneratorTest : public testing::Test {
 protected:
  GoldenRun Run(const std::function<void(GeneratorOptions&)>& change, std::vector<Prompt> prompts) {
    GeneratorOptions options =
        GoldenOptions(*golden_.model, LayerMode::kExact, base::DType::kF32, 16);
    change(options);
    return Generate(options, golden_.model.get(), &cluster_.client(), std::move(prompts));
  }

  base::VirtualExecutor executor_{1};
  tests::LocalCluster cluster_{{}, &executor_};
  GoldenModel golden_{"gqa_untied"};
};

TEST_F(GeneratorTest, OptionsThatDoNotFitAreRefused) {
  const auto refusal = [&](const std::function<void(GeneratorOptions&)>& change) {
    const absl::Status status = Run(change, RaggedPrompts(*golden_.model, 1)).status;
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return status.ToString();
  };
  EXPECT_THAT(refusal([](auto& options) { options.batch = 0; }), HasSubstr("batches of 0"));
  EXPECT_THAT(refusal([](auto& options) { options.prefill_tokens = 0; }), HasSubstr("prefill"));
  EXPECT_THAT(refusal([](auto& options) { options.attention.window = 0; }), HasSubstr("window 0"));
  EXPECT_THAT(refusal([](auto& options) { options.attention.layers[1] = LayerMode::kLsh; }),
              HasSubstr("layer 1 is to be sampled"));
  EXPECT_EQ(cluster_.Sessions(), 0u);
}

TEST_F(GeneratorTest, PromptsThatCannotBeServedDoNotHurtOthers) {
  std::vector<Prompt> prompts = RaggedPrompts(*golden_.model, 1);
  prompts[0].tokens.clear();
  prompts[2].tokens[3] = 83;  // the vocabulary's size
  prompts[3].tokens[0] = -1;
  prompts[4].max_tokens = 0;
  const GoldenRun run = Run([](auto&) {}, prompts);
  EXPECT_TRUE(run.status.ok()) << run.status;
  EXPECT_THAT(run.statuses.at("p1").ToString(), HasSubstr("no tokens"));
  EXPECT_THAT(run.statuses.at("p3").ToString(), HasSubstr("token 83 is not in [0, 83)"));
  EXPECT_THAT(run.statuses.at("p4").ToString(), HasSubstr("token -1"));
  for (const char* id : {"p2", "p5", "p6"}) EXPECT_TRUE(run.statuses.at(id).ok()) << id;
  EXPECT_EQ(run.logits.at("p2").size(), 30u);
  EXPECT_FALSE(run.logits.contains("p5"));
  EXPECT_EQ(cluster_.Sessions(), 0u);
  EXPECT_EQ(cluster_.MemoryUsed(), 0u);
}

// Prompts that were not begun when the run was stopped are not begun, and say why.
TEST_F(GeneratorTest, StopsBetweenAdmissions) {
  std::atomic<bool> stop = false;
  GeneratorOptions options =
      GoldenOptions(*golden_.model, LayerMode::kExact, base::DType::kF32, 16);
  options.batch = 8;
  options.stop = &stop;
  std::vector<Prompt> prompts = RaggedPrompts(*golden_.model, 1);
  prompts[0].tokens.clear();  // refused at once
  prompts[0].numeric_id = prompts[5].numeric_id = true;
  Generator generator(options, golden_.model.get(), &cluster_.client(), &executor_.clock());
  int ended = 0;
  const absl::Status status = generator.Run(prompts, [&](const Sequence& sequence) {
    ++ended;
    EXPECT_EQ(sequence.numeric_id, sequence.id == "p1" || sequence.id == "p6");
    if (sequence.id == "p1") {
      stop = true;
      return;
    }
    EXPECT_EQ(sequence.status.code(), absl::StatusCode::kCancelled) << sequence.status;
    EXPECT_EQ(sequence.session, nullptr) << sequence.id << " was begun";
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(ended, 6);
  EXPECT_EQ(cluster_.Sessions(), 0u);
}

TEST_F(GeneratorTest, EndsAtEndOfSequence) {
  // Greedy: whatever comes out first is declared to be the end by a second run that forces it.
  std::vector<Prompt> prompts = RaggedPrompts(*golden_.model, 1);
  prompts.resize(1);
  prompts[0].forced.reset();
  prompts[0].max_tokens = 40;
  const GoldenRun run = Run([](auto&) {}, prompts);
  const std::vector<int32_t>& tokens = run.tokens.at("p1");
  const auto generated = tokens.begin() + static_cast<int64_t>(prompts[0].tokens.size());
  const int32_t eos = golden_.model->config().eos_tokens.at(0);
  const auto end = std::find(generated, tokens.end(), eos);
  EXPECT_TRUE(end == tokens.end() || end + 1 == tokens.end()) << "went on after its end";
  EXPECT_LE(tokens.end() - generated, 40);

  prompts[0].forced = std::vector<int32_t>(40, eos);
  EXPECT_EQ(Run([](auto&) {}, prompts).logits.at("p1").size(), 40u) << "forced tokens do not end";
}

}  // namespace
}  // namespace sounder::gpu_worker
