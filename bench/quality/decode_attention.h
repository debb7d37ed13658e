// The attention of one decoded token over a prompt's cache: sinks and window exactly, the rows
// between them by a sampler of the KV nodes, in every layer; beside it the same queries exactly.
#ifndef SOUNDER_BENCH_QUALITY_DECODE_ATTENTION_H_
#define SOUNDER_BENCH_QUALITY_DECODE_ATTENTION_H_

#include <cstdint>
#include <vector>

#include "bench/quality/prompt_cache.h"
#include "gpu_worker/model/layer_attention.h"
#include "gpu_worker/model/model_config.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::quality {

// What one token read and how far its attention was off: sums over layers and heads.
struct AttentionFigures {
  double error = 0;         // sum of |o - o*| / |o*| over query heads
  int64_t heads = 0;        // how many
  int64_t rows_read = 0;    // middle rows, summed over query heads
  int64_t rows_loaded = 0;  // distinct middle rows, summed over kv heads
};

// Not thread safe; for one Forward of one row. Borrows all it is given.
class DecodeAttention final : public gpu_worker::LayerAttention {
 public:
  struct Sampling {
    const kv_node::Sampler* sampler = nullptr;  // null: the middle counts as empty
    const Segments* segments = nullptr;         // of that sampler
    double row_fraction = 0;                    // GroupQuery::row_fraction
    uint64_t sample_key = 0;
  };

  DecodeAttention(const PromptCache& cache, const gpu_worker::ModelConfig& config,
                  const Sampling& sampling, kv_node::Scratch& scratch);

  // The cache stays as it is: k and v are the window's last row during the call.
  absl::Status Attend(int layer, const float* q, const float* k, const float* v,
                      float* out) override;

  const AttentionFigures& figures() const { return figures_; }

 private:
  // A partial output of a group: [group, dim] and [group].
  struct Part {
    std::vector<float> outputs;
    std::vector<float> lse;
  };
  Part Empty() const;
  void Merge(const Part& from, Part& to) const;
  Part Exactly(const float* queries, const memory::RowsView& keys,
               const memory::RowsView& values) const;
  Part Sampled(const float* queries, int layer, int kv_head);
  void Compare(const Part& sampled, const Part& exact);

  const PromptCache& cache_;
  const Sampling sampling_;
  kv_node::Scratch& scratch_;
  const int kv_heads_;
  const int group_;
  const int dim_;
  const float scale_;
  AttentionFigures figures_;
  std::vector<uint64_t> signatures_;
};

}  // namespace sounder::quality

#endif  // SOUNDER_BENCH_QUALITY_DECODE_ATTENTION_H_
