// The reference backend: plain loops in double precision, rounded to f32 once per result. Slow, and
// meant to be obviously right; every other backend is tested against it.
#ifndef SOUNDER_GPU_WORKER_OPS_OPS_REF_H_
#define SOUNDER_GPU_WORKER_OPS_OPS_REF_H_

#include <memory>

#include "gpu_worker/ops/ops.h"

namespace sounder::gpu_worker {

std::unique_ptr<Ops> MakeRefOps();

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_OPS_OPS_REF_H_
