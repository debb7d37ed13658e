#include "common/kernels/exact_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "common/attention/attention_ref.h"
#include "common/base/philox.h"
#include "common/kernels/simd_level.h"

namespace sounder::kernels {
namespace {

using base::DType;

// Rows with gaps between them that hold NaN, at an address that is no multiple of 64.
struct StoredRows {
  StoredRows(int64_t rows, int dim, DType dtype, int gap_bytes, double spread, uint64_t seed)
      : bytes(rows * (dim * base::SizeOf(dtype) + gap_bytes) + 128, std::byte{0xff}) {
    const int64_t element = base::SizeOf(dtype);
    view = {.data = bytes.data() + 3 * element,
            .rows = rows,
            .row_stride = dim * element + gap_bytes,
            .dim = dim,
            .dtype = dtype};
    base::PhiloxStream stream(seed, 1);
    for (int64_t r = 0; r < rows; ++r) {
      for (int i = 0; i < dim; ++i) {
        base::StoreElement(static_cast<float>(spread * stream.NextGaussian()),
                           bytes.data() + (view.Row(r) - bytes.data()) + i * element, dtype);
      }
    }
  }
  std::vector<std::byte> bytes;
  memory::RowsView view;
};

struct Result {
  std::vector<float> outputs;
  std::vector<float> lse;
};

Result Attended(const ExactAttentionArgs& args) {
  Result result = {std::vector<float>(args.num_queries * args.keys.dim, NAN),
                   std::vector<float>(args.num_queries, NAN)};
  ExactAttention(args, result.outputs.data(), result.lse.data());
  return result;
}

// Largest |o - o*| over largest |o*| of each query, and largest |lse - lse*| / max(1, |lse*|).
struct Error {
  double output = 0;
  double lse = 0;
};

Error ErrorOf(const ExactAttentionArgs& args, const Result& result) {
  const int dim = args.keys.dim;
  std::vector<double> outputs(args.num_queries * dim);
  std::vector<double> lse(args.num_queries);
  attention::AttentionRef({.queries = args.queries,
                           .query_stride = args.query_stride,
                           .num_queries = args.num_queries,
                           .keys = args.keys,
                           .values = args.values,
                           .scale = args.scale,
                           .visible_begin = {},
                           .visible_end = args.visible_rows},
                          outputs.data(), lse.data());
  Error error;
  for (int q = 0; q < args.num_queries; ++q) {
    double largest = 0;
    double difference = 0;
    for (int i = q * dim; i < (q + 1) * dim; ++i) {
      largest = std::max(largest, std::abs(outputs[i]));
      const double d = std::abs(result.outputs[i] - outputs[i]);
      difference =
          std::isnan(d) ? std::numeric_limits<double>::infinity() : std::max(difference, d);
    }
    if (difference > 0) {
      error.output = std::max(error.output, difference / std::max(largest, 1e-30));
    }
    if (std::isinf(lse[q])) {
      EXPECT_EQ(result.lse[q], -std::numeric_limits<float>::infinity());
    } else {
      const double d = std::abs(result.lse[q] - lse[q]) / std::max(1.0, std::abs(lse[q]));
      error.lse = std::max(error.lse, std::isnan(d) ? 1e30 : d);
    }
  }
  return error;
}

class ExactAttentionTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(ForceSimdLevel(GetParam()).ok()); }
  ~ExactAttentionTest() override { EXPECT_TRUE(ForceSimdLevel("best").ok()); }
};

struct Case {
  int dim;
  int64_t rows;
  int queries;
  int gap;  // bytes between rows
};

const Case kCases[] = {
    {8, 1, 1, 0},    {8, 100, 3, 4},    {16, 31, 4, 8},  {24, 33, 5, 12},
    {32, 64, 2, 0},  {40, 7, 7, 4},     {64, 129, 1, 0}, {80, 95, 4, 20},
    {96, 32, 6, 4},  {128, 1000, 4, 0}, {128, 63, 9, 4}, {136, 50, 4, 8},
    {256, 65, 3, 0}, {512, 37, 4, 4},   {504, 5, 2, 4},  {128, 0, 2, 0},
};

// n * eps for the summations, with a margin: |error| <= c * 2^-24 * sqrt(terms) * magnitude.
// Outputs are means of values near 0, so relative to |o| this allows a few 1e-6.
constexpr double kTolerance = 3e-6;

TEST_P(ExactAttentionTest, AgreesWithFloat64OverShapesAndTypes) {
  for (const Case& c : kCases) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      SCOPED_TRACE(std::string(base::NameOf(dtype)) + " dim " + std::to_string(c.dim) + " rows " +
                   std::to_string(c.rows));
      const StoredRows keys(c.rows, c.dim, dtype, c.gap, 1, 1);
      const StoredRows values(c.rows, c.dim, dtype, c.gap + 4, 1, 2);
      const StoredRows queries(c.queries, c.dim, DType::kF32, 4 * 5, 2, 3);
      const ExactAttentionArgs args = {.queries = reinterpret_cast<const float*>(queries.view.data),
                                       .query_stride = queries.view.row_stride / 4,
                                       .num_queries = c.queries,
                                       .keys = keys.view,
                                       .values = values.view,
                                       .scale = 1 / std::sqrt(static_cast<float>(c.dim)),
                                       .visible_rows = {}};
      const Result result = Attended(args);
      const Error error = ErrorOf(args, result);
      EXPECT_LE(error.output, kTolerance);
      EXPECT_LE(error.lse, 1e-6);
      for (float x : result.outputs) EXPECT_TRUE(std::isfinite(x));
    }
  }
}

TEST_P(ExactAttentionTest, CausalBounds) {
  const int64_t rows = 150;
  const int dim = 64;
  const StoredRows keys(rows, dim, DType::kBF16, 0, 1, 4);
  const StoredRows values(rows, dim, DType::kBF16, 0, 1, 5);
  const StoredRows queries(70, dim, DType::kF32, 0, 3, 6);
  std::vector<int64_t> visible;
  for (int q = 0; q < 70; ++q) visible.push_back(q < 66 ? q * 2 : (q == 66 ? 150 : q - 67));
  const ExactAttentionArgs args = {.queries = reinterpret_cast<const float*>(queries.view.data),
                                   .query_stride = dim,
                                   .num_queries = 70,
                                   .keys = keys.view,
                                   .values = values.view,
                                   .scale = 0.125f,
                                   .visible_rows = visible};
  const Result result = Attended(args);
  const Error error = ErrorOf(args, result);
  EXPECT_LE(error.output, kTolerance);
  EXPECT_LE(error.lse, 1e-6);
  for (int i = 0; i < dim; ++i) EXPECT_EQ(result.outputs[i], 0.0f);  // query 0 sees nothing
  // A wrong bound is caught: the negative control of this comparison.
  visible[40] += 1;
  EXPECT_GT(ErrorOf(args, result).output, 100 * kTolerance);
}

TEST_P(ExactAttentionTest, HiddenRowsAreNotRead) {
  const int dim = 128;
  StoredRows keys(40, dim, DType::kF32, 0, 1, 7);
  StoredRows values(40, dim, DType::kF32, 0, 1, 8);
  const StoredRows queries(4, dim, DType::kF32, 0, 1, 9);
  // Rows beyond what any query sees hold NaN.
  for (StoredRows* rows : {&keys, &values}) {
    for (int64_t r = 33; r < 40; ++r) {
      std::fill_n(rows->bytes.data() + (rows->view.Row(r) - rows->bytes.data()), dim * 4,
                  std::byte{0xff});
    }
  }
  const std::vector<int64_t> visible = {33, 10, 0, 32};
  const ExactAttentionArgs args = {.queries = reinterpret_cast<const float*>(queries.view.data),
                                   .query_stride = dim,
                                   .num_queries = 4,
                                   .keys = keys.view,
                                   .values = values.view,
                                   .scale = 0.1f,
                                   .visible_rows = visible};
  EXPECT_LE(ErrorOf(args, Attended(args)).output, kTolerance);
}

TEST_P(ExactAttentionTest, LongRunsKeepTheirPrecision) {
  const int64_t rows = 20000;
  const int dim = 32;
  const StoredRows keys(rows, dim, DType::kF32, 0, 1, 10);
  const StoredRows values(rows, dim, DType::kF32, 0, 1, 11);
  for (double spread : {0.0, 1.0, 8.0}) {
    const StoredRows queries(2, dim, DType::kF32, 0, spread, 12);
    const ExactAttentionArgs args = {.queries = reinterpret_cast<const float*>(queries.view.data),
                                     .query_stride = dim,
                                     .num_queries = 2,
                                     .keys = keys.view,
                                     .values = values.view,
                                     .scale = 0.18f,
                                     .visible_rows = {}};
    const Error error = ErrorOf(args, Attended(args));
    EXPECT_LE(error.output, kTolerance) << spread;
    EXPECT_LE(error.lse, 1e-6) << spread;
  }
}

TEST_P(ExactAttentionTest, HostileValuesStayFinite) {
  for (double spread : {1e4, 1e2, 1e-20, 0.0}) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const StoredRows keys(300, 64, dtype, 0, spread, 13);
      const StoredRows values(300, 64, dtype, 0, spread, 14);
      const StoredRows queries(3, 64, DType::kF32, 0, spread, 15);
      const ExactAttentionArgs args = {.queries = reinterpret_cast<const float*>(queries.view.data),
                                       .query_stride = 64,
                                       .num_queries = 3,
                                       .keys = keys.view,
                                       .values = values.view,
                                       .scale = 0.125f,
                                       .visible_rows = {}};
      const Result result = Attended(args);
      for (float x : result.outputs) EXPECT_TRUE(std::isfinite(x));
      for (float x : result.lse) EXPECT_TRUE(std::isfinite(x));
    }
  }
}

TEST_P(ExactAttentionTest, LogitsOfHundreds) {
  // One row at +800, one at -800, others at 0: the answer is that row's value.
  const int dim = 8;
  std::vector<float> keys(50 * dim, 0.0f);
  std::vector<float> values(50 * dim);
  for (int i = 0; i < 50 * dim; ++i) values[i] = static_cast<float>(i);
  keys[17 * dim] = 800;
  keys[4 * dim] = -800;
  const std::vector<float> query = {1, 0, 0, 0, 0, 0, 0, 0};
  const auto view = [&](const std::vector<float>& x) {
    return memory::RowsView{.data = reinterpret_cast<const std::byte*>(x.data()),
                            .rows = 50,
                            .row_stride = dim * 4,
                            .dim = dim,
                            .dtype = DType::kF32};
  };
  const Result result = Attended({.queries = query.data(),
                                  .query_stride = dim,
                                  .num_queries = 1,
                                  .keys = view(keys),
                                  .values = view(values),
                                  .scale = 1,
                                  .visible_rows = {}});
  EXPECT_FLOAT_EQ(result.lse[0], 800);
  for (int i = 0; i < dim; ++i) EXPECT_EQ(result.outputs[i], values[17 * dim + i]);
}

TEST_P(ExactAttentionTest, LogitsThatRiseToTheEnd) {
  // The maximum of query 0 rises by `step` with every row, that of query 1 falls: sums are rescaled
  // in every tile, by factors from near 1 to 0.
  const int dim = 8;
  const int64_t rows = 700;
  StoredRows values(rows, dim, DType::kF32, 0, 1, 17);
  const std::vector<float> queries = {1, 0, 0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, 0, 0};
  for (const float step : {0.01f, 0.1f, 1.0f, 10.0f}) {
    std::vector<float> keys(rows * dim, 0.0f);
    for (int64_t r = 0; r < rows; ++r) keys[r * dim] = step * static_cast<float>(r);
    const ExactAttentionArgs args = {
        .queries = queries.data(),
        .query_stride = dim,
        .num_queries = 2,
        .keys = {.data = reinterpret_cast<const std::byte*>(keys.data()),
                 .rows = rows,
                 .row_stride = dim * 4,
                 .dim = dim,
                 .dtype = DType::kF32},
        .values = values.view,
        .scale = 1,
        .visible_rows = {}};
    const Error error = ErrorOf(args, Attended(args));
    EXPECT_LE(error.output, step >= 1 ? 1e-4 : 1e-5)
        << step;  // a logit of 7,000 has 5e-4 to an ulp
    EXPECT_LE(error.lse, 1e-6) << step;
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, ExactAttentionTest, testing::ValuesIn(SimdLevels()),
                         [](const auto& param_info) { return param_info.param; });

}  // namespace
}  // namespace sounder::kernels
