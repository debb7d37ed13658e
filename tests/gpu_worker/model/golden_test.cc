// Our forward pass against logits that Hugging Face transformers computed for the same files
// (tests/golden/llama): max|difference| <= 1e-4 max|logit|, for every backend, in one prefill,
// token by token, and in uneven pieces.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <numeric>
#include <string>
#include <tuple>

#include "common/tensor_file/tensor_file.h"
#include "gpu_worker/model/forward.h"
#include "gpu_worker/ops/ops_cpu.h"
#include "gpu_worker/ops/ops_ref.h"
#include "nlohmann/json.hpp"
#include "tests/gpu_worker/model/full_attention.h"
#include "tests/gpu_worker/model/model_folder.h"

namespace sounder::gpu_worker {
namespace {

constexpr double kTolerance = 1e-4;

std::string Folder(const std::string& model) { return "tests/golden/llama/" + model; }

std::unique_ptr<Ops> MakeOps(const std::string& backend) {
  if (backend == "ref") return MakeRefOps();
  auto ops = MakeCpuOps({.threads = backend == "cpu1" ? 1 : 3});
  EXPECT_TRUE(ops.ok()) << ops.status();
  return *std::move(ops);
}

struct Golden {
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // [tokens, vocab]
  double largest = 0;         // max|logit|
};

Golden ReadGolden(const std::string& model) {
  Golden golden;
  std::ifstream text(Folder(model) + "/golden.json");
  golden.tokens = nlohmann::json::parse(text).at("tokens").get<std::vector<int32_t>>();
  const auto file = tensor_file::TensorFile::Open(Folder(model) + "/golden.safetensors");
  EXPECT_TRUE(file.ok()) << file.status();
  const auto logits = (*file)->Find("logits");
  EXPECT_TRUE(logits.ok()) << logits.status();
  golden.logits.resize(static_cast<size_t>(logits->elements()));
  tensor_file::CopyToF32(*logits, golden.logits);
  for (const float logit : golden.logits) {
    golden.largest = std::max(golden.largest, std::abs(double{logit}));
  }
  return golden;
}

// Logits of all tokens, fed in pieces of these sizes in turn.
std::vector<float> Compute(LlamaModel& model, const std::vector<int32_t>& tokens,
                           const std::vector<int64_t>& pieces) {
  FullAttention attention(model.config());
  std::vector<float> all;
  size_t begin = 0;
  for (size_t turn = 0; begin < tokens.size(); ++turn) {
    const size_t rows =
        std::min(static_cast<size_t>(pieces[turn % pieces.size()]), tokens.size() - begin);
    std::vector<int64_t> positions(rows);
    std::iota(positions.begin(), positions.end(), static_cast<int64_t>(begin));
    std::vector<int32_t> logit_rows(rows);
    std::iota(logit_rows.begin(), logit_rows.end(), 0);
    std::vector<float> logits(rows * static_cast<size_t>(model.config().vocab_size));
    attention.Expect(static_cast<int64_t>(rows));
    const absl::Status status =
        model.Forward({{tokens.data() + begin, rows}, positions, logit_rows}, attention, logits);
    EXPECT_TRUE(status.ok()) << status;
    all.insert(all.end(), logits.begin(), logits.end());
    begin += rows;
  }
  return all;
}

double MaxDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(double{a[i]} - b[i]);
    if (!(difference <= most)) most = difference;  // NaN too
  }
  return most;
}

class GoldenTest : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(GoldenTest, LogitsMatchTransformers) {
  const auto& [name, backend] = GetParam();
  const Golden golden = ReadGolden(name);
  ASSERT_GE(golden.tokens.size(), 64u);
  const std::unique_ptr<Ops> ops = MakeOps(backend);
  auto model = LlamaModel::Load(Folder(name), ops.get());
  ASSERT_TRUE(model.ok()) << model.status();
  const int64_t count = static_cast<int64_t>(golden.tokens.size());
  for (const std::vector<int64_t>& pieces :
       std::vector<std::vector<int64_t>>{{count}, {1}, {5, 1, 17, 2}}) {
    const double difference =
        MaxDifference(Compute(**model, golden.tokens, pieces), golden.logits) / golden.largest;
    std::printf("pieces of %ld: max difference %.2e of max|logit|\n", pieces[0], difference);
    EXPECT_LE(difference, kTolerance) << "pieces of " << pieces[0];
  }
}

// Negative control: the models must notice the mistakes they are there to catch.
double DifferenceAfter(const std::string& name,
                       const std::function<void(nlohmann::json&)>& mistake) {
  const Golden golden = ReadGolden(name);
  ModelFolder folder(name);
  folder.Edit("config.json", mistake);
  const std::unique_ptr<Ops> ops = MakeRefOps();
  auto model = LlamaModel::Load(folder.path(), ops.get());
  EXPECT_TRUE(model.ok()) << model.status();
  const int64_t count = static_cast<int64_t>(golden.tokens.size());
  return MaxDifference(Compute(**model, golden.tokens, {count}), golden.logits) / golden.largest;
}

TEST(GoldenControlTest, WrongConstantsAreNoticed) {
  using nlohmann::json;
  EXPECT_GT(DifferenceAfter("llama3_rope", [](json& c) { c.erase("rope_scaling"); }), 0.01);
  EXPECT_GT(
      DifferenceAfter("llama3_rope", [](json& c) { c["rope_scaling"]["high_freq_factor"] = 3.5; }),
      10 * kTolerance);
  EXPECT_GT(
      DifferenceAfter("llama3_rope", [](json& c) { c["rope_scaling"]["low_freq_factor"] = 1.1; }),
      10 * kTolerance);
  EXPECT_GT(DifferenceAfter("gqa_untied", [](json& c) { c["rope_theta"] = 10000; }), 0.01);
  EXPECT_GT(DifferenceAfter("gqa_untied", [](json& c) { c["tie_word_embeddings"] = true; }), 0.01);
  EXPECT_GT(DifferenceAfter("two_shards", [](json& c) { c["rms_norm_eps"] = 1e-3; }), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(
    Models, GoldenTest,
    testing::Combine(testing::Values("gqa_tied", "gqa_untied", "llama3_rope", "two_shards"),
                     testing::Values("ref", "cpu1", "cpu3")),
    [](const auto& test) { return std::get<0>(test.param) + "_" + std::get<1>(test.param); });

}  // namespace
}  // namespace sounder::gpu_worker
