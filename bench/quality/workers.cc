#include "bench/quality/workers.h"

#include <atomic>

#include "common/base/status_macros.h"
#include "gpu_worker/ops/ops_cpu.h"

namespace sounder::quality {

absl::StatusOr<std::unique_ptr<Workers>> Workers::Create(const std::string& model_directory,
                                                         int threads) {
  std::unique_ptr<Workers> workers(new Workers(threads));
  for (int i = 0; i < threads; ++i) {
    auto worker = std::make_unique<Worker>();
    ASSIGN_OR_RETURN(worker->ops, gpu_worker::MakeCpuOps({.threads = 1}));
    ASSIGN_OR_RETURN(worker->model,
                     gpu_worker::LlamaModel::Load(model_directory, worker->ops.get()));
    workers->workers_.push_back(std::move(worker));
  }
  return workers;
}

absl::Status Workers::For(int64_t count,
                          const std::function<absl::Status(int64_t, Worker&)>& body) {
  std::vector<absl::Status> statuses(static_cast<size_t>(count));
  std::atomic<bool> failed = false;
  team_.For(count, team_.size(), [&](int64_t i, int member) {
    if (failed) return;
    statuses[i] = body(i, *workers_[member]);
    if (!statuses[i].ok()) failed = true;
  });
  for (const absl::Status& status : statuses) RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

}  // namespace sounder::quality
