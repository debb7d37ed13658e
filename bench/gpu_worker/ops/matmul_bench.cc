// Matrix products of the CPU backend over the shapes of decode (few rows) and prefill (many).
// Arguments: rows, inputs, outputs, threads.
#include <benchmark/benchmark.h>

#include <vector>

#include "common/base/check.h"
#include "common/base/philox.h"
#include "common/tensor_file/tensor_writer.h"
#include "gpu_worker/ops/ops_cpu.h"

namespace sounder::gpu_worker {
namespace {

std::vector<float> Gaussian(int64_t size, uint64_t stream) {
  base::PhiloxStream random(1, stream);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& value : values) value = static_cast<float>(random.NextGaussian());
  return values;
}

void BM_MatMul(benchmark::State& state) {
  const int64_t rows = state.range(0), inputs = state.range(1), outputs = state.range(2);
  auto ops = MakeCpuOps({.threads = static_cast<int>(state.range(3))});
  CHECK(ops.ok()) << ops.status();
  const auto weights = tensor_file::EncodeAs(base::DType::kF32, Gaussian(outputs * inputs, 1));
  const auto matrix = (*ops)->LoadMatrix({base::DType::kF32, {outputs, inputs}, weights});
  CHECK(matrix.ok()) << matrix.status();
  const std::vector<float> x = Gaussian(rows * inputs, 2);
  std::vector<float> y(static_cast<size_t>(rows * outputs));
  for (auto _ : state) {
    const absl::Status status = (*ops)->MatMul(x.data(), rows, **matrix, y.data());
    CHECK(status.ok()) << status;
    benchmark::ClobberMemory();
  }
  const double products = static_cast<double>(state.iterations()) * static_cast<double>(inputs) *
                          static_cast<double>(outputs);
  state.counters["flop/s"] =
      benchmark::Counter(2 * products * static_cast<double>(rows), benchmark::Counter::kIsRate);
  state.counters["weight_bytes/s"] = benchmark::Counter(4 * products, benchmark::Counter::kIsRate);
}

BENCHMARK(BM_MatMul)
    ->ArgsProduct({{1, 8, 64, 512}, {256}, {512}, {1, 2}})
    ->ArgsProduct({{1, 8, 64, 512}, {2048}, {5632}, {1, 2}})
    ->UseRealTime();

}  // namespace
}  // namespace sounder::gpu_worker

BENCHMARK_MAIN();
