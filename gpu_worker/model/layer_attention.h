// The attention of one batch, as the forward pass sees it.
#ifndef SOUNDER_GPU_WORKER_MODEL_LAYER_ATTENTION_H_
#define SOUNDER_GPU_WORKER_MODEL_LAYER_ATTENTION_H_

#include "absl/status/status.h"

namespace sounder::gpu_worker {

// Everything ragged lives behind this interface: which session a row belongs to, what it may see,
// and where the cached keys and values are (here or on KV nodes). The forward pass knows rows only.
// An object serves one Forward at a time and knows its batch's rows beforehand.
class LayerAttention {
 public:
  virtual ~LayerAttention() = default;

  // Called once per layer, from 0 upwards. Rows in the batch's order: q [rows, query_width], k and
  // v [rows, kv_width], q and k after RoPE, not yet scaled by 1/sqrt(head_dim). Takes k and v into
  // the cache and writes out [rows, query_width]: for each row and query head, attention over the
  // visible positions of its session, its own included. The pointers are in the backend's memory
  // and valid during the call. An error ends the Forward with that error.
  virtual absl::Status Attend(int layer, const float* q, const float* k, const float* v,
                              float* out) = 0;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_MODEL_LAYER_ATTENTION_H_
