#include "gpu_worker/ops/ops_cpu_matmul.h"

#include <algorithm>
#include <atomic>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

// Debian's oneDNN runs on OpenMP and takes its thread count from the calling thread's setting. The
// declarations stand in for <omp.h>, which clang does not have without its own runtime.
extern "C" {
void omp_set_num_threads(int threads);
int omp_get_max_threads(void);
}

namespace sounder::gpu_worker {
namespace {

using Tag = dnnl::memory::format_tag;
constexpr auto kF32 = dnnl::memory::data_type::f32;
// Rows of the product the packed layout is chosen for; other row counts use the same layout.
constexpr int64_t kLayoutRows = 64;
// Every batch size needs kernels of its own; beyond this many all are dropped and made again.
constexpr size_t kMaxKernels = 512;

// Keeps oneDNN on the calling thread while alive.
class OneOmpThread {
 public:
  OneOmpThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneOmpThread() { omp_set_num_threads(before_); }
  OneOmpThread(const OneOmpThread&) = delete;
  OneOmpThread& operator=(const OneOmpThread&) = delete;

 private:
  int before_;
};

class PackedMatrix final : public Matrix {
 public:
  PackedMatrix(int64_t outputs, int64_t inputs) : outputs_(outputs), inputs_(inputs) {}
  int64_t outputs() const override { return outputs_; }
  int64_t inputs() const override { return inputs_; }

  std::vector<dnnl::memory> blocks;  // [inputs, <= kBlockOutputs] each

 private:
  int64_t outputs_;
  int64_t inputs_;
};

dnnl::memory::desc PlainWeights(int64_t inputs, int64_t outputs) {
  return {{inputs, outputs}, kF32, Tag::ba};
}

dnnl::matmul::primitive_desc Describe(int64_t rows, int64_t inputs, int64_t outputs,
                                      int64_t y_stride, const dnnl::memory::desc& weights,
                                      const dnnl::engine& engine) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::memory::desc x({rows, inputs}, kF32, Tag::ab);
  const dnnl::memory::desc y({rows, outputs}, kF32, dnnl::memory::dims{y_stride, 1});
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(x, weights, y), attributes, engine);
}

dnnl::memory::desc PackedWeights(int64_t inputs, int64_t outputs, int64_t y_stride,
                                 const dnnl::engine& engine) {
  const dnnl::memory::desc any({inputs, outputs}, kF32, Tag::any);
  return Describe(kLayoutRows, inputs, outputs, y_stride, any, engine).weights_desc();
}

}  // namespace

// One compiled block shape with one set of memory handles per member of the team.
struct CpuMatMul::Kernel {
  struct Slot {
    dnnl::memory x;
    dnnl::memory y;
    std::unordered_map<int, dnnl::memory> arguments;  // holds the above and the weights
  };
  dnnl::matmul primitive;
  std::vector<Slot> slots;
  std::string name;
};

CpuMatMul::CpuMatMul(ThreadTeam* team) : team_(team), engine_(dnnl::engine::kind::cpu, 0) {
  for (int member = 0; member < team->size(); ++member) streams_.emplace_back(engine_);
}

CpuMatMul::~CpuMatMul() = default;

absl::StatusOr<std::unique_ptr<Matrix>> CpuMatMul::Load(const tensor_file::TensorView& view) {
  CHECK(view.shape.size() == 2);
  const int64_t outputs = view.shape[0];
  const int64_t inputs = view.shape[1];
  CHECK(outputs > 0 && inputs > 0);
  auto matrix = std::make_unique<PackedMatrix>(outputs, inputs);
  const OneOmpThread one;
  std::vector<float> rows;
  try {
    for (int64_t begin = 0; begin < outputs; begin += kBlockOutputs) {
      const int64_t count = std::min(kBlockOutputs, outputs - begin);
      const size_t row_bytes = static_cast<size_t>(inputs) * base::SizeOf(view.dtype);
      const tensor_file::TensorView block{
          view.dtype,
          {count, inputs},
          view.data.subspan(static_cast<size_t>(begin) * row_bytes,
                            static_cast<size_t>(count) * row_bytes)};
      rows.resize(static_cast<size_t>(count * inputs));
      tensor_file::CopyToF32(block, rows);
      dnnl::memory plain(PlainWeights(inputs, count), engine_, rows.data());
      dnnl::memory packed(PackedWeights(inputs, count, outputs, engine_), engine_);
      dnnl::reorder(plain, packed).execute(streams_[0], plain, packed);
      streams_[0].wait();
      matrix->blocks.push_back(std::move(packed));
    }
  } catch (const dnnl::error& error) {
    return absl::InternalError(
        absl::StrCat("oneDNN cannot pack weights [", outputs, ", ", inputs, "]: ", error.what()));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for weights [", outputs, ", ", inputs, "]"));
  }
  return matrix;
}

CpuMatMul::Kernel& CpuMatMul::KernelFor(const Shape& shape) {
  std::unique_ptr<Kernel>& kernel = kernels_[shape];
  if (kernel != nullptr) return *kernel;
  const auto [rows, outputs, inputs, y_stride] = shape;
  const auto description = Describe(rows, inputs, outputs, y_stride,
                                    PackedWeights(inputs, outputs, y_stride, engine_), engine_);
  auto made = std::make_unique<Kernel>();
  made->primitive = dnnl::matmul(description);
  made->name = description.impl_info_str();
  for (int member = 0; member < team_->size(); ++member) {
    Kernel::Slot slot;
    slot.x = dnnl::memory(description.src_desc(), engine_, nullptr);
    slot.y = dnnl::memory(description.dst_desc(), engine_, nullptr);
    slot.arguments = {{DNNL_ARG_SRC, slot.x},
                      {DNNL_ARG_DST, slot.y},
                      {DNNL_ARG_SCRATCHPAD, dnnl::memory(description.scratchpad_desc(), engine_)}};
    made->slots.push_back(std::move(slot));
  }
  kernel = std::move(made);
  return *kernel;
}

absl::Status CpuMatMul::Run(const float* x, int64_t rows, const Matrix& w, float* y, int members) {
  const auto& matrix = static_cast<const PackedMatrix&>(w);
  const int64_t outputs = w.outputs();
  const int64_t inputs = w.inputs();
  const int64_t column_blocks = static_cast<int64_t>(matrix.blocks.size());
  const int64_t row_blocks = (rows + kBlockRows - 1) / kBlockRows;
  const auto block_shape = [&](int64_t row_block, int64_t column_block) {
    return Shape{std::min(kBlockRows, rows - row_block * kBlockRows),
                 std::min(kBlockOutputs, outputs - column_block * kBlockOutputs), inputs, outputs};
  };
  const auto run_block = [&](int64_t block, int member) {
    const OneOmpThread one;
    const int64_t row_block = block / column_blocks;
    const int64_t column_block = block % column_blocks;
    Kernel& kernel = *kernels_.find(block_shape(row_block, column_block))->second;
    Kernel::Slot& slot = kernel.slots[static_cast<size_t>(member)];
    // oneDNN only reads its source, but its handles are not const.
    slot.x.set_data_handle(const_cast<float*>(x) + row_block * kBlockRows * inputs);
    slot.y.set_data_handle(y + row_block * kBlockRows * outputs + column_block * kBlockOutputs);
    slot.arguments[DNNL_ARG_WEIGHTS] = matrix.blocks[static_cast<size_t>(column_block)];
    kernel.primitive.execute(streams_[static_cast<size_t>(member)], slot.arguments);
  };
  if (rows == 0) return absl::OkStatus();
  try {
    const OneOmpThread one;
    if (kernels_.size() > kMaxKernels) kernels_.clear();
    for (const int64_t row_block : {int64_t{0}, row_blocks - 1}) {
      for (const int64_t column_block : {int64_t{0}, column_blocks - 1}) {
        KernelFor(block_shape(row_block, column_block));
      }
    }
  } catch (const dnnl::error& error) {
    return absl::InternalError(absl::StrCat("oneDNN has no kernel for [", rows, ", ", inputs,
                                            "] x [", inputs, ", ", outputs, "]: ", error.what()));
  }
  std::atomic<bool> failed = false;
  team_->For(row_blocks * column_blocks, members, [&](int64_t block, int member) {
    try {
      run_block(block, member);
    } catch (const dnnl::error&) {
      failed = true;
    }
  });
  if (failed) return absl::InternalError("oneDNN failed in a matrix product");
  return absl::OkStatus();
}

std::vector<std::string> CpuMatMul::KernelNames() const {
  std::vector<std::string> names;
  for (const auto& [shape, kernel] : kernels_) names.push_back(kernel->name);
  return names;
}

}  // namespace sounder::gpu_worker
