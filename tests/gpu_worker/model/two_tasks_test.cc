// The trained model of tests/models/two_tasks against the logits its training code computed.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <numeric>

#include "gpu_worker/model/forward.h"
#include "gpu_worker/ops/ops_cpu.h"
#include "gpu_worker/ops/top_k.h"
#include "nlohmann/json.hpp"
#include "tests/gpu_worker/model/full_attention.h"

namespace sounder::gpu_worker {
namespace {

constexpr char kFolder[] = "tests/models/two_tasks";

TEST(TwoTasksTest, LastLogitsMatchTheTrainingCode) {
  const std::string golden = std::string(kFolder) + "/golden.json";
  if (!std::filesystem::exists(golden)) {
    GTEST_SKIP() << golden << " is not in this tree: the trained model has not been added";
  }
  const auto ops = MakeCpuOps({.threads = 1});
  ASSERT_TRUE(ops.ok()) << ops.status();
  const auto model = LlamaModel::Load(kFolder, ops->get());
  ASSERT_TRUE(model.ok()) << model.status();
  std::ifstream in(golden);
  const nlohmann::json prompts = nlohmann::json::parse(in);
  ASSERT_FALSE(prompts.empty());
  for (const nlohmann::json& prompt : prompts) {
    const auto tokens = prompt.at("tokens").get<std::vector<int32_t>>();
    std::vector<int64_t> positions(tokens.size());
    std::iota(positions.begin(), positions.end(), 0);
    const std::vector<int32_t> last = {static_cast<int32_t>(tokens.size()) - 1};
    std::vector<float> logits(static_cast<size_t>((*model)->config().vocab_size));
    FullAttention attention((*model)->config());
    attention.Expect(static_cast<int64_t>(tokens.size()));
    const absl::Status status = (*model)->Forward({tokens, positions, last}, attention, logits);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(ArgMax(logits).token, prompt.at("argmax").get<int32_t>()) << prompt.at("id");
    double largest = 0;
    for (const float logit : logits) largest = std::max(largest, std::abs(double{logit}));
    for (const nlohmann::json& top : prompt.at("top5")) {
      // The file gives six decimals.
      EXPECT_NEAR(logits.at(top.at(0).get<size_t>()), top.at(1).get<double>(),
                  1e-4 * largest + 1e-6)
          << prompt.at("id");
    }
  }
}

}  // namespace
}  // namespace sounder::gpu_worker
