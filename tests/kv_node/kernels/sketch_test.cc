#include "kv_node/kernels/sketch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/kernels/row_statistics.h"
#include "common/kernels/simd_level.h"
#include "kv_node/kernels/sketch_scan.h"

namespace sounder::kv_node {
namespace {

std::vector<float> Normals(int64_t count, uint64_t seed, double spread = 1, double offset = 0) {
  base::PhiloxStream stream(seed, 0);
  std::vector<float> x(count);
  for (float& value : x) value = static_cast<float>(spread * stream.NextGaussian() + offset);
  return x;
}

memory::RowsView ViewOf(const std::vector<float>& x, int dim) {
  return {.data = reinterpret_cast<const std::byte*>(x.data()),
          .rows = static_cast<int64_t>(x.size()) / dim,
          .row_stride = dim * int64_t{4},
          .dim = dim,
          .dtype = base::DType::kF32};
}

// A sketch and what it was made of.
struct Sketched {
  Sketched(const SketchRotation& rotation, std::vector<float> rows)
      : keys(std::move(rows)), mean(rotation.dim()) {
    const memory::RowsView rows_view = ViewOf(keys, rotation.dim());
    kernels::MeanOfRows(rows_view, mean.data());
    blocks.assign(SketchView::BlockBytes(rows_view.rows, rotation.bits()), 0xee);
    factors.assign(SketchView::PaddedRows(rows_view.rows), 0xee);
    view.rows = rows_view.rows;
    view.bits = rotation.bits();
    view.factor_exponent =
        BuildSketch(rotation, rows_view, mean.data(), blocks.data(), factors.data());
    view.blocks = blocks.data();
    view.factors = factors.data();
  }
  bool Sign(int64_t row, int coordinate) const {
    const int64_t block = row / kSketchBlockRows * view.bits / 8 * kSketchBlockRows;
    const uint8_t byte = blocks[block + coordinate / 8 * kSketchBlockRows + row % kSketchBlockRows];
    return (byte >> (coordinate % 8) & 1) != 0;
  }
  std::vector<float> keys;
  std::vector<float> mean;
  std::vector<uint8_t> blocks;
  std::vector<uint8_t> factors;
  SketchView view;
};

class SketchTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::ForceSimdLevel(GetParam()).ok()); }
  ~SketchTest() override { EXPECT_TRUE(kernels::ForceSimdLevel("best").ok()); }
};

// The rotation in float64, straight from its description.
std::vector<double> RotatedRef(const SketchRotation& rotation, const float* x) {
  const int dim = rotation.padded_dim();
  std::vector<double> out;
  for (int r = 0; r < rotation.rotations(); ++r) {
    std::vector<double> y(dim, 0.0);
    std::copy_n(x, rotation.dim(), y.begin());
    for (int round = 0; round < 2; ++round) {
      std::vector<double> signed_y(dim);
      for (int i = 0; i < dim; ++i) signed_y[i] = y[i] * rotation.signs(r, round)[i];
      for (int i = 0; i < dim; ++i) {
        y[i] = 0;
        for (int j = 0; j < dim; ++j) {
          y[i] += (__builtin_popcount(i & j) % 2 == 0 ? 1 : -1) * signed_y[j] / std::sqrt(dim);
        }
      }
    }
    out.insert(out.end(), y.begin(), y.begin() + rotation.bits_per_rotation());
  }
  return out;
}

TEST_P(SketchTest, RotatesAndSketchesAsDescribed) {
  for (const int dim : {8, 24, 64, 128, 512}) {
    for (const int bits : {64, 128, 256}) {
      SCOPED_TRACE(std::to_string(dim) + " " + std::to_string(bits));
      const SketchRotation rotation(dim, bits, 7);
      const Sketched sketched(rotation, Normals(dim * 37, 1, 1, 0.5));
      for (int64_t row = 0; row < 37; ++row) {
        std::vector<float> centred(dim);
        for (int i = 0; i < dim; ++i) {
          centred[i] = sketched.keys[row * dim + i] - sketched.mean[i];
        }
        const std::vector<double> expected = RotatedRef(rotation, centred.data());
        std::vector<float> rotated(bits);
        RotateQueries(rotation, centred.data(), dim, 1, rotated.data());
        double l1 = 0;
        double square = 0;
        for (const float x : centred) square += double{x} * x;
        for (int j = 0; j < bits; ++j) {
          EXPECT_NEAR(rotated[j], expected[j], 1e-4 * std::sqrt(square));
          l1 += std::abs(expected[j]);
          if (std::abs(expected[j]) < 1e-4) continue;
          ASSERT_EQ(sketched.Sign(row, j), expected[j] > 0) << row << " " << j;
        }
        const double factor = std::ldexp(sketched.factors[row], sketched.view.factor_exponent);
        EXPECT_NEAR(factor, square / l1, 0.51 * std::ldexp(1, sketched.view.factor_exponent));
      }
      for (int64_t row = 37; row < SketchView::PaddedRows(37); ++row) {
        EXPECT_EQ(sketched.factors[row], 0);
        for (int j = 0; j < bits; ++j) EXPECT_FALSE(sketched.Sign(row, j));
      }
    }
  }
}

TEST_P(SketchTest, TheSameBitsAtEveryLevel) {
  const SketchRotation rotation(128, 256, 3);
  const Sketched here(rotation, Normals(128 * 100, 4, 2, 1));
  ASSERT_TRUE(kernels::ForceSimdLevel("best").ok());
  const Sketched best(rotation, Normals(128 * 100, 4, 2, 1));
  EXPECT_EQ(here.blocks, best.blocks);
  EXPECT_EQ(here.factors, best.factors);
  EXPECT_EQ(here.view.factor_exponent, best.view.factor_exponent);
}

TEST_P(SketchTest, DegenerateKeys) {
  const SketchRotation rotation(64, 128, 3);
  std::vector<float> keys(64 * 40, 2.5f);  // all equal: nothing is left of them
  const Sketched equal(rotation, keys);
  EXPECT_EQ(equal.factors, std::vector<uint8_t>(64, 0));
  keys[5] = INFINITY;
  keys[64] = NAN;
  keys[130] = 3e38f;
  const Sketched wild(rotation, keys);
  EXPECT_LT(wild.view.factor_exponent, 40);
}

int8_t Saturate(int x) { return static_cast<int8_t>(std::clamp(x, -128, 127)); }
// The score of one row, from the tables, as sketch_scan.h has it.
int ScoreRef(const Sketched& sketched, const SketchTables& tables, int query, int64_t row) {
  int8_t sums[2] = {0, 0};
  const int8_t* t = tables.tables(query);
  for (int group = 0; group < tables.bits() / 8; ++group) {
    int lower = 0;
    int upper = 0;
    for (int k = 0; k < 4; ++k) {
      lower |= sketched.Sign(row, 8 * group + k) ? 1 << k : 0;
      upper |= sketched.Sign(row, 8 * group + 4 + k) ? 1 << k : 0;
    }
    const int8_t* pair = t + group / 2 * 128 + group % 2 * 32;
    sums[group % 2] = Saturate(sums[group % 2] + pair[lower] + pair[64 + upper]);
  }
  const int sum = Saturate(sums[0] + sums[1]);
  return (std::max(sum, -127) * sketched.factors[row] + 128) >> 8;
}

// The line between powers of two that bf16 counts on, of 2^(units / kScoreUnit).
double WeightRef(int units) {
  const int exponent = static_cast<int>(std::floor(units / double{kScoreUnit}));
  if (exponent < -126) return std::ldexp(std::max(0, units + 127 * kScoreUnit), -126 - 7);
  return std::ldexp(1 + units / double{kScoreUnit} - exponent, exponent);
}

TEST_P(SketchTest, ScansAsDescribed) {
  for (const int dim : {8, 96, 128}) {
    for (const int bits : {64, 128, 256}) {
      const SketchRotation rotation(dim, bits, 11);
      for (const int64_t rows : {1, 31, 65, 300}) {
        // Large queries, so that sums saturate now and then.
        const Sketched sketched(rotation, Normals(dim * rows, 5, 3));
        for (const int count : {1, 2, 3, 4, 7}) {
          SCOPED_TRACE(std::to_string(dim) + " " + std::to_string(bits) + " " +
                       std::to_string(rows) + " " + std::to_string(count));
          std::vector<float> queries = Normals(dim * count, 6, 4);
          std::copy_n(sketched.keys.begin(), dim, queries.begin());  // one is a key
          SketchTables tables;
          tables.Prepare(rotation, queries.data(), count, 0.3f);
          const int64_t stride = SketchView::PaddedRows(rows);
          const int step = std::max(ScoreStep(sketched.view, tables), 4);
          for (const auto& [begin, end] : std::vector<std::pair<int64_t, int64_t>>{
                   {0, rows}, {rows / 3, rows - rows / 4}, {rows, rows}}) {
            std::vector<int8_t> scores(count * stride, 99);
            std::vector<double> log_sums(count, NAN);
            ScanSketches(sketched.view, tables, begin, end, step, scores.data(), stride,
                         log_sums.data());
            for (int q = 0; q < count; ++q) {
              double sum = 0;
              const int64_t first = begin / kSketchPairRows * kSketchPairRows;
              const int64_t last = begin < end ? SketchView::PaddedRows(end) : first;
              for (int64_t r = first; r < last; ++r) {
                const bool visible = begin <= r && r < end;
                const int expected = visible ? ScoreRef(sketched, tables, q, r) : int{kNoScore};
                ASSERT_EQ(int{scores[q * stride + r]}, expected) << q << " " << r;
                if (visible) sum += WeightRef((expected - 127) * step);
              }
              if (sum < std::ldexp(1, -125)) {  // nothing, next to what there could be
                EXPECT_LE(log_sums[q], 127 * step - 125 * kScoreUnit);
              } else {
                EXPECT_NEAR(log_sums[q], kScoreUnit * std::log2(sum) + 127 * step, 0.1);
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(SketchTest, TheSameSumsAtEveryLevel) {
  const SketchRotation rotation(128, 128, 3);
  const Sketched sketched(rotation, Normals(128 * 1000, 4, 2, 1));
  const std::vector<float> queries = Normals(128 * 5, 6, 3);
  const auto scan = [&] {
    SketchTables tables;
    tables.Prepare(rotation, queries.data(), 5, 0.1f);
    std::vector<int8_t> scores(5 * 1024);
    std::vector<double> log_sums(5);
    ScanSketches(sketched.view, tables, 3, 999, 21, scores.data(), 1024, log_sums.data());
    return std::pair(scores, log_sums);
  };
  const auto here = scan();
  ASSERT_TRUE(kernels::ForceSimdLevel("best").ok());
  EXPECT_EQ(here, scan());
}

// The estimate is worth what a sketch of so many bits can be worth, and exact for the key itself.
TEST_P(SketchTest, EstimatesLogits) {
  constexpr int kDim = 128;
  constexpr int64_t kRows = 2000;
  const float scale = 1 / std::sqrt(float{kDim});
  for (const int bits : {64, 128, 256}) {
    const SketchRotation rotation(kDim, bits, 2);
    const Sketched sketched(rotation, Normals(kDim * kRows, 8, 1, 0.4));
    std::vector<float> query = Normals(kDim, 9, 1.5);
    for (int i = 0; i < kDim; ++i) query[i] += sketched.keys[i] - sketched.mean[i];
    SketchTables tables;
    tables.Prepare(rotation, query.data(), 1, scale);
    std::vector<int8_t> scores(SketchView::PaddedRows(kRows));
    double log_sum;
    const int step = ScoreStep(sketched.view, tables);
    ScanSketches(sketched.view, tables, 0, kRows, step, scores.data(), 0, &log_sum);
    double error = 0;
    double squares = 0;
    double norms = 0;
    for (int64_t r = 0; r < kRows; ++r) {
      double dot = 0;
      for (int i = 0; i < kDim; ++i) {
        dot += double{query[i]} * (sketched.keys[r * kDim + i] - sketched.mean[i]);
      }
      const double estimate = scores[r] * step / double{kScoreUnit} * std::log(2.0);
      error += estimate - dot * scale;
      squares += (estimate - dot * scale) * (estimate - dot * scale);
      norms += dot * scale * dot * scale;
    }
    double query_norm = 0;
    for (const float x : query) query_norm += double{x} * x;
    // Var of cos-hat is about pi / (2 bits) - 1 / (coordinates drawn from), far from the query.
    const double variance = M_PI / 2 / bits - 1.0 / std::max(bits, kDim);
    const double expected = std::sqrt(query_norm * variance * kDim) * scale;
    const double rms = std::sqrt(squares / kRows);
    std::printf("%d bits: rms error %.3f nats (theory %.3f), mean %.4f, rms logit %.3f\n", bits,
                rms, expected, error / kRows, std::sqrt(norms / kRows));
    EXPECT_LE(rms, 1.2 * expected);
    EXPECT_GE(rms, 0.8 * expected);
    EXPECT_LE(std::abs(error / kRows), 4 * rms / std::sqrt(double{kRows}));
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, SketchTest, testing::ValuesIn(kernels::SimdLevels()),
                         [](const auto& level) { return level.param; });

}  // namespace
}  // namespace sounder::kv_node
