// Nodes and workers of different SIMD levels sample the same rows and give the same tokens.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "common/kernels/signature.h"
#include "common/kernels/simd_level.h"
#include "tests/e2e/determinism.h"
#include "tests/e2e/worker.h"

namespace sounder::e2e {
namespace {

constexpr double kNearTie = 1e-4;

// What one node answered to the requests below.
struct Sample {
  std::vector<uint64_t> rows;  // read and loaded, per query
  std::vector<float> outputs;
};

// The same rows and queries for every level: normal draws rounded to bf16, in segments of 512.
Sample AskNode(const std::string& node_level, const std::string& own_level, bool sketch) {
  EXPECT_TRUE(kernels::ForceSimdLevel(own_level).ok());
  constexpr int64_t kRows = 1500;
  constexpr size_t kDim = 64, kHeads = 4;
  std::vector<std::unique_ptr<Node>> nodes;
  nodes.push_back(std::make_unique<Node>(Arguments{"--simd", node_level, "--threads", "2"}));
  Client client(nodes);
  gpu_worker::RemoteSessionOptions options;
  options.model = {"random", "", 1, 2, kHeads, kDim, "", ""};
  options.seal_rows = 512;
  options.min_indexed_rows = 256;
  if (sketch) {
    options.sketch = {128, 5};
    options.row_format = wire::RowFormat::kInt8;
  } else {
    options.lsh = {.bits_per_table = 8, .num_tables = 75, .seed = 5};
  }
  options.indexed_layers = {0};
  auto session = client->Open(options);
  EXPECT_TRUE(session.ok()) << session.status();

  std::mt19937_64 random(20261);
  std::normal_distribution<float> normal;
  const auto draw = [&] { return base::RoundTo(base::DType::kBF16, normal(random)); };
  std::vector<std::byte> rows[2][2];  // [keys, values][kv head]
  for (auto& tensor : rows) {
    for (std::vector<std::byte>& head : tensor) {
      head.resize(kRows * kDim * 2);
      for (size_t i = 0; i < kRows * kDim; ++i) {
        base::StoreElement(draw(), head.data() + 2 * i, base::DType::kBF16);
      }
    }
  }
  gpu_worker::AppendRows append;
  append.row_count = kRows;
  append.seal_after = true;
  append.rows = [&](uint32_t, uint32_t head) {
    return gpu_worker::AppendRows::Head{rows[0][head], rows[1][head]};
  };
  EXPECT_TRUE(client->Append(session->get(), append).ok());
  EXPECT_TRUE(client->WaitAppended(session->get(), kRows).ok());

  Sample sample;
  std::vector<float> query(kHeads * kDim);
  const lsh::Projection* projection = (*session)->projection();
  std::vector<uint64_t> signatures(
      sketch ? 0 : kHeads * static_cast<size_t>(projection->params().words()));
  for (int step = 0; step < 60; ++step) {
    for (float& element : query) element = draw();
    if (!sketch) {
      kernels::SignVectors(*projection, query.data(), kDim, kHeads, signatures.data());
    }
    std::vector<gpu_worker::AttendQuery> queries(1);
    queries[0].session = session->get();
    queries[0].queries = query.data();
    queries[0].signatures = sketch ? nullptr : signatures.data();
    queries[0].range = {4, kRows - step};  // cuts into the last segment
    queries[0].layout_position = kRows;
    queries[0].attention = sketch ? wire::AttentionKind::kSketch : wire::AttentionKind::kLshTables;
    queries[0].rows_budget = sketch ? .05f : 0;
    queries[0].step = static_cast<uint64_t>(step);
    queries[0].scale = 0.125f;
    client->StartAttend(0, queries)->Wait();
    EXPECT_TRUE(queries[0].status.ok()) << queries[0].status;
    sample.rows.push_back(queries[0].rows_read);
    sample.rows.push_back(queries[0].rows_loaded);
    sample.outputs.insert(sample.outputs.end(), queries[0].outputs.begin(),
                          queries[0].outputs.end());
  }
  EXPECT_TRUE(client->Close(session->get()).ok());
  EXPECT_TRUE(kernels::ForceSimdLevel("best").ok());
  return sample;
}

// By attention: lsh or sketch.
class DeterminismSimdTest : public testing::TestWithParam<const char*> {
 protected:
  const std::string attention_ = GetParam();
  const bool sketch_ = attention_ == "sketch";
};
INSTANTIATE_TEST_SUITE_P(Samplers, DeterminismSimdTest, testing::Values("lsh", "sketch"),
                         [](const auto& sampler) { return std::string(sampler.param); });

TEST_P(DeterminismSimdTest, NodesSampleTheSameRows) {
  const Sample best = AskNode("best", "best", sketch_);
  uint64_t read = 0;
  for (size_t i = 0; i < best.rows.size(); i += 2) read += best.rows[i];
  std::printf("determinism: %zu requests, %.1f rows read each\n", best.rows.size() / 2,
              2.0 * static_cast<double>(read) / static_cast<double>(best.rows.size()));
  for (const std::string& level : kernels::SimdLevels()) {
    for (const std::string& own : {std::string("best"), level}) {
      const Sample sample = AskNode(level, own, sketch_);
      double difference = 0;
      for (size_t i = 0; i < sample.outputs.size(); ++i) {
        difference = std::max(difference, std::abs(double{sample.outputs[i]} - best.outputs[i]));
      }
      std::printf("determinism: node at %s, worker at %s: %s rows, outputs within %.1e\n",
                  level.c_str(), own.c_str(), sample.rows == best.rows ? "the same" : "OTHER",
                  difference);
      EXPECT_EQ(sample.rows, best.rows) << level << ", " << own;
      EXPECT_LT(difference, 1e-5) << level << ", " << own;
    }
  }
}

// Gap between the two best logits at every step, by a run of the library here that is fed `tokens`.
std::map<std::string, std::vector<double>> Gaps(const std::string& prompts,
                                                const Outcomes& outcomes, bool sketch) {
  Model model(kTwoTasks);
  gpu_worker::GeneratorOptions options;
  options.attention.layers.assign(
      static_cast<size_t>(model.config().num_layers),
      sketch ? gpu_worker::LayerMode::kSketch : gpu_worker::LayerMode::kLsh);
  options.session.model = gpu_worker::IdentityOf(*model, kTwoTasks);
  options.session.seal_rows = 512;
  options.session.min_indexed_rows = 256;
  if (sketch) {
    options.session.sketch = {128, 1};
  } else {
    options.session.lsh = {.bits_per_table = 10, .num_tables = 150, .seed = 1};
  }
  options.session.indexed_layers = {0, 1};
  std::vector<gpu_worker::Prompt> all;
  std::istringstream lines(ReadFile(prompts));
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json json = nlohmann::json::parse(line);
    gpu_worker::Prompt& prompt = all.emplace_back();
    prompt.id = json.at("id");
    prompt.tokens = json.at("tokens").get<std::vector<int32_t>>();
    prompt.forced = outcomes.at(prompt.id).tokens;
    prompt.max_tokens = static_cast<int64_t>(prompt.forced->size());
  }
  const auto nodes = StartNodes(1);
  Client client(nodes);
  std::map<std::string, std::vector<double>> gaps;
  for (auto& [id, answer] : Generate(model, &client.kv(), options, std::move(all))) {
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    // The library's run is the worker's: its own choices would have been those tokens.
    EXPECT_EQ(answer.counts.rows_read, outcomes.at(id).rows_read) << id;
    for (size_t step = 0; step < answer.logits.size(); ++step) {
      std::vector<float>& logits = answer.logits[step];
      std::partial_sort(logits.begin(), logits.begin() + 2, logits.end(), std::greater<>());
      gaps[id].push_back(double{logits[0]} - logits[1]);
    }
  }
  return gaps;
}

struct Pair {
  std::string node, worker;
  std::string Text() const { return "node at " + node + ", worker at " + worker; }
};

// The levels of machines that differ from this one, on either side, as far as it has them.
std::vector<Pair> Pairs() {
  std::vector<Pair> pairs;
  const std::vector<std::string> levels = kernels::SimdLevels();
  const auto has = [&](const char* level) {
    return std::find(levels.begin(), levels.end(), level) != levels.end();
  };
  if (has("AVX2")) {
    pairs = {{"AVX2", "best"}, {"best", "AVX2"}, {"AVX2", "AVX2"}};
  }
  if (has("SSE4")) pairs.push_back({"SSE4", "SSE4"});
  return pairs;
}

// In the first layer queries and rows come from matrix products alone, which know nothing of our
// SIMD levels: what is asked of the node is the same to the bit, and so is what it samples.
TEST_P(DeterminismSimdTest, WorkersSampleTheSameRows) {
  TemporaryFolder folder;
  const std::string prompts = WritePrompts(folder);
  const std::string first = attention_ + ",exact";
  const Outcomes best = RunCluster(folder, prompts, 1, {}, {}, first);
  for (const Pair& pair : Pairs()) {
    const Outcomes other =
        RunCluster(folder, prompts, 1, {"--simd", pair.node}, {"--simd", pair.worker}, first);
    std::printf("determinism: %s, first layer sampled: %s\n", pair.Text().c_str(),
                other == best ? "the same" : "DIFFERENT");
    EXPECT_EQ(other, best) << pair.Text();
  }
}

// Behind an attention, a query may differ in its last bit from level to level, and then so may the
// sample. Answers still agree, but where two tokens are as good as equally likely.
TEST_P(DeterminismSimdTest, WorkersGiveTheSameTokens) {
  TemporaryFolder folder;
  const std::string prompts = WritePrompts(folder);
  const Outcomes best = RunCluster(folder, prompts, 1, {}, {}, attention_);
  const auto gaps = Gaps(prompts, best, sketch_);
  int near_ties = 0;
  int steps = 0;
  for (const auto& [id, steps_of] : gaps) {
    for (const double gap : steps_of) {
      ++steps;
      if (gap <= kNearTie) ++near_ties;
    }
  }
  std::printf("determinism: %d of %d steps have their two best logits within %.0e\n", near_ties,
              steps, kNearTie);
  for (const Pair& pair : Pairs()) {
    const Outcomes other =
        RunCluster(folder, prompts, 1, {"--simd", pair.node}, {"--simd", pair.worker}, attention_);
    int differing = 0;
    int same_samples = 0;
    for (const auto& [id, outcome] : other) {
      const Outcome& expected = best.at(id);
      if (outcome.tokens == expected.tokens) {
        EXPECT_NEAR(static_cast<double>(outcome.rows_read), static_cast<double>(expected.rows_read),
                    0.01 * static_cast<double>(expected.rows_read))
            << id;
        same_samples += outcome.rows_read == expected.rows_read;
        continue;
      }
      ++differing;
      const auto first = std::mismatch(outcome.tokens.begin(), outcome.tokens.end(),
                                       expected.tokens.begin(), expected.tokens.end());
      const auto step = static_cast<size_t>(first.first - outcome.tokens.begin());
      ASSERT_LT(step, gaps.at(id).size());
      EXPECT_LE(gaps.at(id)[step], kNearTie) << id << ", step " << step;
    }
    std::printf("determinism: %s: %d of %zu answers differ; %d samples the same\n",
                pair.Text().c_str(), differing, other.size(), same_samples);
  }
}

}  // namespace
}  // namespace sounder::e2e
