// A worker's side inside the test: the KV client on real UCX, models, and runs of the generator
// whose logits are kept.
#ifndef SOUNDER_TESTS_E2E_WORKER_H_
#define SOUNDER_TESTS_E2E_WORKER_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/transport/ucx_transport.h"
#include "gpu_worker/engine/generator.h"
#include "gpu_worker/kv/kv_connection.h"
#include "gpu_worker/model/forward.h"
#include "gpu_worker/ops/ops_cpu.h"
#include "tests/e2e/processes.h"

namespace sounder::e2e {

// A KV client of the nodes. One at a time in a process (see ucx_transport.h).
class Client {
 public:
  explicit Client(const std::vector<std::unique_ptr<Node>>& nodes, const std::string& tls = "tcp",
                  base::Duration deadline = seconds(2),
                  const wire::LivenessOptions& liveness = gpu_worker::KvClientOptions().liveness);

  gpu_worker::KvClient& kv() { return connection_->client(); }
  gpu_worker::KvClient* operator->() { return &kv(); }
  base::Executor& executor() { return connection_->executor(); }

 private:
  std::unique_ptr<gpu_worker::KvConnection> connection_;
};

transport::UcxOptions ShortSpin(const std::string& tls);

// A model on one CPU thread.
class Model {
 public:
  explicit Model(const std::string& folder);
  gpu_worker::LlamaModel& operator*() { return *model_; }
  const gpu_worker::ModelConfig& config() const { return model_->config(); }

 private:
  std::unique_ptr<gpu_worker::Ops> ops_;
  std::unique_ptr<gpu_worker::LlamaModel> model_;
};

// Options that suit tiny models: sinks 2, window 8, segments of 16 rows, every layer of `mode`.
gpu_worker::GeneratorOptions SmallOptions(Model& model, gpu_worker::LayerMode mode,
                                          base::DType dtype);

// What became of one prompt.
struct Answer {
  absl::Status status;
  std::vector<int32_t> generated;
  std::vector<std::vector<float>> logits;  // one per step
  gpu_worker::AttentionCounts counts;
  std::chrono::steady_clock::time_point ended;
};
using Answers = std::map<std::string, Answer>;

// Called before each choice of a token.
using StepHook = std::function<void(const gpu_worker::Sequence&)>;

Answers Generate(Model& model, gpu_worker::KvClient* client,
                 const gpu_worker::GeneratorOptions& options,
                 std::vector<gpu_worker::Prompt> prompts, const StepHook& hook = nullptr);

// The largest difference of two runs' logits over the largest logit. Infinite where one lacks a
// step the other has, or has a NaN.
double LogitDifference(const Answers& a, const Answers& b);

// Session ids whose first shard lies on the given node of `num_nodes`.
base::SessionId SessionOn(int node, int num_nodes, uint64_t seed);

}  // namespace sounder::e2e

#endif  // SOUNDER_TESTS_E2E_WORKER_H_
