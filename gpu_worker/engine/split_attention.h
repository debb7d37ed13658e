// Attention of a batch of sequences, split between the worker and the nodes.
//
// Per sequence and layer, positions fall into sinks, middle and window (SplitPositions). Sinks and
// window are attended exactly here, the middle on the nodes (or here, where the layer is local);
// every position exactly once. A prompt's block of queries is attended exactly in every layer;
// while none of its sequence's rows is on the nodes, all of it is here. The nodes work while the
// worker does.
#ifndef SOUNDER_GPU_WORKER_ENGINE_SPLIT_ATTENTION_H_
#define SOUNDER_GPU_WORKER_ENGINE_SPLIT_ATTENTION_H_

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/clock.h"
#include "gpu_worker/engine/local_attention.h"
#include "gpu_worker/engine/query_blocks.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/kv/kv_client.h"
#include "gpu_worker/model/layer_attention.h"
#include "gpu_worker/model/model_config.h"

namespace sounder::gpu_worker {

struct SplitAttentionOptions {
  int64_t sinks = 4;
  int64_t window = 64;
  base::DType dtype = base::DType::kBF16;  // of rows, and what queries are rounded to
  std::vector<LayerMode> layers;           // one per layer
  // Every so many decode steps of a sequence, its sampled layers are also attended exactly.
  int64_t audit_every = 0;
  SketchSampling sketch;  // of sketch layers

  bool AnyRemote() const;  // any layer lies on nodes
};

// Tokens of one sequence in a forward batch: rows [first, first + count) of q, k, v.
struct BatchSlice {
  Sequence* sequence = nullptr;
  int64_t first = 0;
  int64_t count = 0;     // 1 in decode
  bool prefill = false;  // of a prompt: exact
};

// One Forward at a time. A sequence whose nodes fail gets its status set, and zeros for the middle;
// the others go on.
class SplitAttention final : public LayerAttention {
 public:
  // `client` is null when every layer is local. Both outlive it.
  SplitAttention(SplitAttentionOptions options, const ModelConfig& config, KvClient* client,
                 const base::Clock* clock);

  // Before each Forward. The rows of a slice follow its sequence's positions.
  void Begin(std::vector<BatchSlice> slices);
  absl::Status Attend(int layer, const float* q, const float* k, const float* v,
                      float* out) override;

  // What audits have cost since the last call: they are no part of a step.
  struct AuditCost {
    double seconds = 0;
    uint64_t bytes = 0;
  };
  AuditCost TakeAuditCost();

  // First position of the window once `positions` rows exist.
  base::Position WindowBegin(int64_t positions) const;

 private:
  struct SliceWork {
    HeadsOutput sinks;
    HeadsOutput window;
    int query = -1;  // index into queries_, if the nodes are asked
  };

  bool AllHere(const BatchSlice& slice, int layer) const;
  PositionSplit SplitOf(const BatchSlice& slice) const;
  void RoundQueries(const float* q);
  void KeepRows(int layer, const float* k, const float* v);
  void AskNodes(int layer);
  // Makes the query one for a sample.
  void AskForSample(int layer, Sequence& sequence, AttendQuery* query,
                    std::vector<uint64_t>* signatures) const;
  // Causal attention over every row of the sequence, which are all here.
  void AttendAll(int layer, const BatchSlice& slice, float* out);
  // A prompt's block, when the nodes hold rows of its sequence.
  void AttendBlock(int layer, const BatchSlice& slice, float* out);
  void AttendHere(int layer, const BatchSlice& slice, base::PositionRange range, HeadsOutput* part);
  // In order of position: sinks, middle, window. `middle` is null or failed where there is none.
  void MergeParts(const SliceWork& work, const AttendQuery* middle, float* out) const;
  void FinishSlice(int layer, size_t slice, float* out);
  void Audit(int layer, const float* out);
  void AddErrors(const float* sampled, const float* truth, AttentionCounts* counts) const;
  // What a sampled layer attended to; `middle` is null when no row is on the nodes yet.
  void Count(const BatchSlice& slice, const AttendQuery* middle);
  const float* RoundedRow(int64_t row) const { return rounded_.data() + row * query_width_; }

  const SplitAttentionOptions options_;
  const ModelConfig config_;
  const int64_t query_heads_;
  const int64_t kv_heads_;
  const int64_t group_;
  const int64_t dim_;
  const int64_t query_width_;
  const float scale_;
  KvClient* const client_;
  const base::Clock* const clock_;
  LocalAttention here_;
  std::vector<BatchSlice> slices_;
  int64_t rows_ = 0;
  AuditCost audit_cost_;

  // Scratch of one layer.
  std::vector<float> rounded_;                     // [rows, query width]
  std::vector<SliceWork> work_;                    // one per slice
  std::vector<AttendQuery> queries_;               // of the slices that ask the nodes
  std::vector<size_t> query_slice_;                // theirs
  std::vector<std::vector<uint64_t>> signatures_;  // theirs
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_ENGINE_SPLIT_ATTENTION_H_
