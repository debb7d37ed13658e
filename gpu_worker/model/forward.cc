#include "gpu_worker/model/forward.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "gpu_worker/model/rope.h"

namespace sounder::gpu_worker {

absl::StatusOr<std::unique_ptr<LlamaModel>> LlamaModel::Load(const std::string& directory,
                                                             Ops* ops) {
  ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(directory + "/config.json"));
  ASSIGN_OR_RETURN(const std::unique_ptr<WeightFiles> files, WeightFiles::Open(directory));
  ASSIGN_OR_RETURN(LlamaWeights weights, LoadLlamaWeights(config, *files, ops));
  return std::unique_ptr<LlamaModel>(new LlamaModel(ops, std::move(config), std::move(weights)));
}

LlamaModel::LlamaModel(Ops* ops, ModelConfig config, LlamaWeights weights)
    : ops_(ops),
      config_(std::move(config)),
      weights_(std::move(weights)),
      inverse_frequencies_(InverseFrequencies(config_)) {}

absl::Status LlamaModel::Forward(const ForwardBatch& batch, LayerAttention& attention,
                                 std::span<float> logits) {
  RETURN_IF_ERROR(CheckBatch(batch, logits));
  const int64_t rows = static_cast<int64_t>(batch.tokens.size());
  const int64_t logit_rows = static_cast<int64_t>(batch.logit_rows.size());
  if (rows == 0) return absl::OkStatus();
  RETURN_IF_ERROR(Reserve(rows, logit_rows));
  const ModelConfig& c = config_;
  const int64_t half = c.head_dim / 2;
  float* const hidden = hidden_.data();
  float* const normed = normed_.data();
  float* const added = added_.data();

  RETURN_IF_ERROR(ops_->GatherRows(weights_.embedding.data(), c.hidden_size, batch.tokens, hidden));
  RETURN_IF_ERROR(
      ops_->RopeTables(batch.positions, inverse_frequencies_, cos_.data(), sin_.data()));

  for (int layer = 0; layer < c.num_layers; ++layer) {
    const LlamaLayerWeights& w = weights_.layers[static_cast<size_t>(layer)];

    // hidden += output(attention(rope(q), rope(k), v))
    RETURN_IF_ERROR(ops_->RmsNorm(hidden, w.attention_norm.data(), rows, c.hidden_size,
                                  c.rms_norm_eps, normed));
    RETURN_IF_ERROR(ops_->MatMul(normed, rows, *w.query, q_.data()));
    RETURN_IF_ERROR(ops_->MatMul(normed, rows, *w.key, k_.data()));
    RETURN_IF_ERROR(ops_->MatMul(normed, rows, *w.value, v_.data()));
    RETURN_IF_ERROR(
        ops_->ApplyRope(cos_.data(), sin_.data(), rows, c.num_query_heads, half, q_.data()));
    RETURN_IF_ERROR(
        ops_->ApplyRope(cos_.data(), sin_.data(), rows, c.num_kv_heads, half, k_.data()));
    RETURN_IF_ERROR(attention.Attend(layer, q_.data(), k_.data(), v_.data(), attended_.data()));
    RETURN_IF_ERROR(ops_->MatMul(attended_.data(), rows, *w.attention_output, added));
    RETURN_IF_ERROR(ops_->Add(added, rows * c.hidden_size, hidden));

    // hidden += down(silu(gate) * up)
    RETURN_IF_ERROR(
        ops_->RmsNorm(hidden, w.mlp_norm.data(), rows, c.hidden_size, c.rms_norm_eps, normed));
    RETURN_IF_ERROR(ops_->MatMul(normed, rows, *w.gate, gate_.data()));
    RETURN_IF_ERROR(ops_->MatMul(normed, rows, *w.up, up_.data()));
    RETURN_IF_ERROR(ops_->SiluMul(up_.data(), rows * c.intermediate_size, gate_.data()));
    RETURN_IF_ERROR(ops_->MatMul(gate_.data(), rows, *w.down, added));
    RETURN_IF_ERROR(ops_->Add(added, rows * c.hidden_size, hidden));
  }

  // The head is the widest product; only wanted rows pass through it.
  RETURN_IF_ERROR(ops_->GatherRows(hidden, c.hidden_size, batch.logit_rows, wanted_.data()));
  RETURN_IF_ERROR(ops_->RmsNorm(wanted_.data(), weights_.final_norm.data(), logit_rows,
                                c.hidden_size, c.rms_norm_eps, wanted_.data()));
  RETURN_IF_ERROR(ops_->MatMul(wanted_.data(), logit_rows, *weights_.head, logits_.data()));
  return ops_->Read(logits_.data(), logits);
}

absl::Status LlamaModel::CheckBatch(const ForwardBatch& batch, std::span<float> logits) const {
  const int64_t rows = static_cast<int64_t>(batch.tokens.size());
  if (batch.positions.size() != batch.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("a batch of ", rows, " tokens needs as many ",
                                                   "positions, not ", batch.positions.size()));
  }
  for (const int32_t token : batch.tokens) {
    if (token < 0 || token >= config_.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token ", token, " is outside the vocabulary [0, ", config_.vocab_size, ")"));
    }
  }
  for (const int64_t position : batch.positions) {
    if (position < 0 || position > base::kMaxPositions) {
      return absl::InvalidArgumentError(
          absl::StrCat("position ", position, " is outside [0, ", base::kMaxPositions, "]"));
    }
  }
  for (const int32_t row : batch.logit_rows) {
    if (row < 0 || row >= rows) {
      return absl::InvalidArgumentError(
          absl::StrCat("logits of row ", row, " are wanted, but the batch has ", rows, " rows"));
    }
  }
  const size_t wanted = batch.logit_rows.size() * static_cast<size_t>(config_.vocab_size);
  if (logits.size() != wanted) {
    return absl::InvalidArgumentError(
        absl::StrCat("room for ", logits.size(), " logits was given, ", wanted, " are wanted"));
  }
  return absl::OkStatus();
}

absl::Status LlamaModel::Reserve(int64_t rows, int64_t logit_rows) {
  const ModelConfig& c = config_;
  const auto grow = [&](FloatArray& array, int64_t count, int64_t cols) -> absl::Status {
    array = FloatArray();  // free before taking more
    ASSIGN_OR_RETURN(array, ops_->NewArray(count * cols));
    return absl::OkStatus();
  };
  if (rows > rows_) {
    rows_ = 0;  // until all have grown
    const std::pair<FloatArray*, int64_t> arrays[] = {
        {&cos_, c.head_dim / 2},     {&sin_, c.head_dim / 2},       {&hidden_, c.hidden_size},
        {&normed_, c.hidden_size},   {&q_, c.query_width()},        {&k_, c.kv_width()},
        {&v_, c.kv_width()},         {&attended_, c.query_width()}, {&gate_, c.intermediate_size},
        {&up_, c.intermediate_size}, {&added_, c.hidden_size}};
    for (const auto& [array, cols] : arrays) RETURN_IF_ERROR(grow(*array, rows, cols));
    rows_ = rows;
  }
  if (logit_rows > logit_rows_) {
    logit_rows_ = 0;
    RETURN_IF_ERROR(grow(wanted_, logit_rows, c.hidden_size));
    RETURN_IF_ERROR(grow(logits_, logit_rows, c.vocab_size));
    logit_rows_ = logit_rows;
  }
  return absl::OkStatus();
}

}  // namespace sounder::gpu_worker
