// Exact attention on the nodes is exact: teacher-forced logits of tiny Llama models whose middle
// positions are attended on 1, 2 and 3 sounder_node processes, cut by range, by head and both,
// equal those of a run that keeps every row. Sequences slide their window, seal segments, and join
// and leave the batch at different lengths.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/e2e/worker.h"

namespace sounder::e2e {
namespace {

using gpu_worker::LayerMode;
using gpu_worker::Prompt;

std::string Folder(const std::string& model) { return "tests/golden/llama/" + model; }

std::vector<int32_t> GoldenTokens(const std::string& model) {
  std::ifstream file(Folder(model) + "/golden.json");
  return nlohmann::json::parse(file).at("tokens").get<std::vector<int32_t>>();
}

// Prompts that begin at different tokens, with 1 to 70 tokens before the first decoded step, and
// lengths that cross seal marks at different steps.
std::vector<Prompt> RaggedPrompts(const std::string& model) {
  std::vector<int32_t> tokens = GoldenTokens(model);
  const std::vector<int32_t> once = tokens;
  tokens.insert(tokens.end(), once.rbegin(), once.rend());  // window and segments slide far
  struct Shape {
    size_t first, prompt, steps;
  };
  std::vector<Prompt> prompts;
  for (const Shape& shape :
       {Shape{0, 41, 60}, Shape{3, 1, 30}, Shape{7, 70, 21}, Shape{11, 17, 50}, Shape{2, 9, 25}}) {
    Prompt& prompt = prompts.emplace_back();
    prompt.id = std::to_string(prompts.size());
    const auto begin = tokens.begin() + static_cast<std::ptrdiff_t>(shape.first);
    const auto middle = begin + static_cast<std::ptrdiff_t>(shape.prompt);
    prompt.tokens.assign(begin, middle);
    prompt.forced.emplace(middle, middle + static_cast<std::ptrdiff_t>(shape.steps));
    prompt.max_tokens = static_cast<int64_t>(shape.steps);
  }
  return prompts;
}

struct Layout {
  const char* name;
  int nodes;
  int64_t shard_rows;
  int head_shards;
};

// The transports that the nodes say UCX chose for their connections.
std::string TransportsOf(gpu_worker::KvClient& client) {
  std::string all;
  for (const auto& status : client.NodeStatuses()) {
    EXPECT_TRUE(status.ok()) << status.status();
    if (!status.ok()) continue;
    EXPECT_FALSE(status->connections.empty());
    for (const auto& connection : status->connections) all += connection.transport + " ";
  }
  return all;
}

class ExactIsExactTest : public testing::TestWithParam<std::string> {
 protected:
  std::string Tls() const { return GetParam(); }

  void SetUp() override { nodes_ = StartNodes(3, {"--ucx-tls", Tls(), "--threads", "1"}); }

  // Layouts of one model in one dtype against the all-local run; the largest difference.
  void Check(const std::string& name, base::DType dtype, double bound,
             const std::vector<Layout>& layouts) {
    Model model(Folder(name));
    const Answers local = Generate(
        model, nullptr, SmallOptions(model, LayerMode::kExactLocal, dtype), RaggedPrompts(name));
    for (const Layout& layout : layouts) {
      std::vector<std::unique_ptr<Node>> used;
      for (int i = 0; i < layout.nodes; ++i) used.push_back(std::move(nodes_[i]));
      double difference = 0;
      {
        Client client(used, Tls());
        auto options = SmallOptions(model, LayerMode::kExact, dtype);
        options.session.shard_rows = layout.shard_rows;
        options.session.head_shards = layout.head_shards;
        const Answers remote = Generate(model, &client.kv(), options, RaggedPrompts(name));
        for (const auto& [id, answer] : remote) EXPECT_TRUE(answer.status.ok()) << answer.status;
        difference = LogitDifference(local, remote);
        CheckTransport(TransportsOf(client.kv()));
      }
      for (int i = 0; i < layout.nodes; ++i) nodes_[i] = std::move(used[i]);
      std::printf("exact: %s %s %s, %s: %.1e of max|logit| (<= %.0e)\n", Tls().c_str(),
                  dtype == base::DType::kF32 ? "f32" : "bf16", name.c_str(), layout.name,
                  difference, bound);
      EXPECT_LE(difference, bound) << name << ", " << layout.name;
    }
  }

  void CheckTransport(const std::string& transports) {
    const bool shared = transports.find("posix") != std::string::npos ||
                        transports.find("sysv") != std::string::npos;
    EXPECT_EQ(shared, Tls() == "shm") << transports;
    EXPECT_NE(transports.find(shared ? "/memory" : "tcp"), std::string::npos) << transports;
  }

  std::vector<std::unique_ptr<Node>> nodes_;
};

constexpr Layout kOne = {"1 node", 1, 0, 1};
constexpr Layout kTwoByRange = {"2 nodes by range", 2, 32, 1};
constexpr Layout kTwoByHead = {"2 nodes by head", 2, 0, 2};
constexpr Layout kThreeByRange = {"3 nodes by range", 3, 16, 1};
constexpr Layout kThreeByHead = {"3 nodes by head", 3, 0, 3};
constexpr Layout kThreeByBoth = {"3 nodes by range and head", 3, 48, 2};

TEST_P(ExactIsExactTest, Float32) {
  Check("two_shards", base::DType::kF32, 1e-4,
        {kOne, kTwoByRange, kTwoByHead, kThreeByRange, kThreeByHead, kThreeByBoth});
  Check("gqa_tied", base::DType::kF32, 1e-4, {kTwoByHead, kThreeByBoth});
  Check("gqa_untied", base::DType::kF32, 1e-4, {kThreeByRange});
  Check("llama3_rope", base::DType::kF32, 1e-4, {kTwoByRange});
}

TEST_P(ExactIsExactTest, BFloat16) {
  Check("two_shards", base::DType::kBF16, 2e-3, {kTwoByRange, kThreeByHead});
  Check("gqa_tied", base::DType::kBF16, 2e-3, {kOne, kThreeByBoth});
  Check("gqa_untied", base::DType::kBF16, 2e-3, {kTwoByHead});
  Check("llama3_rope", base::DType::kBF16, 2e-3, {kThreeByRange});
}

// Negative control: the comparison notices a run that is not exact.
TEST_P(ExactIsExactTest, SampledAttentionIsNoticed) {
  Model model(Folder("gqa_untied"));
  const auto dtype = base::DType::kF32;
  const Answers local = Generate(model, nullptr, SmallOptions(model, LayerMode::kExactLocal, dtype),
                                 RaggedPrompts("gqa_untied"));
  Client client(nodes_, Tls());
  auto options = SmallOptions(model, LayerMode::kLsh, dtype);
  options.session.lsh = {.bits_per_table = 4, .num_tables = 8};
  options.session.indexed_layers = {0, 1};
  options.session.shard_rows = 32;
  const Answers sampled = Generate(model, &client.kv(), options, RaggedPrompts("gqa_untied"));
  const double difference = LogitDifference(local, sampled);
  std::printf("control: sampled attention differs by %.1e of max|logit|\n", difference);
  EXPECT_GT(difference, 1e-2);
}

INSTANTIATE_TEST_SUITE_P(Transports, ExactIsExactTest, testing::Values("tcp", "shm"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace sounder::e2e
