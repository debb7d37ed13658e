// Every computation of a model's forward pass except attention, one declaration each. The model is
// written against this class alone; a backend (ref, cpu, later a GPU) is one implementation of it,
// and all of them must agree.
//
// Conventions. Arrays are row-major without padding: [rows, cols] has row r at r * cols. Pointers
// named x, y, ... are in the backend's memory (FloatArray); std::span arguments are in host memory.
// Inputs and outputs do not overlap unless an operation says so. rows may be 0. Every operation
// returns OK or INTERNAL (the backend's library or device failed); wrong shapes are our own bugs
// and CHECKed.
//
// Thread compatible: one operation at a time per Ops object.
#ifndef SOUNDER_GPU_WORKER_OPS_OPS_H_
#define SOUNDER_GPU_WORKER_OPS_OPS_H_

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/tensor_file/tensor_file.h"
#include "gpu_worker/ops/float_array.h"

namespace sounder::gpu_worker {

// The weights W [outputs, inputs] of a linear layer, in whatever layout the backend multiplies
// fastest. Made by the Ops object that uses it, and must not outlive it.
class Matrix {
 public:
  virtual ~Matrix() = default;
  virtual int64_t outputs() const = 0;
  virtual int64_t inputs() const = 0;
};

class Ops {
 public:
  virtual ~Ops() = default;

  // --- Memory -------------------------------------------------------------------------------
  // `size` floats, zero. RESOURCE_EXHAUSTED if the backend has no room.
  virtual absl::StatusOr<FloatArray> NewArray(int64_t size) = 0;
  // A tensor as f32, row-major; the view is copied.
  virtual absl::StatusOr<FloatArray> LoadArray(const tensor_file::TensorView& view) = 0;
  // A tensor [outputs, inputs] as weights for MatMul; the view is copied and, on CPU, widened to
  // f32 once.
  virtual absl::StatusOr<std::unique_ptr<Matrix>> LoadMatrix(
      const tensor_file::TensorView& view) = 0;
  // Copies from the backend's memory to the host, after everything before it is done.
  virtual absl::Status Read(const float* x, std::span<float> host) = 0;

  // --- Operations ---------------------------------------------------------------------------
  // y [rows, w.outputs] = x [rows, w.inputs] W^T.
  virtual absl::Status MatMul(const float* x, int64_t rows, const Matrix& w, float* y) = 0;

  // y[r, c] = weight[c] * x[r, c] / sqrt(mean over c of x[r, c]^2 + epsilon). y may be x.
  virtual absl::Status RmsNorm(const float* x, const float* weight, int64_t rows, int64_t cols,
                               double epsilon, float* y) = 0;

  // cos, sin [rows, half]: of positions[row] * inverse_frequencies[i], the angle in double.
  virtual absl::Status RopeTables(std::span<const int64_t> positions,
                                  std::span<const double> inverse_frequencies, float* cos,
                                  float* sin) = 0;

  // Rotates x [rows, heads, 2 * half] in place, pairing element i with i + half of each head (the
  // rotate-half form): (a, b) -> (a cos - b sin, b cos + a sin).
  virtual absl::Status ApplyRope(const float* cos, const float* sin, int64_t rows, int64_t heads,
                                 int64_t half, float* x) = 0;

  // gate[i] = silu(gate[i]) * up[i], silu(g) = g / (1 + e^-g).
  virtual absl::Status SiluMul(const float* up, int64_t size, float* gate) = 0;

  // y[r, :] = table[rows[r], :]; table [*, cols].
  virtual absl::Status GatherRows(const float* table, int64_t cols, std::span<const int32_t> rows,
                                  float* y) = 0;

  // y[i] += x[i].
  virtual absl::Status Add(const float* x, int64_t size, float* y) = 0;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_OPS_OPS_H_
