#include "common/lsh/inclusion_probability.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace sounder::lsh {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// Relative change of the chance that two tables collide together, against independent ones, for
// structured projections: two directions of one block are orthogonal, which gives the events "same
// side" the covariance -(sin(angle) / pi)^2 / (D - 1).
double PairCorrelation(const Projection& projection, double same_side) {
  const LshParams& params = projection.params();
  if (params.projection != ProjectionKind::kHadamard) return 0;
  const double blocks = projection.num_blocks();
  const double bits = params.bits_per_table;
  const double pairs = bits * bits / blocks;  // of bits of two tables that share a block
  const double sine = std::sin(std::numbers::pi * same_side) / std::numbers::pi;
  const double covariance = -sine * sine / (projection.padded_dim() - 1);
  // How the chance of a collision changes with that of one of its bits, relative to it.
  const double p = std::max(same_side, 1e-6);
  const double slope =
      params.probe_distance == 0 ? 1 / p : (bits - 1) * (1 - p) / (p * (p + bits * (1 - p)));
  return std::max(-0.9, pairs * covariance * slope * slope);
}

}  // namespace

double SameSideProbability(double cosine) {
  if (std::isnan(cosine)) cosine = 0;
  return 1 - std::acos(std::clamp(cosine, -1.0, 1.0)) / std::numbers::pi;
}

double LogBinomialTail(double trials, double probability, int min_collisions) {
  if (min_collisions <= 0 || probability >= 1) return 0;
  if (probability <= 0 || trials <= min_collisions - 1) return kMinusInfinity;
  const double log_odds = std::log(probability) - std::log1p(-probability);
  // log of C(trials, k) p^k (1-p)^(trials-k), by its recurrence in k.
  double log_term = trials * std::log1p(-probability);
  if (trials * probability > min_collisions) {  // the lower tail is the smaller one
    double below = std::exp(log_term);
    for (int k = 1; k < min_collisions; ++k) {
      log_term += std::log((trials - k + 1) / k) + log_odds;
      below += std::exp(log_term);
    }
    return std::log1p(-std::min(below, 1.0 - 1e-16));
  }
  for (int k = 1; k <= min_collisions; ++k) log_term += std::log((trials - k + 1) / k) + log_odds;
  // Sum from min_collisions upwards, relative to its first term.
  const double odds = probability / (1 - probability);
  double ratio = 1;
  double sum = 1;
  for (int k = min_collisions + 1; k <= trials; ++k) {
    ratio *= (trials - k + 1) / k * odds;
    sum += ratio;
    if (ratio < sum * 1e-17) break;
  }
  return std::min(0.0, log_term + std::log(sum));
}

double CollisionProbability(const LshParams& params, double same_side) {
  const double but_one = std::pow(same_side, params.bits_per_table - 1);
  if (params.probe_distance == 0) return but_one * same_side;
  return but_one * (same_side + params.bits_per_table * (1 - same_side));
}

double LogInclusionProbability(const Projection& projection, double same_side, int num_tables) {
  const LshParams& params = projection.params();
  const double collision = CollisionProbability(params, same_side);
  double trials = num_tables;
  double probability = collision;
  const double correlation = PairCorrelation(projection, same_side);
  if (correlation != 0 && trials > 1) {
    // The binomial with mean L P and E[X (X - 1)] = L (L - 1) P^2 (1 + correlation).
    trials = 1 / (1 - (1 - 1 / trials) * (1 + correlation));
    probability = std::min(1.0, num_tables * collision / trials);
  }
  return std::max(InclusionTable::kLogSmallest,
                  LogBinomialTail(trials, probability, params.min_collisions));
}

double LogInclusionProbability(const Projection& projection, double same_side) {
  return LogInclusionProbability(projection, same_side, projection.params().num_tables);
}

double InclusionProbability(const Projection& projection, double cosine) {
  return std::exp(LogInclusionProbability(projection, SameSideProbability(cosine)));
}

InclusionTable::InclusionTable(const Projection& projection, int num_tables) {
  for (int i = 0; i <= kCells; ++i) {
    const double same_side = static_cast<double>(i) / kCells;
    values_.push_back(
        static_cast<float>(LogInclusionProbability(projection, same_side, num_tables)));
  }
  values_.push_back(values_.back());
}

}  // namespace sounder::lsh
