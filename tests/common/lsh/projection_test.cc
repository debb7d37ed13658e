#include "common/lsh/projection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/lsh/signature.h"
#include "common/lsh/signature_ref.h"

namespace sounder::lsh {
namespace {

using testing::HasSubstr;

TEST(LshParams, NamesWhatIsWrong) {
  const auto message = [](const LshParams& params, int dim) {
    return std::string(params.Validate(dim).message());
  };
  EXPECT_EQ(message({}, 128), "");
  EXPECT_THAT(message({}, 100), HasSubstr("dim is 100, expected a multiple of 8"));
  EXPECT_THAT(message({}, 0), HasSubstr("dim is 0"));
  EXPECT_THAT(message({}, 520), HasSubstr("dim is 520"));
  EXPECT_THAT(message({.bits_per_table = 0}, 64),
              HasSubstr("bits_per_table is 0, expected 1 to 16"));
  EXPECT_THAT(message({.bits_per_table = 17}, 64), HasSubstr("bits_per_table is 17"));
  EXPECT_THAT(message({.num_tables = 0}, 64), HasSubstr("num_tables is 0, expected 1 to 1024"));
  EXPECT_THAT(message({.num_tables = 2, .min_collisions = 3}, 64),
              HasSubstr("min_collisions is 3, expected 1 to 2"));
  EXPECT_THAT(message({.projection = static_cast<ProjectionKind>(7)}, 64),
              HasSubstr("projection is 7"));
}

TEST(LshParams, ProjectionNames) {
  EXPECT_EQ(ParseProjectionKind("gaussian"), ProjectionKind::kGaussian);
  EXPECT_EQ(ParseProjectionKind("hadamard"), ProjectionKind::kHadamard);
  EXPECT_EQ(ParseProjectionKind("Hadamard"), std::nullopt);
  EXPECT_EQ(ParseProjectionKind(""), std::nullopt);
}

TEST(Signature, CodesComeBackFromPackedBits) {
  for (int bits = 1; bits <= 16; ++bits) {
    const int tables = 40;
    std::vector<uint64_t> signature((bits * tables + 63) / 64);
    for (int t = 0; t < tables; ++t) {
      SetCode(signature.data(), t, bits, (t * 40503u + 7u) & ((1u << bits) - 1));
    }
    for (int t = 0; t < tables; ++t) {
      EXPECT_EQ(CodeOf(signature.data(), t, bits), (t * 40503u + 7u) & ((1u << bits) - 1));
    }
  }
}

TEST(Projection, GaussianSumsFit32Bits) {
  for (int dim : {8, 128, 512}) {
    const LshParams params = {.num_tables = 20, .projection = ProjectionKind::kGaussian};
    const Projection projection = *Projection::Create(params, dim);
    double square = 0;
    int64_t largest_sum = 0;
    for (int bit = 0; bit < params.bits(); ++bit) {
      int64_t sum = 0;
      for (int i = 0; i < dim; ++i) {
        sum += std::abs(projection.weight(i, bit));
        square += double(projection.weight(i, bit)) * projection.weight(i, bit);
      }
      largest_sum = std::max(largest_sum, sum * kGaussianLevels);
    }
    EXPECT_LT(largest_sum, int64_t{1} << 31);
    // Fine enough steps: the standard deviation is hundreds of them.
    EXPECT_GT(std::sqrt(square / (double(dim) * params.bits())), 200);
  }
}

TEST(Projection, ATablesBitsComeFromDifferentBlocks) {
  for (int dim : {8, 64, 128, 256, 512}) {
    for (const auto& [bits, tables] :
         std::vector<std::pair<int, int>>{{10, 150}, {8, 75}, {16, 3}}) {
      const Projection projection =
          *Projection::Create({.bits_per_table = bits, .num_tables = tables}, dim);
      EXPECT_GE(projection.num_blocks(), bits);
      EXPECT_GE(projection.num_blocks() * projection.padded_dim(), bits * tables);
      EXPECT_GE(projection.padded_dim(), dim);
    }
  }
}

TEST(Projection, IsAFunctionOfSeedAndDim) {
  std::vector<float> x(64);
  for (int i = 0; i < 64; ++i) x[i] = static_cast<float>(std::cos(i * i));
  for (ProjectionKind kind : {ProjectionKind::kGaussian, ProjectionKind::kHadamard}) {
    const auto sign = [&](uint64_t seed) {
      const Projection projection = *Projection::Create({.projection = kind, .seed = seed}, 64);
      std::vector<uint64_t> signature(projection.params().words());
      SignatureRef(projection, x.data(), nullptr, signature.data());
      return signature;
    };
    EXPECT_EQ(sign(1), sign(1));
    EXPECT_NE(sign(1), sign(2));
  }
}

// Signatures of one fixed vector, so that another compiler, library or machine that draws or rounds
// differently is noticed: sessions would silently lose their candidates.
TEST(Projection, GoldenSignatures) {
  std::vector<float> x(128);
  for (int i = 0; i < 128; ++i) x[i] = static_cast<float>((i * 37 % 101) - 50) / 8;
  const auto digest = [&](ProjectionKind kind) {
    const Projection projection = *Projection::Create({.projection = kind, .seed = 42}, 128);
    std::vector<uint64_t> signature(projection.params().words());
    SignatureRef(projection, x.data(), nullptr, signature.data());
    uint64_t hash = 0xcbf29ce484222325u;
    for (uint64_t word : signature) hash = (hash ^ word) * 0x100000001b3u;
    return hash;
  };
  EXPECT_EQ(digest(ProjectionKind::kGaussian), 1915434455161468101u);
  EXPECT_EQ(digest(ProjectionKind::kHadamard), 2457839876229358980u);
}

}  // namespace
}  // namespace sounder::lsh
