// The statistics that the figures of bench/ and the demo rest on.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "bench/generator/synthetic.h"

namespace sounder::generator {
namespace {

struct Statistics {
  double entropy = 0;     // nats
  double top_mass = 0;    // of the heaviest 2 % of keys
  double deviation = 0;   // of the logits
  double effective = 0;   // 1 / sum w^2
  double candidates = 0;  // expected share of rows that LSH(10,150) samples, on centred keys
  double uncentred = 0;   // the same on keys as they are
};

// P(>= 2 of `tables` collide) at cosine `c`: see the SimHash formula 1 - angle/pi.
double Inclusion(double c) {
  const double p = std::pow(1 - std::acos(std::clamp(c, -1.0, 1.0)) / M_PI, 10);
  return 1 - std::pow(1 - p, 150) - 150 * p * std::pow(1 - p, 149);
}

Statistics OfQuery(const std::vector<float>& keys, const std::vector<double>& mean,
                   const float* query, int dim, int64_t n, int u_stride) {
  std::vector<double> logits(n);
  Statistics statistics;
  double query_norm = 0;
  for (int j = 0; j < dim; ++j) query_norm += double{query[j]} * query[j];
  query_norm = std::sqrt(query_norm);
  int64_t sampled = 0;
  for (int64_t row = 0; row < n; ++row) {
    const float* key = &keys[row * dim];
    float dot = 0;
    for (int j = 0; j < dim; ++j) dot += key[j] * query[j];
    logits[row] = dot / std::sqrt(double(dim));
    if (row % u_stride != 0) continue;
    double centred = 0, centred_norm = 0, norm = 0;
    for (int j = 0; j < dim; ++j) {
      const double c = key[j] - mean[j];
      centred += c * query[j];
      centred_norm += c * c;
      norm += double{key[j]} * key[j];
    }
    statistics.candidates += Inclusion(centred / std::sqrt(centred_norm) / query_norm);
    statistics.uncentred += Inclusion(dot / std::sqrt(norm) / query_norm);
    ++sampled;
  }
  statistics.candidates /= sampled;
  statistics.uncentred /= sampled;
  const double top = *std::max_element(logits.begin(), logits.end());
  double z = 0, sum = 0, squares = 0;
  for (const double s : logits) z += std::exp(s - top), sum += s, squares += s * s;
  statistics.deviation = std::sqrt(squares / n - sum / n * sum / n);
  double concentration = 0;
  for (const double s : logits) {
    const double w = std::exp(s - top) / z;
    statistics.entropy -= w > 0 ? w * std::log(w) : 0;
    concentration += w * w;
  }
  statistics.effective = 1 / concentration;
  std::nth_element(logits.begin(), logits.begin() + n / 50, logits.end(), std::greater<>());
  for (int64_t i = 0; i < n / 50; ++i) statistics.top_mass += std::exp(logits[i] - top) / z;
  return statistics;
}

// Means over the query heads of `steps` steps of `seeds` caches.
Statistics Measure(Family family, int64_t n, int seeds, int steps) {
  constexpr int kDim = 128;
  Statistics total;
  int count = 0;
  for (int seed = 1; seed <= seeds; ++seed) {
    const Cache cache({.family = family, .seed = uint64_t(seed), .n = n});
    const Head head = cache.MakeHead(0, 0);
    std::vector<float> k(n * kDim), v(n * kDim);
    head.Rows(0, n, k, v);
    std::vector<double> mean(kDim);
    for (int64_t i = 0; i < n * kDim; ++i) mean[i % kDim] += double{k[i]} / n;
    for (int step = 0; step < steps; ++step) {
      const std::vector<float> queries = head.Queries(step);
      for (int h = 0; h < cache.options().group; ++h) {
        const Statistics one = OfQuery(k, mean, &queries[h * kDim], kDim, n, 64);
        total.entropy += one.entropy;
        total.top_mass += one.top_mass;
        total.deviation += one.deviation;
        total.effective += one.effective;
        total.candidates += one.candidates;
        total.uncentred += one.uncentred;
        ++count;
      }
    }
  }
  for (double* value : {&total.entropy, &total.top_mass, &total.deviation, &total.effective,
                        &total.candidates, &total.uncentred}) {
    *value /= count;
  }
  std::printf(
      "%s: entropy %.3f top2%% %.3f logit sd %.3f effective %.1f candidates %.4f "
      "(uncentred %.4f)\n",
      std::string(NameOf(family)).c_str(), total.entropy, total.top_mass, total.deviation,
      total.effective, total.candidates, total.uncentred);
  return total;
}

TEST(SyntheticTest, PeakedIsPeaked) {
  const Statistics s = Measure(Family::kPeaked, 65536, 4, 8);
  EXPECT_NEAR(s.entropy, 3.5, 0.2);
  EXPECT_NEAR(s.top_mass, 0.95, 0.03);
  EXPECT_NEAR(s.candidates, 0.032, 0.003);
  // The common mean matters: hashing keys as they are would sample another share of them.
  EXPECT_LT(s.uncentred, 0.85 * s.candidates);
}

TEST(SyntheticTest, FlatIsFlat) {
  const Statistics s = Measure(Family::kFlat, 65536, 4, 8);
  EXPECT_NEAR(s.entropy, 8.0, 0.2);
  EXPECT_NEAR(s.top_mass, 0.59, 0.04);
  EXPECT_NEAR(s.candidates, 0.032, 0.003);
}

TEST(SyntheticTest, MidHasTwentyEffectiveTokens) {
  const Statistics s = Measure(Family::kMid, 16384, 4, 8);
  EXPECT_NEAR(s.deviation, 2, 0.2);
  EXPECT_NEAR(s.effective, 20, 5);
}

TEST(SyntheticTest, SharpHasFifteenEffectiveTokens) {
  const Statistics s = Measure(Family::kSharp, 16384, 4, 8);
  EXPECT_NEAR(s.effective, 15, 5);
}

TEST(SyntheticTest, DiffuseIsDiffuse) {
  const Statistics s = Measure(Family::kDiffuse, 16384, 4, 8);
  EXPECT_NEAR(s.deviation, 1, 0.05);
  EXPECT_NEAR(16384 / s.effective, 3.4, 0.7);
}

}  // namespace
}  // namespace sounder::generator
