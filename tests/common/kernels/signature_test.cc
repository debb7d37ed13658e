#include "common/kernels/signature.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "common/base/philox.h"
#include "common/kernels/row_statistics.h"
#include "common/kernels/simd_level.h"
#include "common/lsh/signature.h"
#include "common/lsh/signature_ref.h"

namespace sounder::kernels {
namespace {

using base::DType;

struct Case {
  int dim;
  int bits_per_table;
  int num_tables;
  int64_t rows;
  DType dtype;
};

const Case kCases[] = {
    {128, 10, 150, 67, DType::kBF16}, {128, 9, 120, 33, DType::kF32},
    {64, 8, 75, 31, DType::kF16},     {32, 10, 150, 5, DType::kF32},
    {8, 7, 3, 4, DType::kBF16},       {80, 16, 11, 64, DType::kBF16},
    {512, 11, 70, 17, DType::kF32},   {256, 10, 150, 9, DType::kBF16},
    {136, 1, 1, 2, DType::kF16},      {128, 10, 150, 1, DType::kF32},
};

// Rows with an offset common to all (so that centring matters) and a few hostile ones.
struct Rows {
  Rows(const Case& c, uint64_t seed) : bytes(c.rows * Stride(c) + 64) {
    base::PhiloxStream stream(seed, 0);
    view = {.data = bytes.data(),
            .rows = c.rows,
            .row_stride = Stride(c),
            .dim = c.dim,
            .dtype = c.dtype};
    for (int64_t r = 0; r < c.rows; ++r) {
      for (int i = 0; i < c.dim; ++i) {
        float value = static_cast<float>(stream.NextGaussian() + 3 * std::sin(i));
        if (r == 1) value = 0;
        if (r == 2) value *= 1e4f;
        if (r == 3) value = i == 5 ? std::numeric_limits<float>::quiet_NaN() : value;
        if (r == 4) value = i == 1 ? std::numeric_limits<float>::infinity() : value * 1e-3f;
        base::StoreElement(value, bytes.data() + r * Stride(c) + i * base::SizeOf(c.dtype),
                           c.dtype);
      }
    }
  }
  // Not a multiple of 64: rows are not aligned.
  static int64_t Stride(const Case& c) { return c.dim * base::SizeOf(c.dtype) + 12; }
  std::vector<std::byte> bytes;
  memory::RowsView view;
};

class SignatureTest : public testing::TestWithParam<lsh::ProjectionKind> {
 protected:
  ~SignatureTest() override { EXPECT_TRUE(ForceSimdLevel("best").ok()); }
};

TEST_P(SignatureTest, EveryLevelGivesTheReferencesBits) {
  for (const Case& c : kCases) {
    const lsh::LshParams params = {.bits_per_table = c.bits_per_table,
                                   .num_tables = c.num_tables,
                                   .min_collisions = 1,
                                   .projection = GetParam(),
                                   .seed = 7};
    const lsh::Projection projection = *lsh::Projection::Create(params, c.dim);
    const Rows rows(c, 11);
    std::vector<float> mean(c.dim);
    for (int i = 0; i < c.dim; ++i) mean[i] = 2.9f * std::sin(static_cast<float>(i));
    std::vector<float> plain(c.rows * c.dim);
    for (int64_t r = 0; r < c.rows; ++r) {
      for (int i = 0; i < c.dim; ++i) plain[r * c.dim + i] = rows.view.At(r, i);
    }
    for (const std::string& level : SimdLevels()) {
      SCOPED_TRACE(level + " dim " + std::to_string(c.dim));
      ASSERT_TRUE(ForceSimdLevel(level).ok());
      const int64_t stride = c.rows + 5;
      std::vector<uint16_t> codes(c.num_tables * stride, 0xabcd);
      SignRows(projection, rows.view, mean.data(), codes.data(), stride);
      std::vector<uint64_t> signatures(c.rows * params.words());
      SignVectors(projection, plain.data(), c.dim, c.rows, signatures.data());
      std::vector<uint64_t> expected(params.words());
      for (int64_t r = 0; r < c.rows; ++r) {
        lsh::SignatureRef(projection, &plain[r * c.dim], mean.data(), expected.data());
        for (int t = 0; t < c.num_tables; ++t) {
          ASSERT_EQ(codes[t * stride + r], lsh::CodeOf(expected.data(), t, c.bits_per_table))
              << "row " << r << " table " << t;
        }
        lsh::SignatureRef(projection, &plain[r * c.dim], nullptr, expected.data());
        for (int w = 0; w < params.words(); ++w) {
          ASSERT_EQ(signatures[r * params.words() + w], expected[w]) << "row " << r;
        }
      }
      for (int t = 0; t < c.num_tables; ++t) {
        for (int64_t r = c.rows; r < stride; ++r) ASSERT_EQ(codes[t * stride + r], 0xabcd);
      }
    }
  }
}

TEST_P(SignatureTest, TheZeroVectorHasNoBits) {
  const lsh::LshParams params = {.projection = GetParam()};
  const lsh::Projection projection = *lsh::Projection::Create(params, 128);
  const std::vector<float> zero(128);
  std::vector<uint64_t> signature(params.words(), 1);
  SignVectors(projection, zero.data(), 128, 1, signature.data());
  for (uint64_t word : signature) EXPECT_EQ(word, 0u);
}

TEST_P(SignatureTest, ScaleDoesNotMatter) {
  const lsh::LshParams params = {.projection = GetParam()};
  const lsh::Projection projection = *lsh::Projection::Create(params, 128);
  base::PhiloxStream stream(3, 3);
  std::vector<float> vectors(2 * 128);
  for (int i = 0; i < 128; ++i) {
    vectors[i] = static_cast<float>(stream.NextGaussian());
    vectors[128 + i] = vectors[i] * 1024;
  }
  std::vector<uint64_t> signatures(2 * params.words());
  SignVectors(projection, vectors.data(), 128, 2, signatures.data());
  for (int w = 0; w < params.words(); ++w) {
    EXPECT_EQ(signatures[w], signatures[params.words() + w]);
  }
}

INSTANTIATE_TEST_SUITE_P(Projections, SignatureTest,
                         testing::Values(lsh::ProjectionKind::kGaussian,
                                         lsh::ProjectionKind::kHadamard),
                         [](const auto& param_info) {
                           return std::string(lsh::NameOf(param_info.param));
                         });

}  // namespace
}  // namespace sounder::kernels
