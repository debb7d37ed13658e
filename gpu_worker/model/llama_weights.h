// The weights of a Llama-type model, loaded into a backend.
#ifndef SOUNDER_GPU_WORKER_MODEL_LLAMA_WEIGHTS_H_
#define SOUNDER_GPU_WORKER_MODEL_LLAMA_WEIGHTS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/model/model_config.h"
#include "gpu_worker/model/weight_files.h"
#include "gpu_worker/ops/ops.h"

namespace sounder::gpu_worker {

struct LlamaLayerWeights {
  FloatArray attention_norm;                 // [hidden]
  std::unique_ptr<Matrix> query;             // [query_width, hidden]
  std::unique_ptr<Matrix> key;               // [kv_width, hidden]
  std::unique_ptr<Matrix> value;             // [kv_width, hidden]
  std::unique_ptr<Matrix> attention_output;  // [hidden, query_width]
  FloatArray mlp_norm;                       // [hidden]
  std::unique_ptr<Matrix> gate;              // [intermediate, hidden]
  std::unique_ptr<Matrix> up;                // [intermediate, hidden]
  std::unique_ptr<Matrix> down;              // [hidden, intermediate]
};

struct LlamaWeights {
  FloatArray embedding;  // [vocab, hidden]
  std::vector<LlamaLayerWeights> layers;
  FloatArray final_norm;         // [hidden]
  std::unique_ptr<Matrix> head;  // [vocab, hidden]; a second copy of a tied embedding
  std::string digest;            // see LoadLlamaWeights
};

// Copies all weights into `ops`; `files` may go away afterwards. A missing tensor or one of the
// wrong shape or type is named. Tensors the model does not use are ignored.
//
// digest: 32 hexadecimal digits, XXH3-128 over CanonicalText(config) and, in a fixed order, every
// tensor's name, type, and bytes. It does not depend on how the tensors are spread over shards. It
// guards against mix-ups, not against forgery.
absl::StatusOr<LlamaWeights> LoadLlamaWeights(const ModelConfig& config, const WeightFiles& files,
                                              Ops* ops);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_MODEL_LLAMA_WEIGHTS_H_
