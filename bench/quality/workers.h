// Threads with a model each.
#ifndef SOUNDER_BENCH_QUALITY_WORKERS_H_
#define SOUNDER_BENCH_QUALITY_WORKERS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/model/forward.h"
#include "gpu_worker/ops/ops.h"
#include "gpu_worker/ops/thread_team.h"
#include "kv_node/sampler/scratch.h"

namespace sounder::quality {

struct Worker {
  std::unique_ptr<gpu_worker::Ops> ops;
  std::unique_ptr<gpu_worker::LlamaModel> model;
  kv_node::Scratch scratch;
};

// Not thread safe.
class Workers {
 public:
  // Loads the model of a Hugging Face directory once per thread; threads >= 1.
  static absl::StatusOr<std::unique_ptr<Workers>> Create(const std::string& model_directory,
                                                         int threads);

  const gpu_worker::ModelConfig& config() const { return workers_[0]->model->config(); }

  // Calls body(i, worker) for every i in [0, count), a worker at a time in one call each. The first
  // error (of the smallest i that failed) is returned; iterations not yet begun are then skipped.
  absl::Status For(int64_t count, const std::function<absl::Status(int64_t, Worker&)>& body);

 private:
  explicit Workers(int threads) : team_(threads) {}

  gpu_worker::ThreadTeam team_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace sounder::quality

#endif  // SOUNDER_BENCH_QUALITY_WORKERS_H_
