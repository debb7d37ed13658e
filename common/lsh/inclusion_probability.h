// The chance that a row becomes a candidate, from the angle between its centred key and the query
// (MagicPIG, arXiv 2410.16179, equation 10, for any min_collisions):
//
//   p = 1 - angle / pi                     one random direction puts both on the same side
//   P = p^K                                all K bits of one table agree
//   P = p^K + K p^(K-1) (1 - p)            all but one do, with probe_distance 1
//   u = P[Binomial(L, P) >= min_collisions]
//
// Structured projections: bits of one block are orthogonal directions, so collisions of different
// tables are slightly less likely together than independent ones. Their pairwise correlation is
// known (see DESIGN.md); u is then taken from the binomial with the same mean and variance.
// Pure functions and an immutable table; thread safe.
#ifndef SOUNDER_COMMON_LSH_INCLUSION_PROBABILITY_H_
#define SOUNDER_COMMON_LSH_INCLUSION_PROBABILITY_H_

#include <span>
#include <vector>

#include "common/lsh/projection.h"

namespace sounder::lsh {

// p for a cosine; clamped to [-1, 1]; NaN counts as cosine 0. In [0, 1].
double SameSideProbability(double cosine);

// log P[X >= min_collisions], X ~ Binomial(trials, probability); trials may be fractional. Exact to
// double rounding over the whole range: no difference of nearly equal numbers. -inf at 0.
double LogBinomialTail(double trials, double probability, int min_collisions);

// P as a function of p.
double CollisionProbability(const LshParams& params, double same_side);

// log u as a function of p, the reference for the table below: of a row that is looked for in
// `num_tables` of the tables (in all of them). Finite: at least kLogSmallest.
double LogInclusionProbability(const Projection& projection, double same_side, int num_tables);
double LogInclusionProbability(const Projection& projection, double same_side);

// u itself, from the cosine.
double InclusionProbability(const Projection& projection, double cosine);

// log u tabulated over p in [0, 1] for kernels, which interpolate linearly.
class InclusionTable {
 public:
  static constexpr int kCells = 4096;
  static constexpr double kLogSmallest = -80;  // e^80 / u stays far from overflow in f32

  explicit InclusionTable(const Projection& projection)
      : InclusionTable(projection, projection.params().num_tables) {}
  InclusionTable(const Projection& projection, int num_tables);
  // f32[kCells + 2]: entry i is log u at p = i / kCells; the last is repeated.
  std::span<const float> values() const { return values_; }

 private:
  std::vector<float> values_;
};

}  // namespace sounder::lsh

#endif  // SOUNDER_COMMON_LSH_INCLUSION_PROBABILITY_H_
