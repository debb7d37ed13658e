#include "gpu_worker/model/forward.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/base/absl_text.h"
#include "common/tensor_file/tensor_file.h"
#include "common/tensor_file/tensor_writer.h"
#include "gpu_worker/ops/ops_cpu.h"
#include "gpu_worker/ops/ops_ref.h"
#include "tests/gpu_worker/model/full_attention.h"
#include "tests/gpu_worker/model/model_folder.h"

namespace sounder::gpu_worker {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::unique_ptr<LlamaModel> Load(const std::string& directory, Ops* ops) {
  auto model = LlamaModel::Load(directory, ops);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

std::string LoadMessage(const std::string& directory) {
  const std::unique_ptr<Ops> ops = MakeRefOps();
  const auto model = LlamaModel::Load(directory, ops.get());
  return model.ok() ? "ok" : base::MessageOf(model.status());
}

// Attention of a batch whose rows belong to several sessions: hands each its own rows.
class RaggedAttention final : public LayerAttention {
 public:
  // session[row] is an index into `sessions`; rows of one session are in order.
  RaggedAttention(const ModelConfig& config, std::vector<FullAttention*> sessions,
                  std::vector<size_t> session)
      : config_(config), sessions_(std::move(sessions)), session_(std::move(session)) {}

  absl::Status Attend(int layer, const float* q, const float* k, const float* v,
                      float* out) override {
    for (size_t row = 0; row < session_.size(); ++row) {
      FullAttention& one = *sessions_[session_[row]];
      one.Expect(1);
      const int64_t at = static_cast<int64_t>(row);
      const absl::Status status =
          one.Attend(layer, q + at * config_.query_width(), k + at * config_.kv_width(),
                     v + at * config_.kv_width(), out + at * config_.query_width());
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  const ModelConfig config_;
  std::vector<FullAttention*> sessions_;
  std::vector<size_t> session_;
};

class FailingAttention final : public LayerAttention {
 public:
  absl::Status Attend(int layer, const float*, const float*, const float*, float*) override {
    ++calls;
    return layer == 1 ? absl::UnavailableError("node b is gone") : absl::OkStatus();
  }
  int calls = 0;
};

std::vector<float> Logits(LlamaModel& model, LayerAttention& attention,
                          const std::vector<int32_t>& tokens, const std::vector<int64_t>& positions,
                          const std::vector<int32_t>& rows) {
  std::vector<float> logits(rows.size() * static_cast<size_t>(model.config().vocab_size));
  const absl::Status status = model.Forward({tokens, positions, rows}, attention, logits);
  EXPECT_TRUE(status.ok()) << status;
  return logits;
}

TEST(ForwardTest, SessionsInOneBatchDoNotSeeEachOther) {
  const std::unique_ptr<Ops> ops = MakeRefOps();
  const auto model = Load("tests/golden/llama/gqa_tied", ops.get());
  const ModelConfig& config = model->config();
  // Session a: tokens 5 6 7; session b: 9 8; alone, then interleaved in one batch.
  FullAttention a(config), b(config);
  a.Expect(3);
  const std::vector<float> alone_a = Logits(*model, a, {5, 6, 7}, {0, 1, 2}, {2});
  b.Expect(2);
  const std::vector<float> alone_b = Logits(*model, b, {9, 8}, {0, 1}, {1});
  FullAttention c(config), d(config);
  RaggedAttention both(config, {&c, &d}, {0, 1, 0, 1, 0});
  const std::vector<float> together =
      Logits(*model, both, {5, 9, 6, 8, 7}, {0, 0, 1, 1, 2}, {3, 4});
  EXPECT_EQ(std::vector<float>(together.begin(), together.begin() + config.vocab_size), alone_b);
  EXPECT_EQ(std::vector<float>(together.begin() + config.vocab_size, together.end()), alone_a);
}

TEST(ForwardTest, PositionsMatter) {
  const std::unique_ptr<Ops> ops = MakeRefOps();
  const auto model = Load("tests/golden/llama/gqa_tied", ops.get());
  const auto at = [&](int64_t first, int64_t second) {
    FullAttention attention(model->config());
    attention.Expect(2);
    return Logits(*model, attention, {5, 6}, {first, second}, {1});
  };
  const std::vector<float> near = at(0, 1);
  const std::vector<float> shifted = at(100, 101);
  const std::vector<float> apart = at(0, 30);
  double moved = 0, changed = 0;
  for (size_t i = 0; i < near.size(); ++i) {
    moved = std::max(moved, std::abs(double{near[i]} - shifted[i]));
    changed = std::max(changed, std::abs(double{near[i]} - apart[i]));
  }
  EXPECT_LT(moved, 1e-3);  // RoPE sees differences of positions only
  EXPECT_GT(changed, 1e-2);
}

TEST(ForwardTest, BatchesOutOfRangeAreRefusedBeforeAnyWork) {
  const std::unique_ptr<Ops> ops = MakeRefOps();
  const auto model = Load("tests/golden/llama/gqa_tied", ops.get());
  FailingAttention attention;
  const auto refusal = [&](std::vector<int32_t> tokens, std::vector<int64_t> positions,
                           std::vector<int32_t> rows, size_t logits) {
    std::vector<float> out(logits);
    const absl::Status status = model->Forward({tokens, positions, rows}, attention, out);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return base::MessageOf(status);
  };
  EXPECT_THAT(refusal({97}, {0}, {0}, 97), HasSubstr("token 97"));
  EXPECT_THAT(refusal({-1}, {0}, {0}, 97), HasSubstr("token -1"));
  EXPECT_THAT(refusal({1}, {-1}, {0}, 97), HasSubstr("position -1"));
  EXPECT_THAT(refusal({1}, {INT64_MAX}, {0}, 97), HasSubstr("position"));
  EXPECT_THAT(refusal({1, 2}, {0}, {0}, 97), HasSubstr("as many positions, not 1"));
  EXPECT_THAT(refusal({1}, {0}, {1}, 97), HasSubstr("row 1"));
  EXPECT_THAT(refusal({1}, {0}, {-1}, 97), HasSubstr("row -1"));
  EXPECT_THAT(refusal({1}, {0}, {0}, 96), HasSubstr("room for 96 logits"));
  EXPECT_EQ(attention.calls, 0);
  EXPECT_TRUE(model->Forward({}, attention, {}).ok());
  EXPECT_EQ(attention.calls, 0);
}

TEST(ForwardTest, AnErrorOfAttentionEndsTheForward) {
  const std::unique_ptr<Ops> ops = MakeRefOps();
  const auto model = Load("tests/golden/llama/gqa_tied", ops.get());
  FailingAttention attention;
  const std::vector<int32_t> tokens = {1};
  const std::vector<int64_t> positions = {0};
  const absl::Status status = model->Forward({tokens, positions, {}}, attention, {});
  EXPECT_EQ(status, absl::UnavailableError("node b is gone"));
  EXPECT_EQ(attention.calls, 2);
  // The model is as good as before.
  FullAttention works(model->config());
  works.Expect(1);
  EXPECT_TRUE(model->Forward({tokens, positions, {}}, works, {}).ok());
}

TEST(DigestTest, DependsOnWeightsAndConfigurationOnly) {
  const std::unique_ptr<Ops> ref = MakeRefOps();
  const auto cpu = MakeCpuOps({.threads = 1});
  ASSERT_TRUE(cpu.ok());
  ModelFolder folder("two_shards");
  const std::string digest = Load(folder.path(), ref.get())->weights_digest();
  EXPECT_EQ(digest.size(), 32u);
  EXPECT_EQ(Load(folder.path(), cpu->get())->weights_digest(), digest);
  folder.Edit("config.json", [](json& config) { config["max_position_embeddings"] = 9; });
  EXPECT_EQ(Load(folder.path(), ref.get())->weights_digest(), digest);
  folder.Edit("config.json", [](json& config) { config["rope_theta"] = 10001; });
  EXPECT_NE(Load(folder.path(), ref.get())->weights_digest(), digest);
  EXPECT_NE(Load("tests/golden/llama/gqa_tied", ref.get())->weights_digest(), digest);
}

// Puts the tensors of both shards into one file, changing one bit of `flip` if it is not empty.
void Merge(ModelFolder& folder, const std::string& flip) {
  std::vector<std::unique_ptr<tensor_file::TensorFile>> shards;
  std::vector<tensor_file::NamedTensor> tensors;
  std::vector<std::byte> flipped;
  for (const char* name :
       {"model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"}) {
    shards.push_back(*tensor_file::TensorFile::Open(folder.File(name)));
    for (const std::string& tensor : shards.back()->names()) {
      const tensor_file::TensorView view = *shards.back()->Find(tensor);
      tensors.push_back({tensor, view.dtype, view.shape, view.data});
      if (tensor != flip) continue;
      flipped.assign(view.data.begin(), view.data.end());
      flipped.back() ^= std::byte{1};
      tensors.back().data = flipped;
    }
  }
  ASSERT_TRUE(tensor_file::WriteTensorFile(folder.File("model.safetensors"), tensors).ok());
}

TEST(DigestTest, ShardsDoNotMatterAndEveryBitDoes) {
  const std::unique_ptr<Ops> ops = MakeRefOps();
  ModelFolder folder("two_shards");
  const std::string digest = Load(folder.path(), ops.get())->weights_digest();
  Merge(folder, "");
  EXPECT_EQ(Load(folder.path(), ops.get())->weights_digest(), digest);
  for (const char* tensor :
       {"model.norm.weight", "lm_head.weight", "model.layers.1.self_attn.v_proj.weight"}) {
    Merge(folder, tensor);
    EXPECT_NE(Load(folder.path(), ops.get())->weights_digest(), digest) << tensor;
  }
}

TEST(LoadTest, DamagedDirectoriesAreNamed) {
  {
    ModelFolder folder("gqa_tied");
    folder.Truncate("model.safetensors", 1000);
    EXPECT_THAT(LoadMessage(folder.path()), HasSubstr("model.safetensors: header length"));
    folder.Remove("model.safetensors");
    EXPECT_THAT(LoadMessage(folder.path()), HasSubstr("has no model.safetensors"));
    folder.Truncate("config.json", 20);
    EXPECT_THAT(LoadMessage(folder.path()), HasSubstr("config.json: not valid JSON"));
    folder.Remove("config.json");
    EXPECT_THAT(LoadMessage(folder.path()), HasSubstr("config.json: cannot open"));
  }
  ModelFolder folder("gqa_tied");
  folder.Edit("config.json", [](json& config) { config["num_hidden_layers"] = 3; });
  EXPECT_THAT(LoadMessage(folder.path()),
              HasSubstr("no tensor 'model.layers.2.input_layernorm.weight'"));
  folder.Edit("config.json", [](json& config) {
    config["num_hidden_layers"] = 2;
    config["num_key_value_heads"] = 3;
  });
  EXPECT_THAT(LoadMessage(folder.path()),
              HasSubstr("'model.layers.0.self_attn.k_proj.weight' has shape [16, 48], expected "
                        "[24, 48]"));
  folder.Edit("config.json", [](json& config) {
    config["num_key_value_heads"] = 2;
    config["tie_word_embeddings"] = false;
  });
  EXPECT_THAT(LoadMessage(folder.path()), HasSubstr("no tensor 'lm_head.weight'"));
}

}  // namespace
}  // namespace sounder::gpu_worker
