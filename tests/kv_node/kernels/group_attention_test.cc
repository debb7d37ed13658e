#include "kv_node/kernels/group_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/kernels/row_statistics.h"
#include "common/kernels/simd_level.h"

namespace sounder::kv_node {
namespace {

using base::DType;

constexpr int64_t kRows = 500;

// Normal elements with an offset, in `dtype`.
struct Stored {
  Stored(int dim, DType dtype, double spread, double offset, uint64_t seed)
      : bytes(kRows * dim * base::SizeOf(dtype)) {
    const int64_t element = static_cast<int64_t>(base::SizeOf(dtype));
    base::PhiloxStream stream(seed, 0);
    for (int64_t i = 0; i < kRows * dim; ++i) {
      base::StoreElement(static_cast<float>(spread * stream.NextGaussian() + offset),
                         bytes.data() + i * element, dtype);
    }
    view = {.data = bytes.data(),
            .rows = kRows,
            .row_stride = dim * element,
            .dim = dim,
            .dtype = dtype};
  }
  std::vector<std::byte> bytes;
  memory::RowsView view;
};

// What the header says, in float64.
struct Expected {
  Expected(const GroupSample& sample, const std::vector<double>& keys,
           const std::vector<double>& values) {
    const size_t dim = sample.dim;
    for (int q = 0; q < sample.num_queries; ++q) {
      std::vector<double> weights;
      double sum = 0;
      std::vector<double> output(dim, 0.0);
      for (size_t i = 0; i < sample.rows.size(); ++i) {
        double dot = 0;
        for (size_t c = 0; c < dim; ++c) {
          dot += double{sample.queries[q * dim + c]} * keys[sample.rows[i] * dim + c];
        }
        weights.push_back(std::exp(dot * sample.scale) / sample.probabilities[i]);
        sum += weights.back();
        for (size_t c = 0; c < dim; ++c) {
          output[c] += weights.back() * values[sample.rows[i] * dim + c];
        }
      }
      for (double& x : output) x /= sum;
      double a = 0;
      double b = 0;
      double concentration = 0;
      for (size_t i = 0; i < sample.rows.size(); ++i) {
        double distance = 0;
        for (size_t c = 0; c < dim; ++c) {
          const double difference = values[sample.rows[i] * dim + c] - output[c];
          distance += difference * difference;
        }
        const double share = weights[i] / sum;
        const double term = (1.0 - sample.probabilities[i]) * share * share;
        a += term * distance;
        b += term;
        concentration += sample.probabilities[i] * share * share;
      }
      outputs.insert(outputs.end(), output.begin(), output.end());
      lse.push_back(std::log(sum));
      errors.push_back(a);
      errors.push_back(b);
      errors.push_back(concentration);
    }
  }
  std::vector<double> outputs;
  std::vector<double> lse;
  std::vector<double> errors;
};

std::vector<double> InDouble(const memory::RowsView& view) {
  std::vector<double> x;
  for (int64_t r = 0; r < view.rows; ++r) {
    for (int c = 0; c < view.dim; ++c) x.push_back(view.At(r, c));
  }
  return x;
}

class GroupAttentionTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::ForceSimdLevel(GetParam()).ok()); }
  ~GroupAttentionTest() override { EXPECT_TRUE(kernels::ForceSimdLevel("best").ok()); }

  void Draw(int dim, int num_queries, size_t count) {
    base::PhiloxStream stream(count, 9);
    rows_.clear();
    probabilities_.clear();
    for (size_t i = 0; i < count; ++i) {
      rows_.push_back(static_cast<uint16_t>(i * kRows / count));
      probabilities_.push_back(i % 3 == 0 ? 1.0f
                                          : static_cast<float>(1e-6 + 0.5 * stream.NextUniform()));
    }
    queries_.clear();
    for (int i = 0; i < num_queries * dim; ++i) {
      queries_.push_back(static_cast<float>(stream.NextGaussian()));
    }
    sample_ = {.queries = queries_.data(),
               .num_queries = num_queries,
               .dim = dim,
               .scale = static_cast<float>(1 / std::sqrt(double(dim))),
               .rows = rows_,
               .probabilities = probabilities_};
    outputs_.assign(num_queries * dim, NAN);
    lse_.assign(num_queries, NAN);
    errors_.assign(3 * num_queries, NAN);
    workspace_.assign(GroupAttentionWorkspace(count), NAN);
  }
  void Expect(const Expected& expected) {
    for (size_t i = 0; i < outputs_.size(); ++i) {
      ASSERT_NEAR(outputs_[i], expected.outputs[i], 2e-5) << i;
    }
    for (size_t i = 0; i < lse_.size(); ++i) EXPECT_NEAR(lse_[i], expected.lse[i], 2e-5) << i;
    for (size_t i = 0; i < errors_.size(); ++i) {
      EXPECT_NEAR(errors_[i], expected.errors[i], 1e-4 * expected.errors[i] + 1e-7) << i;
    }
  }

  std::vector<uint16_t> rows_;
  std::vector<float> probabilities_;
  std::vector<float> queries_;
  GroupSample sample_;
  std::vector<float> outputs_;
  std::vector<float> lse_;
  std::vector<float> errors_;
  std::vector<float> workspace_;
};

TEST_P(GroupAttentionTest, AgreesWithFloat64) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const int dim : {8, 40, 128, 512}) {
      const Stored keys(dim, dtype, 1, 0.3, 1);
      const Stored values(dim, dtype, 1, 0, 2);
      const std::vector<double> k = InDouble(keys.view);
      const std::vector<double> v = InDouble(values.view);
      for (const int num_queries : {1, 4, 7}) {
        for (const size_t count : {1, 15, 17, 130}) {
          SCOPED_TRACE(std::string(base::NameOf(dtype)) + " " + std::to_string(dim) + " " +
                       std::to_string(num_queries) + " " + std::to_string(count));
          Draw(dim, num_queries, count);
          GroupAttention(sample_, keys.view, values.view, workspace_.data(), outputs_.data(),
                         lse_.data(), errors_.data());
          Expect(Expected(sample_, k, v));
        }
      }
    }
  }
}

TEST_P(GroupAttentionTest, AgreesWithFloat64OnEightBits) {
  for (const int dim : {8, 24, 128, 512}) {
    const Stored keys(dim, DType::kBF16, 1, 0.3, 1);
    const Stored values(dim, DType::kBF16, 1, 0, 2);
    std::vector<float> mean(dim);
    kernels::MeanOfRows(keys.view, mean.data());
    std::vector<std::byte> records(kRows * Int8Rows::RecordBytes(dim));
    QuantizeRows(keys.view, values.view, mean.data(), records.data());
    const Int8Rows rows{records.data(), kRows, dim};
    std::vector<double> k;
    std::vector<double> v;
    for (int64_t r = 0; r < kRows; ++r) {
      float scales[2];
      std::memcpy(scales, rows.Record(r), sizeof scales);
      const auto* bytes = reinterpret_cast<const int8_t*>(rows.Record(r) + Int8Rows::kScaleBytes);
      for (int c = 0; c < dim; ++c) {
        k.push_back(double{scales[0]} * bytes[c] + mean[c]);
        v.push_back(double{scales[1]} * bytes[dim + c]);
        EXPECT_NEAR(k.back(), keys.view.At(r, c), 0.51 * scales[0]);
        EXPECT_NEAR(v.back(), values.view.At(r, c), 0.51 * scales[1]);
      }
    }
    for (const int num_queries : {1, 4, 6}) {
      Draw(dim, num_queries, 77);
      GroupAttention(sample_, rows, mean.data(), workspace_.data(), outputs_.data(), lse_.data(),
                     errors_.data());
      Expect(Expected(sample_, k, v));
    }
  }
}

TEST_P(GroupAttentionTest, EightBitsAreTheSameAtEveryLevel) {
  const Stored keys(128, DType::kBF16, 1, 0.3, 1);
  const Stored values(128, DType::kBF16, 1, 0, 2);
  const std::vector<float> mean(128, 0.25f);
  const auto quantize = [&] {
    std::vector<std::byte> records(kRows * Int8Rows::RecordBytes(128));
    QuantizeRows(keys.view, values.view, mean.data(), records.data());
    return records;
  };
  const auto here = quantize();
  ASSERT_TRUE(kernels::ForceSimdLevel("best").ok());
  EXPECT_EQ(here, quantize());
}

TEST_P(GroupAttentionTest, NoRowsAndWildRows) {
  const Stored keys(64, DType::kF32, 1e4, 0, 1);
  const Stored values(64, DType::kF32, 1e4, 0, 2);
  Draw(64, 3, 0);
  GroupAttention(sample_, keys.view, values.view, workspace_.data(), outputs_.data(), lse_.data(),
                 errors_.data());
  for (const float x : outputs_) EXPECT_EQ(x, 0);
  for (const float x : lse_) EXPECT_EQ(x, -INFINITY);
  Draw(64, 3, 50);  // logits of tens of thousands
  GroupAttention(sample_, keys.view, values.view, workspace_.data(), outputs_.data(), lse_.data(),
                 errors_.data());
  for (const float x : outputs_) EXPECT_TRUE(std::isfinite(x));
  for (const float x : lse_) EXPECT_TRUE(std::isfinite(x));
}

TEST_P(GroupAttentionTest, AllLogitsFarBelowZero) {
  const Stored values(64, DType::kF32, 1, 0, 2);
  const std::vector<float> queries(size_t{3} * 64, 1.0f);
  for (double offset = 30; offset < 1e9; offset *= 1.7) {
    const Stored keys(64, DType::kF32, 0, -offset, 1);
    for (const size_t count : {1, 2, 3, 5}) {
      Draw(64, 3, count);
      sample_.queries = queries.data();
      GroupAttention(sample_, keys.view, values.view, workspace_.data(), outputs_.data(),
                     lse_.data(), errors_.data());
      for (const float x : outputs_) ASSERT_LT(std::abs(x), 10) << offset << " " << count;
      for (const float x : lse_) ASSERT_LT(x, -offset) << offset << " " << count;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, GroupAttentionTest, testing::ValuesIn(kernels::SimdLevels()),
                         [](const auto& level) { return level.param; });

}  // namespace
}  // namespace sounder::kv_node
