// One prompt whose rows are computed and cached: what every sampler is then asked about. The last
// token is left to be decoded, as the engine does it.
#ifndef SOUNDER_BENCH_QUALITY_PROMPT_CACHE_H_
#define SOUNDER_BENCH_QUALITY_PROMPT_CACHE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/model/forward.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::quality {

// How a session divides its rows; the defaults are the worker's.
struct CacheShape {
  int64_t sinks = 4;    // first rows, attended exactly
  int64_t window = 64;  // last rows, the decoded one included, attended exactly
  base::DType dtype = base::DType::kBF16;
};

// Immutable after Create; thread safe.
class PromptCache {
 public:
  // Prefills all tokens but the last with exact attention, through the engine's own code.
  // InvalidArgument where no row is left between sinks and window.
  static absl::StatusOr<PromptCache> Create(const CacheShape& shape,
                                            const std::vector<int32_t>& tokens,
                                            gpu_worker::LlamaModel& model);

  const CacheShape& shape() const { return shape_; }
  int32_t last_token() const { return sequence_.tokens.back(); }
  int64_t position() const { return sequence_.positions; }  // of the last token
  // The rows that samplers are asked about.
  base::PositionRange middle() const { return {shape_.sinks, position() + 1 - shape_.window}; }
  gpu_worker::LocalPiece Rows(int layer, int kv_head, base::PositionRange range) const;

 private:
  CacheShape shape_;
  gpu_worker::Sequence sequence_;
};

// The middle rows of a cache as sealed segments, indexed by one sampler: [layer * kv_heads + head].
using Segments = std::vector<std::unique_ptr<kv_node::Segment>>;
absl::StatusOr<Segments> MakeSegments(const PromptCache& cache,
                                      const gpu_worker::ModelConfig& config,
                                      const kv_node::Sampler& sampler, kv_node::Scratch& scratch);

}  // namespace sounder::quality

#endif  // SOUNDER_BENCH_QUALITY_PROMPT_CACHE_H_
