// What every command of the worker needs: the model, its words, and the nodes.
#ifndef SOUNDER_GPU_WORKER_WORKER_H_
#define SOUNDER_GPU_WORKER_WORKER_H_

#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "gpu_worker/engine/sequence_runner.h"
#include "gpu_worker/kv/kv_connection.h"
#include "gpu_worker/model/forward.h"
#include "gpu_worker/model/tokenizer.h"
#include "gpu_worker/worker_options.h"

namespace sounder::gpu_worker {

// Exit statuses beside 0 and config::kExitUsage; 128 + a signal that ended the program.
inline constexpr int kExitBadInput = 3;
inline constexpr int kExitUnavailable = 4;

// Says on stderr what is wrong; `exit_code`.
int Fail(int exit_code, const absl::Status& status);
// The exit status that tells a caller what kind of failure it was.
int ExitCodeOf(const absl::Status& status);

// Not thread safe. Both calls return the exit status after a failure, which they have said on
// stderr.
class Worker {
 public:
  explicit Worker(const WorkerOptions& options) : options_(options) {}

  // Log level, instruction set, model and tokenizer, and what the options mean for the model.
  std::optional<int> Load();
  // To the nodes, where any layer needs them. After Load.
  std::optional<int> Connect();

  LlamaModel* model() { return model_.get(); }
  const Tokenizer* words() const { return tokenizer_.get(); }  // null: the model has none
  // Null: every layer is local.
  KvClient* client() { return connection_ == nullptr ? nullptr : &connection_->client(); }
  const base::Clock* clock() const { return &clock_; }
  GeneratorOptions& generator_options() { return generator_options_; }

 private:
  const WorkerOptions options_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<LlamaModel> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  GeneratorOptions generator_options_;
  const base::SteadyClock clock_;
  std::unique_ptr<KvConnection> connection_;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_WORKER_H_
