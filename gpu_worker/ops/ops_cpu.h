// The CPU backend: matrix products by oneDNN, the rest by loops the compiler vectorises.
#ifndef SOUNDER_GPU_WORKER_OPS_OPS_CPU_H_
#define SOUNDER_GPU_WORKER_OPS_OPS_CPU_H_

#include <memory>

#include "absl/status/statusor.h"
#include "gpu_worker/ops/ops.h"

namespace sounder::gpu_worker {

struct CpuOpsOptions {
  // Threads one operation may use, the caller's among them; 0: all of the machine. More threads
  // shorten prefill; small operations use fewer by themselves. Results do not depend on it.
  int threads = 0;
};

// INVALID_ARGUMENT for threads < 0 or > 1024.
absl::StatusOr<std::unique_ptr<Ops>> MakeCpuOps(const CpuOpsOptions& options);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_OPS_OPS_CPU_H_
