#include "gpu_worker/ops/ops_ref.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/base/check.h"

namespace sounder::gpu_worker {
namespace {

class RefMatrix final : public Matrix {
 public:
  RefMatrix(FloatArray values, int64_t outputs, int64_t inputs)
      : values_(std::move(values)), outputs_(outputs), inputs_(inputs) {}
  int64_t outputs() const override { return outputs_; }
  int64_t inputs() const override { return inputs_; }
  const float* Row(int64_t output) const { return values_.data() + output * inputs_; }

 private:
  FloatArray values_;
  int64_t outputs_;
  int64_t inputs_;
};

class RefOps final : public Ops {
 public:
  absl::StatusOr<FloatArray> NewArray(int64_t size) override {
    CHECK(size >= 0) << size;
    return FloatArray::OnHost(static_cast<size_t>(size));
  }

  absl::StatusOr<FloatArray> LoadArray(const tensor_file::TensorView& view) override {
    FloatArray array = FloatArray::OnHost(static_cast<size_t>(view.elements()));
    tensor_file::CopyToF32(view, {array.data(), array.size()});
    return array;
  }

  absl::StatusOr<std::unique_ptr<Matrix>> LoadMatrix(const tensor_file::TensorView& view) override {
    CHECK(view.shape.size() == 2);
    auto array = LoadArray(view);
    if (!array.ok()) return array.status();
    return std::make_unique<RefMatrix>(*std::move(array), view.shape[0], view.shape[1]);
  }

  absl::Status Read(const float* x, std::span<float> host) override {
    std::copy_n(x, host.size(), host.data());
    return absl::OkStatus();
  }

  absl::Status MatMul(const float* x, int64_t rows, const Matrix& w, float* y) override {
    const auto& matrix = static_cast<const RefMatrix&>(w);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t o = 0; o < w.outputs(); ++o) {
        double sum = 0;
        for (int64_t i = 0; i < w.inputs(); ++i) {
          sum += double{x[r * w.inputs() + i]} * matrix.Row(o)[i];
        }
        y[r * w.outputs() + o] = static_cast<float>(sum);
      }
    }
    return absl::OkStatus();
  }

  absl::Status RmsNorm(const float* x, const float* weight, int64_t rows, int64_t cols,
                       double epsilon, float* y) override {
    for (int64_t r = 0; r < rows; ++r, x += cols, y += cols) {
      double squares = 0;
      for (int64_t c = 0; c < cols; ++c) squares += double{x[c]} * x[c];
      const double scale = 1 / std::sqrt(squares / static_cast<double>(cols) + epsilon);
      for (int64_t c = 0; c < cols; ++c) y[c] = static_cast<float>(weight[c] * (x[c] * scale));
    }
    return absl::OkStatus();
  }

  absl::Status RopeTables(std::span<const int64_t> positions,
                          std::span<const double> inverse_frequencies, float* cos,
                          float* sin) override {
    for (const int64_t position : positions) {
      for (const double frequency : inverse_frequencies) {
        const double angle = static_cast<double>(position) * frequency;
        *cos++ = static_cast<float>(std::cos(angle));
        *sin++ = static_cast<float>(std::sin(angle));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ApplyRope(const float* cos, const float* sin, int64_t rows, int64_t heads,
                         int64_t half, float* x) override {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t h = 0; h < heads; ++h, x += 2 * half) {
        for (int64_t i = 0; i < half; ++i) {
          const double c = cos[r * half + i];
          const double s = sin[r * half + i];
          const double a = x[i];
          const double b = x[i + half];
          x[i] = static_cast<float>(a * c - b * s);
          x[i + half] = static_cast<float>(b * c + a * s);
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status SiluMul(const float* up, int64_t size, float* gate) override {
    for (int64_t i = 0; i < size; ++i) {
      const double g = gate[i];
      gate[i] = static_cast<float>(g / (1 + std::exp(-g)) * up[i]);
    }
    return absl::OkStatus();
  }

  absl::Status GatherRows(const float* table, int64_t cols, std::span<const int32_t> rows,
                          float* y) override {
    for (const int32_t row : rows) y = std::copy_n(table + row * cols, cols, y);
    return absl::OkStatus();
  }

  absl::Status Add(const float* x, int64_t size, float* y) override {
    for (int64_t i = 0; i < size; ++i) y[i] += x[i];
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<Ops> MakeRefOps() { return std::make_unique<RefOps>(); }

}  // namespace sounder::gpu_worker
