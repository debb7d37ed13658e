// Matrix products of the CPU backend, by oneDNN. Private to ops_cpu.cc and its tests.
#ifndef SOUNDER_GPU_WORKER_OPS_OPS_CPU_MATMUL_H_
#define SOUNDER_GPU_WORKER_OPS_OPS_CPU_MATMUL_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/tensor_file/tensor_file.h"
#include "dnnl.hpp"
#include "gpu_worker/ops/ops.h"
#include "gpu_worker/ops/thread_team.h"

namespace sounder::gpu_worker {

// A product is cut into blocks of kBlockRows x kBlockOutputs results whatever the number of
// threads, and oneDNN computes one block on one thread: so results do not depend on threads.
inline constexpr int64_t kBlockRows = 128;
inline constexpr int64_t kBlockOutputs = 256;

// Thread compatible. Keeps the compiled kernel of each block shape and its memory handles, so a
// product whose shape was seen before allocates nothing of its size.
class CpuMatMul {
 public:
  // `team` is borrowed.
  explicit CpuMatMul(ThreadTeam* team);
  ~CpuMatMul();

  // Packs the tensor, as f32, into the layout of this machine's kernels.
  absl::StatusOr<std::unique_ptr<Matrix>> Load(const tensor_file::TensorView& view);
  // As Ops::MatMul, on at most `members` of the team.
  absl::Status Run(const float* x, int64_t rows, const Matrix& w, float* y, int members);
  // oneDNN's names of the kernels compiled so far ("brg:avx512_core", ...).
  std::vector<std::string> KernelNames() const;

 private:
  struct Kernel;
  // rows and outputs of a block, inputs, outputs of the whole matrix (the stride of y).
  using Shape = std::array<int64_t, 4>;
  Kernel& KernelFor(const Shape& shape);

  ThreadTeam* const team_;
  dnnl::engine engine_;
  std::vector<dnnl::stream> streams_;  // by member of the team
  std::map<Shape, std::unique_ptr<Kernel>> kernels_;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_OPS_OPS_CPU_MATMUL_H_
