// The CPU backend against the reference over odd sizes. Every operation has an error bound that
// follows from its arithmetic, and the reference itself is checked against values worked out by
// hand.
#include "gpu_worker/ops/ops.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/tensor_file/tensor_writer.h"
#include "gpu_worker/ops/ops_cpu.h"
#include "gpu_worker/ops/ops_cpu_matmul.h"
#include "gpu_worker/ops/ops_ref.h"

namespace sounder::gpu_worker {
namespace {

using testing::ElementsAre;
using testing::FloatEq;

constexpr double kEpsilon = 0x1p-24;  // half a unit in the last place of f32, relative

std::vector<float> Gaussian(int64_t size, uint64_t stream) {
  base::PhiloxStream random(11, stream);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& value : values) value = static_cast<float>(random.NextGaussian());
  return values;
}

std::unique_ptr<Ops> Cpu(int threads) {
  auto ops = MakeCpuOps({.threads = threads});
  EXPECT_TRUE(ops.ok()) << ops.status();
  return *std::move(ops);
}

struct Tensor {
  std::vector<std::byte> data;
  tensor_file::TensorView view;
};

Tensor MakeTensor(base::DType dtype, std::vector<int64_t> shape, const std::vector<float>& values) {
  Tensor tensor{tensor_file::EncodeAs(dtype, values), {}};
  tensor.view = {dtype, std::move(shape), tensor.data};
  return tensor;
}

std::vector<float> MatMul(Ops& ops, const Tensor& weights, const std::vector<float>& x,
                          int64_t rows) {
  const auto matrix = ops.LoadMatrix(weights.view);
  EXPECT_TRUE(matrix.ok()) << matrix.status();
  // Filled with NaN, so that a result that was not written shows.
  std::vector<float> y(static_cast<size_t>(rows * (*matrix)->outputs()), NAN);
  EXPECT_TRUE(ops.MatMul(x.data(), rows, **matrix, y.data()).ok());
  return y;
}

struct Sizes {
  int64_t rows, inputs, outputs;
};
const Sizes kSizes[] = {{1, 1, 1},    {2, 3, 5},      {1, 48, 97},    {7, 33, 256},
                        {3, 64, 257}, {128, 17, 31},  {129, 40, 300}, {300, 96, 513},
                        {5, 515, 1},  {1, 1000, 777}, {31, 129, 64}};

// How far f32 arithmetic may lead a product from the exact one: `inputs` roundings that mostly
// cancel (hence the root), each at most an epsilon of a partial sum, which is at most the sum of |x
// w|.
std::vector<double> MatMulBounds(const Tensor& w, const std::vector<float>& x, int64_t rows) {
  const int64_t outputs = w.view.shape[0];
  const int64_t inputs = w.view.shape[1];
  std::vector<float> weights(static_cast<size_t>(outputs * inputs));
  tensor_file::CopyToF32(w.view, weights);
  std::vector<double> bounds;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < inputs; ++i) {
        sum += std::abs(double{x[static_cast<size_t>(r * inputs + i)]} *
                        weights[static_cast<size_t>(o * inputs + i)]);
      }
      bounds.push_back(4 * kEpsilon * std::sqrt(static_cast<double>(inputs)) * sum);
    }
  }
  return bounds;
}

int64_t CountBeyond(const std::vector<float>& got, const std::vector<float>& expected,
                    const std::vector<double>& bounds) {
  int64_t count = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!(std::abs(double{got[i]} - expected[i]) <= bounds[i])) ++count;  // NaN too
  }
  return count;
}

TEST(OpsTest, MatMulMatchesTheReference) {
  const std::unique_ptr<Ops> ref = MakeRefOps();
  const std::unique_ptr<Ops> cpu = Cpu(2);
  for (const base::DType dtype : {base::DType::kF32, base::DType::kF16, base::DType::kBF16}) {
    for (const auto& [rows, inputs, outputs] : kSizes) {
      const Tensor w = MakeTensor(dtype, {outputs, inputs}, Gaussian(outputs * inputs, 1));
      const std::vector<float> x = Gaussian(rows * inputs, 2);
      const std::vector<float> expected = MatMul(*ref, w, x, rows);
      const std::vector<float> got = MatMul(*cpu, w, x, rows);
      EXPECT_EQ(CountBeyond(got, expected, MatMulBounds(w, x, rows)), 0)
          << rows << "x" << inputs << "x" << outputs;
    }
  }
}

TEST(OpsTest, TheMatMulBoundNoticesBfloat16Arithmetic) {  // negative control
  const std::unique_ptr<Ops> cpu = Cpu(1);
  const Tensor w = MakeTensor(base::DType::kF32, {97, 48}, Gaussian(97 * 48, 1));
  const std::vector<float> x = Gaussian(2 * 48, 2);
  std::vector<float> rounded = x;
  for (float& value : rounded) value = base::RoundTo(base::DType::kBF16, value);
  EXPECT_GT(CountBeyond(MatMul(*cpu, w, rounded, 2), MatMul(*MakeRefOps(), w, x, 2),
                        MatMulBounds(w, x, 2)),
            150);
}

TEST(OpsTest, ReferenceMatMulByHand) {
  const std::unique_ptr<Ops> ref = MakeRefOps();
  const Tensor w = MakeTensor(base::DType::kF32, {2, 3}, {1, 2, 3, 4, 5, 6});
  EXPECT_THAT(MatMul(*ref, w, {1, 0, 0, 1, 10, 100}, 2), ElementsAre(1, 4, 321, 654));
}

TEST(OpsTest, ResultsDoNotDependOnThreads) {
  const std::unique_ptr<Ops> one = Cpu(1);
  for (const int threads : {2, 3, 8}) {
    const std::unique_ptr<Ops> many = Cpu(threads);
    for (const auto& [rows, inputs, outputs] :
         std::vector<Sizes>{{1, 1024, 1500}, {129, 200, 513}, {300, 256, 300}}) {
      const Tensor w =
          MakeTensor(base::DType::kF32, {outputs, inputs}, Gaussian(outputs * inputs, 1));
      const std::vector<float> x = Gaussian(rows * inputs, 2);
      EXPECT_EQ(MatMul(*one, w, x, rows), MatMul(*many, w, x, rows)) << threads;
      std::vector<float> a = x;
      std::vector<float> b = x;
      ASSERT_TRUE(one->RmsNorm(x.data(), x.data(), rows, inputs, 1e-5, a.data()).ok());
      ASSERT_TRUE(many->RmsNorm(x.data(), x.data(), rows, inputs, 1e-5, b.data()).ok());
      EXPECT_EQ(a, b);
      ASSERT_TRUE(one->SiluMul(x.data(), rows * inputs, a.data()).ok());
      ASSERT_TRUE(many->SiluMul(x.data(), rows * inputs, b.data()).ok());
      EXPECT_EQ(a, b);
    }
  }
}

TEST(OpsTest, ProductsOfManyShapesDoNotForgetEachOther) {
  // More block shapes than are kept.
  const std::unique_ptr<Ops> ref = MakeRefOps();
  const std::unique_ptr<Ops> cpu = Cpu(1);
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t inputs = 1; inputs <= 300; ++inputs) {
      const Tensor w = MakeTensor(base::DType::kF32, {2, inputs}, Gaussian(2 * inputs, 1));
      for (int64_t rows = 1; rows <= 2; ++rows) {
        const std::vector<float> x = Gaussian(rows * inputs, 3);
        const std::vector<float> got = MatMul(*cpu, w, x, rows);
        EXPECT_EQ(CountBeyond(got, MatMul(*ref, w, x, rows), MatMulBounds(w, x, rows)), 0);
      }
    }
  }
}

TEST(OpsTest, NoShapeFallsBackToOneDnnsReferenceKernel) {
  ThreadTeam team(1);
  CpuMatMul matmul(&team);
  for (const auto& [rows, inputs, outputs] : kSizes) {
    const Tensor w =
        MakeTensor(base::DType::kF32, {outputs, inputs}, Gaussian(outputs * inputs, 1));
    const std::vector<float> x = Gaussian(rows * inputs, 2);
    std::vector<float> y(static_cast<size_t>(rows * outputs));
    const auto matrix = matmul.Load(w.view);
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    ASSERT_TRUE(matmul.Run(x.data(), rows, **matrix, y.data(), 1).ok());
  }
  ASSERT_FALSE(matmul.KernelNames().empty());
  for (const std::string& name : matmul.KernelNames()) {
    EXPECT_EQ(name.find("ref"), std::string::npos) << name;
  }
}

// Runs `op` on both backends from the same values of `data` and compares what it left there.
void ExpectSame(std::vector<float> data, double relative, double absolute,
                const std::function<absl::Status(Ops&, float*)>& op) {
  const std::unique_ptr<Ops> ref = MakeRefOps();
  std::vector<float> expected = data;
  ASSERT_TRUE(op(*ref, expected.data()).ok());
  for (const int threads : {1, 3}) {
    std::vector<float> got = data;
    ASSERT_TRUE(op(*Cpu(threads), got.data()).ok());
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_NEAR(got[i], expected[i], relative * std::abs(expected[i]) + absolute) << i;
    }
  }
}

TEST(OpsTest, RmsNormMatchesTheReference) {
  for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {3, 7}, {2, 8}, {5, 33}, {700, 65}, {1, 4096}}) {
    const std::vector<float> x = Gaussian(rows * cols, 4);
    const std::vector<float> weight = Gaussian(cols, 5);
    const auto op = [&, r = rows, c = cols](Ops& ops, float* y) {
      return ops.RmsNorm(x.data(), weight.data(), r, c, 1e-5, y);
    };
    ExpectSame(std::vector<float>(x.size()), 4 * kEpsilon, 0, op);
    // In place.
    const auto in_place = [&, r = rows, c = cols](Ops& ops, float* y) {
      return ops.RmsNorm(y, weight.data(), r, c, 1e-5, y);
    };
    ExpectSame(x, 4 * kEpsilon, 0, in_place);
  }
}

TEST(OpsTest, RmsNormByHand) {
  for (const auto& ops : {MakeRefOps(), Cpu(1)}) {
    const std::vector<float> x = {3, 4, 0, 0};
    const std::vector<float> weight = {1, 2};
    std::vector<float> y(4);
    ASSERT_TRUE(ops->RmsNorm(x.data(), weight.data(), 2, 2, 0.5, y.data()).ok());
    const float scale = static_cast<float>(1 / std::sqrt(12.5 + 0.5));
    EXPECT_THAT(y, ElementsAre(FloatEq(3 * scale), FloatEq(8 * scale), 0, 0));
  }
}

TEST(OpsTest, RopeMatchesTheReference) {
  const std::vector<int64_t> positions = {0, 1, 77, 131071, 5000000, 3};
  const std::vector<double> frequencies = {1, 0.5, 0.01, 1e-4, 3e-6};
  const int64_t rows = 6, half = 5, heads = 3;
  std::vector<float> cos(30), sin(30), cos_ref(30), sin_ref(30);
  ASSERT_TRUE(Cpu(2)->RopeTables(positions, frequencies, cos.data(), sin.data()).ok());
  ASSERT_TRUE(
      MakeRefOps()->RopeTables(positions, frequencies, cos_ref.data(), sin_ref.data()).ok());
  EXPECT_EQ(cos, cos_ref);
  EXPECT_EQ(sin, sin_ref);
  ExpectSame(Gaussian(rows * heads * 2 * half, 6), 0, 16 * kEpsilon, [&](Ops& ops, float* x) {
    return ops.ApplyRope(cos.data(), sin.data(), rows, heads, half, x);
  });
}

TEST(OpsTest, RopeTurnsPairsHalfAHeadApart) {
  for (const auto& ops : {MakeRefOps(), Cpu(1)}) {
    std::vector<float> cos(2), sin(2);
    const double quarter = std::acos(0.0);
    ASSERT_TRUE(ops->RopeTables(std::vector<int64_t>{1}, std::vector<double>{quarter, 0},
                                cos.data(), sin.data())
                    .ok());
    std::vector<float> x = {1, 2, 3, 4};
    ASSERT_TRUE(ops->ApplyRope(cos.data(), sin.data(), 1, 1, 2, x.data()).ok());
    EXPECT_NEAR(x[0], -3, 1e-6);
    EXPECT_NEAR(x[1], 2, 1e-6);
    EXPECT_NEAR(x[2], 1, 1e-6);
    EXPECT_NEAR(x[3], 4, 1e-6);
  }
}

TEST(OpsTest, SiluMulMatchesTheReference) {
  for (const int64_t size : {1, 7, 16384, 16385, 70001}) {
    const std::vector<float> up = Gaussian(size, 7);
    ExpectSame(Gaussian(size, 8), 6 * kEpsilon, 0,
               [&](Ops& ops, float* gate) { return ops.SiluMul(up.data(), size, gate); });
  }
}

TEST(OpsTest, SiluOfLargeValuesIsFinite) {
  for (const auto& ops : {MakeRefOps(), Cpu(1)}) {
    std::vector<float> gate = {1e4f, -1e4f, 0, 1};
    const std::vector<float> up = {1, 1, 1, 2};
    ASSERT_TRUE(ops->SiluMul(up.data(), 4, gate.data()).ok());
    EXPECT_EQ(gate[0], 1e4f);
    EXPECT_EQ(std::abs(gate[1]), 0);
    EXPECT_EQ(gate[2], 0);
    EXPECT_NEAR(gate[3], 2 * 0.7310585786, 1e-6);
  }
}

TEST(OpsTest, GatherAddAndRead) {
  for (const auto& ops : {MakeRefOps(), Cpu(2)}) {
    const Tensor table = MakeTensor(base::DType::kBF16, {3, 2}, {1, 2, 3, 4, 5, 6});
    auto loaded = ops->LoadArray(table.view);
    ASSERT_TRUE(loaded.ok());
    auto rows = ops->NewArray(6);
    ASSERT_TRUE(rows.ok());
    ASSERT_TRUE(
        ops->GatherRows(loaded->data(), 2, std::vector<int32_t>{2, 0, 2}, rows->data()).ok());
    ASSERT_TRUE(ops->Add(loaded->data(), 6, rows->data()).ok());
    std::vector<float> host(6);
    ASSERT_TRUE(ops->Read(rows->data(), host).ok());
    EXPECT_THAT(host, ElementsAre(6, 8, 4, 6, 10, 12));
  }
}

TEST(OpsTest, NoRowsIsNoWork) {
  const Tensor w = MakeTensor(base::DType::kF32, {2, 3}, {1, 2, 3, 4, 5, 6});
  for (const auto& ops : {MakeRefOps(), Cpu(2)}) {
    EXPECT_TRUE(MatMul(*ops, w, {}, 0).empty());
    EXPECT_TRUE(ops->RmsNorm(nullptr, nullptr, 0, 3, 1, nullptr).ok());
    EXPECT_TRUE(ops->SiluMul(nullptr, 0, nullptr).ok());
  }
}

TEST(OpsTest, ThreadsOutOfRangeAreRefused) {
  EXPECT_EQ(MakeCpuOps({.threads = -1}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeCpuOps({.threads = 1025}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(MakeCpuOps({}).ok());
}

}  // namespace
}  // namespace sounder::gpu_worker
