// Teacher-forced runs of the golden models, all local or over a cluster, and their logits.
#ifndef SOUNDER_TESTS_GPU_WORKER_ENGINE_GOLDEN_RUN_H_
#define SOUNDER_TESTS_GPU_WORKER_ENGINE_GOLDEN_RUN_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/engine/generator.h"
#include "gpu_worker/ops/ops.h"

namespace sounder::gpu_worker {

// Logits of every step, by the id of the prompt.
using StepLogits = std::map<std::string, std::vector<std::vector<float>>>;

struct GoldenModel {
  explicit GoldenModel(const std::string& name);
  std::unique_ptr<Ops> ops;
  std::unique_ptr<LlamaModel> model;
};

// Prompts of different lengths, each forced along random tokens for a different number of steps.
std::vector<Prompt> RaggedPrompts(const LlamaModel& model, uint64_t seed);

struct GoldenRun {
  StepLogits logits;
  std::map<std::string, absl::Status> statuses;
  std::map<std::string, std::vector<int32_t>> tokens;
  std::map<std::string, AttentionCounts> counts;
  absl::Status status;
};

// Options for `mode` in every layer: sinks 2, window 8, three sequences at a time, seals every
// `seal_rows` positions.
GeneratorOptions GoldenOptions(const LlamaModel& model, LayerMode mode, base::DType dtype,
                               uint32_t seal_rows);
// Gives the sessions the index that `mode` asks for, if any, with which it reads part of the rows.
void AddIndex(LayerMode mode, GeneratorOptions* options);
GoldenRun Generate(const GeneratorOptions& options, LlamaModel* model, KvClient* client,
                   std::vector<Prompt> prompts);

// max |a - b| / max |b| over all logits; infinite if the runs have different steps.
double LogitDistance(const StepLogits& a, const StepLogits& b);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_TESTS_GPU_WORKER_ENGINE_GOLDEN_RUN_H_
