// How often two vectors at a given cosine become candidates, against u: for both projections, by
// cosine. Here because it needs fast signatures.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <vector>

#include "common/base/philox.h"
#include "common/kernels/signature.h"
#include "common/lsh/inclusion_probability.h"
#include "common/lsh/signature.h"

namespace sounder::kernels {
namespace {

// Pairs of vectors at exactly `cosine`, the directions anisotropic and axis-aligned.
void DrawPairs(uint64_t seed, int dim, int pairs, double cosine, std::vector<float>& x,
               std::vector<float>& y) {
  base::PhiloxStream stream(seed, 0);
  std::vector<double> a(dim);
  std::vector<double> b(dim);
  for (int i = 0; i < pairs; ++i) {
    double aa = 0;
    double ab = 0;
    double bb = 0;
    for (int j = 0; j < dim; ++j) {
      const double spread = std::pow(1 + j / 8.0, -0.4);
      a[j] = spread * stream.NextGaussian();
      b[j] = spread * stream.NextGaussian();
      aa += a[j] * a[j];
      ab += a[j] * b[j];
    }
    for (int j = 0; j < dim; ++j) {
      b[j] -= a[j] * ab / aa;
      bb += b[j] * b[j];
    }
    for (int j = 0; j < dim; ++j) {
      const double unit = a[j] / std::sqrt(aa);
      x[i * dim + j] = static_cast<float>(unit);
      y[i * dim + j] =
          static_cast<float>(cosine * unit + std::sqrt((1 - cosine * cosine) / bb) * b[j]);
    }
  }
}

struct Frequency {
  double candidates = 0;
  double standard_error = 0;
};

// Share of pairs with at least min_collisions colliding tables, over seeds.
Frequency Measure(const lsh::LshParams& params, int dim, int seeds, int pairs, double cosine) {
  std::vector<float> x(pairs * dim);
  std::vector<float> y(pairs * dim);
  std::vector<uint64_t> sx(pairs * params.words());
  std::vector<uint64_t> sy(pairs * params.words());
  double sum = 0;
  double squares = 0;
  DrawPairs(1, dim, pairs, cosine, x, y);
  for (int seed = 0; seed < seeds; ++seed) {
    lsh::LshParams seeded = params;
    seeded.seed = 1000 + seed;
    const lsh::Projection projection = *lsh::Projection::Create(seeded, dim);
    SignVectors(projection, x.data(), dim, pairs, sx.data());
    SignVectors(projection, y.data(), dim, pairs, sy.data());
    int candidates = 0;
    for (int i = 0; i < pairs; ++i) {
      int collisions = 0;
      for (int t = 0; t < params.num_tables; ++t) {
        collisions += lsh::CodeOf(&sx[i * params.words()], t, params.bits_per_table) ==
                      lsh::CodeOf(&sy[i * params.words()], t, params.bits_per_table);
      }
      candidates += collisions >= params.min_collisions ? 1 : 0;
    }
    const double share = static_cast<double>(candidates) / pairs;
    sum += share;
    squares += share * share;
  }
  const double mean = sum / seeds;
  return {mean, std::sqrt(std::max(0.0, squares / seeds - mean * mean) / (seeds - 1))};
}

TEST(CollisionFrequency, FollowsTheInclusionProbability) {
  for (lsh::ProjectionKind kind :
       {lsh::ProjectionKind::kGaussian, lsh::ProjectionKind::kHadamard}) {
    const bool gaussian = kind == lsh::ProjectionKind::kGaussian;
    const lsh::LshParams params = {.projection = kind};
    const lsh::Projection projection = *lsh::Projection::Create(params, 128);
    for (double cosine : {0.0, 0.15, 0.3, 0.5, 0.7}) {
      const double u = lsh::InclusionProbability(projection, cosine);
      const Frequency frequency =
          Measure(params, 128, gaussian ? 24 : 64, gaussian ? 300 : 1000, cosine);
      std::printf("%s cosine %.2f: u %.5f measured %.5f +- %.5f\n",
                  std::string(lsh::NameOf(kind)).c_str(), cosine, u, frequency.candidates,
                  frequency.standard_error);
      EXPECT_NEAR(frequency.candidates, u, 4 * frequency.standard_error + 0.015 * u)
          << lsh::NameOf(kind) << " at cosine " << cosine;
    }
  }
}

TEST(CollisionFrequency, SmallDimensionsAndOtherShapes) {
  for (const auto& [dim, bits, tables, collisions] :
       std::vector<std::array<int, 4>>{{32, 10, 150, 2}, {256, 8, 75, 2}, {64, 4, 20, 3}}) {
    const lsh::LshParams params = {
        .bits_per_table = bits, .num_tables = tables, .min_collisions = collisions};
    const lsh::Projection projection = *lsh::Projection::Create(params, dim);
    for (double cosine : {0.1, 0.4}) {
      const double u = lsh::InclusionProbability(projection, cosine);
      const Frequency frequency = Measure(params, dim, 64, 600, cosine);
      EXPECT_NEAR(frequency.candidates, u, 4 * frequency.standard_error + 0.02 * u)
          << dim << " " << bits << " " << tables << " at " << cosine;
    }
  }
}

// The comparison above can fail: a wrong exponent or threshold is far outside of it.
TEST(CollisionFrequency, MutantsAreFarOff) {
  const lsh::LshParams params;
  const lsh::Projection projection = *lsh::Projection::Create(params, 128);
  lsh::LshParams one = params;
  one.min_collisions = 1;
  const lsh::Projection one_projection = *lsh::Projection::Create(one, 128);
  const Frequency frequency = Measure(params, 128, 16, 1500, 0.15);
  const double tolerance = 4 * frequency.standard_error + 0.015 * frequency.candidates;
  const double u = lsh::InclusionProbability(projection, 0.15);
  EXPECT_GT(std::abs(frequency.candidates - std::pow(u, 1.1)), tolerance);
  EXPECT_GT(std::abs(frequency.candidates - lsh::InclusionProbability(one_projection, 0.15)),
            tolerance);
}

}  // namespace
}  // namespace sounder::kernels
