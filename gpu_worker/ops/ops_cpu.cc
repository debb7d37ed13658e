#include "gpu_worker/ops/ops_cpu.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "gpu_worker/ops/ops_cpu_matmul.h"
#include "gpu_worker/ops/thread_team.h"

namespace sounder::gpu_worker {
namespace {

// Waking a thread costs about 10 us; below this much work for each it is not worth it.
constexpr double kNanosecondsPerMember = 50e3;
// Element-wise loops run in pieces of this many elements.
constexpr int64_t kPieceElements = 16384;

class CpuOps final : public Ops {
 public:
  explicit CpuOps(int threads) : team_(threads), matmul_(&team_) {}

  absl::StatusOr<FloatArray> NewArray(int64_t size) override {
    CHECK(size >= 0) << size;
    try {
      return FloatArray::OnHost(static_cast<size_t>(size));
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError(absl::StrCat("no memory for ", size, " floats"));
    }
  }

  absl::StatusOr<FloatArray> LoadArray(const tensor_file::TensorView& view) override {
    auto array = NewArray(view.elements());
    if (array.ok()) tensor_file::CopyToF32(view, {array->data(), array->size()});
    return array;
  }

  absl::StatusOr<std::unique_ptr<Matrix>> LoadMatrix(const tensor_file::TensorView& view) override {
    return matmul_.Load(view);
  }

  absl::Status Read(const float* x, std::span<float> host) override {
    std::copy_n(x, host.size(), host.data());
    return absl::OkStatus();
  }

  absl::Status MatMul(const float* x, int64_t rows, const Matrix& w, float* y) override {
    // About 80 flop and 10 bytes of weights a nanosecond on one core.
    const double weights = static_cast<double>(w.outputs()) * static_cast<double>(w.inputs());
    return matmul_.Run(x, rows, w, y,
                       Members(2 * weights * static_cast<double>(rows) / 80 + 4 * weights / 10));
  }

  absl::Status RmsNorm(const float* x, const float* weight, int64_t rows, int64_t cols,
                       double epsilon, float* y) override {
    ForRows(rows, cols, [=](int64_t row) {
      const float* from = x + row * cols;
      float* to = y + row * cols;
      // Eight sums in a fixed order: fast without leave to reorder, and the same everywhere.
      double squares[8] = {};
      int64_t c = 0;
      for (; c + 8 <= cols; c += 8) {
        for (int lane = 0; lane < 8; ++lane)
          squares[lane] += double{from[c + lane]} * from[c + lane];
      }
      for (; c < cols; ++c) squares[0] += double{from[c]} * from[c];
      const double sum = ((squares[0] + squares[1]) + (squares[2] + squares[3])) +
                         ((squares[4] + squares[5]) + (squares[6] + squares[7]));
      const float scale =
          static_cast<float>(1 / std::sqrt(sum / static_cast<double>(cols) + epsilon));
      for (c = 0; c < cols; ++c) to[c] = weight[c] * (from[c] * scale);
    });
    return absl::OkStatus();
  }

  absl::Status RopeTables(std::span<const int64_t> positions,
                          std::span<const double> inverse_frequencies, float* cos,
                          float* sin) override {
    const int64_t half = static_cast<int64_t>(inverse_frequencies.size());
    ForRows(static_cast<int64_t>(positions.size()), 32 * half, [=](int64_t row) {
      const double position = static_cast<double>(positions[static_cast<size_t>(row)]);
      for (int64_t i = 0; i < half; ++i) {
        const double angle = position * inverse_frequencies[static_cast<size_t>(i)];
        cos[row * half + i] = static_cast<float>(std::cos(angle));
        sin[row * half + i] = static_cast<float>(std::sin(angle));
      }
    });
    return absl::OkStatus();
  }

  absl::Status ApplyRope(const float* cos, const float* sin, int64_t rows, int64_t heads,
                         int64_t half, float* x) override {
    ForRows(rows, 2 * heads * half, [=](int64_t row) {
      const float* c = cos + row * half;
      const float* s = sin + row * half;
      for (int64_t head = 0; head < heads; ++head) {
        float* a = x + (row * heads + head) * 2 * half;
        float* b = a + half;
        for (int64_t i = 0; i < half; ++i) {
          const float first = a[i] * c[i] - b[i] * s[i];
          b[i] = b[i] * c[i] + a[i] * s[i];
          a[i] = first;
        }
      }
    });
    return absl::OkStatus();
  }

  absl::Status SiluMul(const float* up, int64_t size, float* gate) override {
    // The exponential makes one element cost about eight.
    ForPieces(size, 8, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    });
    return absl::OkStatus();
  }

  absl::Status GatherRows(const float* table, int64_t cols, std::span<const int32_t> rows,
                          float* y) override {
    for (const int32_t row : rows) y = std::copy_n(table + row * cols, cols, y);
    return absl::OkStatus();
  }

  absl::Status Add(const float* x, int64_t size, float* y) override {
    ForPieces(size, 1, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] += x[i];
    });
    return absl::OkStatus();
  }

 private:
  int Members(double nanoseconds) const {
    return static_cast<int>(
        std::clamp(nanoseconds / kNanosecondsPerMember, 1.0, static_cast<double>(team_.size())));
  }

  // body(row) for each row, a row costing about `cost` nanoseconds / 2.
  template <typename Body>
  void ForRows(int64_t rows, int64_t cost, const Body& body) {
    const int members = Members(static_cast<double>(rows) * static_cast<double>(cost) / 2);
    const int64_t piece = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, cost));
    team_.For((rows + piece - 1) / piece, members, [&](int64_t number, int) {
      const int64_t end = std::min(rows, (number + 1) * piece);
      for (int64_t row = number * piece; row < end; ++row) body(row);
    });
  }

  // body(begin, end) over pieces of [0, size), an element costing about `cost` nanoseconds / 2.
  template <typename Body>
  void ForPieces(int64_t size, int64_t cost, const Body& body) {
    const int members = Members(static_cast<double>(size) * static_cast<double>(cost) / 2);
    team_.For((size + kPieceElements - 1) / kPieceElements, members, [&](int64_t number, int) {
      body(number * kPieceElements, std::min(size, (number + 1) * kPieceElements));
    });
  }

  ThreadTeam team_;
  CpuMatMul matmul_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> MakeCpuOps(const CpuOpsOptions& options) {
  if (options.threads < 0 || options.threads > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads must be from 0 (all) to 1024, not ", options.threads));
  }
  const int hardware = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return std::make_unique<CpuOps>(options.threads == 0 ? hardware : options.threads);
}

}  // namespace sounder::gpu_worker
