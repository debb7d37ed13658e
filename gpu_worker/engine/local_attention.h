// Exact attention of a block of queries to rows that the worker holds.
#ifndef SOUNDER_GPU_WORKER_ENGINE_LOCAL_ATTENTION_H_
#define SOUNDER_GPU_WORKER_ENGINE_LOCAL_ATTENTION_H_

#include <cstdint>
#include <vector>

#include "gpu_worker/kv/local_rows.h"
#include "gpu_worker/model/model_config.h"

namespace sounder::gpu_worker {

// Partial outputs of every query head of a block of queries.
struct HeadsOutput {
  std::vector<float> outputs;  // [count, query heads, head dim]
  std::vector<float> lse;      // [count, query heads]
};

// Merges partial outputs [lse.size(), dim] over other rows into those of the same query heads.
void MergeHeads(const std::vector<float>& outputs, const std::vector<float>& lse,
                float* into_outputs, float* into_lse);

// Not thread safe: has scratch.
class LocalAttention {
 public:
  explicit LocalAttention(const ModelConfig& config);

  // Queries at positions [first, first + count), rounded, [count, query heads, head dim]; each sees
  // the rows of `range` up to its own position. `rows` has one entry per kv head, which holds the
  // range in one piece.
  void Attend(const std::vector<LocalRows>& rows, base::PositionRange range, const float* queries,
              base::Position first, int64_t count, HeadsOutput* part);

 private:
  const int64_t kv_heads_;
  const int64_t group_;
  const int64_t dim_;
  const int64_t query_width_;
  const float scale_;
  std::vector<float> packed_, outputs_, lse_;  // of one kv head, [count * group, ...]
  std::vector<int64_t> visible_;               // [count * group]; empty: every row
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_ENGINE_LOCAL_ATTENTION_H_
