#include "bench/quality/prompt_cache.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "gpu_worker/engine/split_attention.h"

namespace sounder::quality {
namespace {

constexpr int64_t kPrefillTokens = 512;  // of one forward pass

memory::AlignedBuffer Copy(const memory::RowsView& rows) {
  memory::AlignedBuffer copy(static_cast<size_t>(rows.rows * rows.row_stride));
  std::memcpy(copy.data(), rows.data, copy.size());
  return copy;
}

}  // namespace

absl::StatusOr<PromptCache> PromptCache::Create(const CacheShape& shape,
                                                const std::vector<int32_t>& tokens,
                                                gpu_worker::LlamaModel& model) {
  const int64_t count = static_cast<int64_t>(tokens.size()) - 1;
  if (shape.sinks < 0 || shape.window < 1 || count + 1 <= shape.sinks + shape.window) {
    return absl::InvalidArgumentError(absl::StrCat("a prompt of ", tokens.size(),
                                                   " tokens has no row between ", shape.sinks,
                                                   " sinks and a window of ", shape.window));
  }
  const gpu_worker::ModelConfig& config = model.config();
  PromptCache cache;
  cache.shape_ = shape;
  gpu_worker::Sequence& sequence = cache.sequence_;
  sequence.tokens = tokens;
  sequence.rows.resize(static_cast<size_t>(config.num_layers));
  for (auto& heads : sequence.rows) {
    for (int64_t head = 0; head < config.num_kv_heads; ++head) {
      heads.emplace_back(static_cast<int>(config.head_dim), shape.dtype, shape.sinks);
    }
  }
  gpu_worker::SplitAttentionOptions options;
  options.sinks = shape.sinks;
  options.window = shape.window;
  options.dtype = shape.dtype;
  options.layers.assign(static_cast<size_t>(config.num_layers), gpu_worker::LayerMode::kExactLocal);
  gpu_worker::SplitAttention attention(options, config, nullptr, nullptr);
  std::vector<int64_t> positions(static_cast<size_t>(count));
  std::iota(positions.begin(), positions.end(), 0);
  while (sequence.positions < count) {
    const auto first = static_cast<size_t>(sequence.positions);
    const int64_t chunk = std::min(kPrefillTokens, count - sequence.positions);
    gpu_worker::ForwardBatch batch;
    batch.tokens = std::span(sequence.tokens).subspan(first, static_cast<size_t>(chunk));
    batch.positions = std::span(positions).subspan(first, static_cast<size_t>(chunk));
    attention.Begin({{&sequence, 0, chunk, /*prefill=*/true}});
    RETURN_IF_ERROR(model.Forward(batch, attention, {}));
    sequence.positions += chunk;
  }
  return cache;
}

gpu_worker::LocalPiece PromptCache::Rows(int layer, int kv_head, base::PositionRange range) const {
  return sequence_.rows[static_cast<size_t>(layer)][static_cast<size_t>(kv_head)].Range(range);
}

absl::StatusOr<Segments> MakeSegments(const PromptCache& cache,
                                      const gpu_worker::ModelConfig& config,
                                      const kv_node::Sampler& sampler, kv_node::Scratch& scratch) {
  Segments segments;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (int head = 0; head < config.num_kv_heads; ++head) {
      const base::PositionRange middle = cache.middle();
      const gpu_worker::LocalPiece piece = cache.Rows(layer, head, middle);
      ASSIGN_OR_RETURN(auto segment, kv_node::Segment::Create(
                                         middle.begin, middle.size(), piece.keys.dim,
                                         piece.keys.dtype, Copy(piece.keys), Copy(piece.values)));
      ASSIGN_OR_RETURN(auto index, sampler.BuildIndex(*segment->rows(), scratch));
      segment->SetIndex(std::move(index));
      segments.push_back(std::move(segment));
    }
  }
  return segments;
}

}  // namespace sounder::quality
