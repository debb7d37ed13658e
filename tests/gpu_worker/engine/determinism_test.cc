// The same tokens from sampled decoding, whatever threads, nodes and SIMD level the cluster has.
#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/thread_executor.h"
#include "common/base/virtual_executor.h"
#include "common/kernels/simd_level.h"
#include "tests/cluster/local_cluster.h"
#include "tests/gpu_worker/engine/golden_run.h"

namespace sounder::gpu_worker {
namespace {

class EngineDeterminismTest : public testing::TestWithParam<LayerMode> {
 protected:
  ~EngineDeterminismTest() override { EXPECT_TRUE(kernels::ForceSimdLevel("best").ok()); }

  GoldenRun Decode(int nodes, int64_t shard_rows, int head_shards, base::Executor* executor) {
    tests::LocalClusterOptions cluster_options;
    cluster_options.nodes = nodes;
    tests::LocalCluster cluster(cluster_options, executor);
    GeneratorOptions options = GoldenOptions(*golden_.model, GetParam(), base::DType::kBF16, 16);
    if (GetParam() == LayerMode::kLsh) {
      options.session.lsh = {4, 12, 2, wire::Projection::kHadamard, 3};
    } else {
      options.session.sketch = {64, 3};
      options.attention.sketch = {.rows = .3, .uniform_above = .5, .uniform_rows = .4};
    }
    options.session.indexed_layers = {0, 1};
    options.session.min_indexed_rows = 8;
    options.session.shard_rows = shard_rows;
    options.session.head_shards = head_shards;
    std::vector<Prompt> prompts = RaggedPrompts(*golden_.model, 4);
    for (Prompt& prompt : prompts) prompt.forced.reset();
    GoldenRun run = Generate(options, golden_.model.get(), &cluster.client(), std::move(prompts));
    EXPECT_TRUE(run.status.ok()) << run.status;
    for (const auto& [id, status] : run.statuses) EXPECT_TRUE(status.ok()) << id << ": " << status;
    EXPECT_EQ(cluster.MemoryUsed(), 0u);
    return run;
  }

  GoldenModel golden_{"gqa_untied"};
};

TEST_P(EngineDeterminismTest, SomeRowsAreRead) {
  base::VirtualExecutor executor(1);
  uint64_t read = 0;
  uint64_t visible = 0;
  for (const auto& [id, counts] : Decode(1, 0, 1, &executor).counts) {
    read += counts.rows_read;
    visible += counts.rows_visible;
  }
  std::printf("%llu of %llu rows read\n", static_cast<unsigned long long>(read),
              static_cast<unsigned long long>(visible));
  EXPECT_GT(read, 0u);
  EXPECT_LT(read, visible) << "nothing was sampled";
}

TEST_P(EngineDeterminismTest, ThreadsChangeNothing) {
  base::VirtualExecutor virtual1(1);
  base::ThreadExecutor one(1, "one");
  base::ThreadExecutor two(2, "two");
  const StepLogits first = Decode(1, 0, 1, &virtual1).logits;
  EXPECT_EQ(LogitDistance(Decode(1, 0, 1, &one).logits, first), 0) << "not bit-identical";
  EXPECT_EQ(LogitDistance(Decode(1, 0, 1, &two).logits, first), 0) << "not bit-identical";
}

TEST_P(EngineDeterminismTest, SameTokensFromOtherNodesAndOrders) {
  base::VirtualExecutor virtual1(1);
  base::VirtualExecutor virtual2(2);
  const GoldenRun first = Decode(1, 0, 1, &virtual1);
  EXPECT_EQ(LogitDistance(Decode(1, 0, 1, &virtual2).logits, first.logits), 0)
      << "not bit-identical";
  EXPECT_EQ(Decode(3, 16, 1, &virtual2).tokens, first.tokens);
  EXPECT_EQ(Decode(2, 0, 2, &virtual2).tokens, first.tokens);
  EXPECT_EQ(Decode(3, 32, 2, &virtual2).tokens, first.tokens);
}

TEST_P(EngineDeterminismTest, SameTokensAtEverySimdLevel) {
  base::VirtualExecutor executor(1);
  const GoldenRun first = Decode(1, 0, 1, &executor);
  for (const std::string& level : kernels::SimdLevels()) {
    SCOPED_TRACE(level);
    ASSERT_TRUE(kernels::ForceSimdLevel(level).ok());
    EXPECT_EQ(Decode(1, 0, 1, &executor).tokens, first.tokens);
    EXPECT_EQ(Decode(3, 16, 2, &executor).tokens, first.tokens);
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, EngineDeterminismTest,
                         testing::Values(LayerMode::kLsh, LayerMode::kSketch),
                         [](const testing::TestParamInfo<LayerMode>& mode) {
                           return mode.param == LayerMode::kLsh ? "Lsh" : "Sketch";
                         });

}  // namespace
}  // namespace sounder::gpu_worker
