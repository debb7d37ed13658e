// Exact is exact: teacher-forced logits of the golden models with `exact` attention over 1, 2 and 3
// nodes, cut by range, by head and both, equal those of a run that keeps every row on the worker,
// through window slides, seals and sequences that join and leave the batch.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <tuple>

#include "common/base/thread_executor.h"
#include "common/base/virtual_executor.h"
#include "tests/cluster/local_cluster.h"
#include "tests/gpu_worker/engine/golden_run.h"

namespace sounder::gpu_worker {
namespace {

struct Cut {
  const char* name;
  int nodes;
  int64_t shard_seals;  // of so many seal rows; 0: not cut by range
  bool by_head;
};

constexpr Cut kCuts[] = {
    {"one node", 1, 0, false},           {"two nodes by range", 2, 1, false},
    {"two nodes by head", 2, 0, true},   {"three nodes by range", 3, 1, false},
    {"three nodes by head", 3, 0, true}, {"three nodes by both", 3, 2, true},
};

std::unique_ptr<tests::LocalCluster> MakeCluster(int nodes, base::Executor* executor) {
  tests::LocalClusterOptions options;
  options.nodes = nodes;
  options.client.append_message_bytes = 4 << 10;
  return std::make_unique<tests::LocalCluster>(options, executor);
}

void ExpectAllEnded(const GoldenRun& run) {
  EXPECT_TRUE(run.status.ok()) << run.status;
  EXPECT_EQ(run.statuses.size(), 6u);
  for (const auto& [id, status] : run.statuses) EXPECT_TRUE(status.ok()) << id << ": " << status;
}

class ExactTest : public testing::TestWithParam<std::tuple<std::string, base::DType>> {};

TEST_P(ExactTest, ClusterEqualsLocal) {
  const auto& [name, dtype] = GetParam();
  GoldenModel golden(name);
  LlamaModel& model = *golden.model;
  const std::vector<Prompt> prompts = RaggedPrompts(model, 1);
  const GoldenRun local =
      Generate(GoldenOptions(model, LayerMode::kExactLocal, dtype, 16), &model, nullptr, prompts);
  ExpectAllEnded(local);
  const double tolerance = dtype == base::DType::kF32 ? 1e-4 : 2e-3;
  double most = 0;
  for (const uint32_t seal_rows : {16u, 32u}) {
    for (const Cut& cut : kCuts) {
      SCOPED_TRACE(cut.name);
      base::VirtualExecutor executor(seal_rows);
      const auto cluster = MakeCluster(cut.nodes, &executor);
      GeneratorOptions options = GoldenOptions(model, LayerMode::kExact, dtype, seal_rows);
      options.session.shard_rows = cut.shard_seals * seal_rows;
      options.session.head_shards =
          cut.by_head ? static_cast<int>(std::min<int64_t>(cut.nodes, model.config().num_kv_heads))
                      : 1;
      const GoldenRun run = Generate(options, &model, &cluster->client(), prompts);
      ExpectAllEnded(run);
      const double distance = LogitDistance(run.logits, local.logits);
      EXPECT_LE(distance, tolerance);
      most = std::max(most, distance);
      EXPECT_EQ(cluster->MemoryUsed(), 0u);
      EXPECT_EQ(cluster->Sessions(), 0u);
    }
  }
  std::printf("max difference %.2e of max|logit|\n", most);
}

INSTANTIATE_TEST_SUITE_P(Models, ExactTest,
                         testing::Combine(testing::Values("gqa_tied", "gqa_untied", "llama3_rope",
                                                          "two_shards"),
                                          testing::Values(base::DType::kF32, base::DType::kBF16)),
                         [](const auto& test) {
                           return std::get<0>(test.param) +
                                  (std::get<1>(test.param) == base::DType::kF32 ? "_f32" : "_bf16");
                         });

TEST(ExactThreadsTest, ClusterOnRealThreadsEqualsLocal) {
  GoldenModel golden("gqa_untied");
  const std::vector<Prompt> prompts = RaggedPrompts(*golden.model, 2);
  const GoldenRun local =
      Generate(GoldenOptions(*golden.model, LayerMode::kExactLocal, base::DType::kF32, 16),
               golden.model.get(), nullptr, prompts);
  base::ThreadExecutor executor(3, "cluster");
  const auto cluster = MakeCluster(3, &executor);
  GeneratorOptions options = GoldenOptions(*golden.model, LayerMode::kExact, base::DType::kF32, 16);
  options.session.shard_rows = 16;
  options.session.head_shards = 2;
  const GoldenRun run = Generate(options, golden.model.get(), &cluster->client(), prompts);
  ExpectAllEnded(run);
  EXPECT_LE(LogitDistance(run.logits, local.logits), 1e-4);
  EXPECT_EQ(cluster->MemoryUsed(), 0u);
}

// The tolerance is small enough to notice one other token and one other rounding.
TEST(ExactControlTest, OneTokenAndOneRoundingAreNoticed) {
  GoldenModel golden("gqa_untied");
  const std::vector<Prompt> prompts = RaggedPrompts(*golden.model, 3);
  GeneratorOptions local =
      GoldenOptions(*golden.model, LayerMode::kExactLocal, base::DType::kF32, 16);
  const GoldenRun right = Generate(local, golden.model.get(), nullptr, prompts);
  std::vector<Prompt> shifted = prompts;
  for (Prompt& prompt : shifted) prompt.tokens[0] = (prompt.tokens[0] + 1) % 7;
  const GoldenRun wrong = Generate(local, golden.model.get(), nullptr, shifted);
  EXPECT_GT(LogitDistance(wrong.logits, right.logits), 1e-3);
  // Rounding rows to bf16 on one side only is more than the f32 tolerance allows.
  local.attention.dtype = base::DType::kBF16;
  EXPECT_GT(
      LogitDistance(Generate(local, golden.model.get(), nullptr, prompts).logits, right.logits),
      1e-4);
}

}  // namespace
}  // namespace sounder::gpu_worker
