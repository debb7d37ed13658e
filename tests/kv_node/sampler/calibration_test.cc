// Every registered sampler estimates without bias, or is marked biased by design: over seeds, the
// mean of the estimated sum of weights is the true one, and so is the weighted sum of values, for
// query heads correlated 0, .5 and .95, over 1 to 8 segments and, with hints, over nodes. Mutants
// of the weights are caught by the same check.
#include "tests/kv_node/sampler/calibration.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <tuple>
#include <vector>

namespace sounder::kv_node {
namespace {

constexpr double kStandardError = .005;
// Steps of decode of a sampler that draws; seeds of one whose random directions are its draws.
constexpr int kSteps = 240;
constexpr int kSeeds = 60;

// Sums over the queries of one seed.
struct Sums {
  double z = 0;
  double numerator = 0;
  double powered = 0;     // z with probabilities to the power of 1.1
  double unweighted = 0;  // z with weights that forget the probabilities
};

class CalibrationTest : public testing::TestWithParam<std::tuple<Configuration, double, int>> {
 protected:
  const Configuration& configuration() const { return std::get<0>(GetParam()); }
  int num_segments() const { return std::get<2>(GetParam()); }

  // One answer to every group over all segments.
  Sums Answer(const Sampler& sampler, const std::vector<std::unique_ptr<Segment>>& segments,
              uint64_t step, Scratch& scratch) const {
    Sums sums;
    for (int g = 0; g < Problem::kGroups; ++g) {
      const Group group = problem_.Signed(sampler, g);
      Merged merged;
      for (const auto& segment : segments) {
        GroupQuery query = group.Query(0, segment->num_rows());
        query.step = step;
        query.kv_head = g;
        const auto answer = Ask(sampler, *segment, query, scratch);
        merged.Add(answer.outputs.data(), answer.lse.data());
        std::vector<Candidate> candidates;
        for (int h = 0; h < Problem::kHeads; ++h) {
          const int q = g * Problem::kHeads + h;
          // A budget is spent once for the group.
          if (h == 0 || !configuration().budgeted()) {
            candidates = sampler.Candidates(*segment, query, h, scratch);
          }
          for (const Candidate& c : candidates) {
            const double logit = problem_.logit(q, segment->first_position() + c.row);
            sums.powered += std::exp(logit) / std::pow(c.u, 1.1) / problem_.z(q);
            sums.unweighted += std::exp(logit) / problem_.z(q);
          }
        }
      }
      for (int h = 0; h < Problem::kHeads; ++h) {
        const int q = g * Problem::kHeads + h;
        const double ratio = std::exp(merged.lse[h] - std::log(problem_.z(q)));
        sums.z += ratio;
        sums.numerator += ratio * problem_.Along(&merged.outputs[h * Problem::kDim]) -
                          problem_.numerator(q) / problem_.z(q);
      }
    }
    return sums;
  }

  const Problem problem_{std::get<1>(GetParam())};
};

TEST_P(CalibrationTest, TheMeanOverSeedsIsTheTruth) {
  Statistic z;
  Statistic numerator;
  Statistic powered;
  Statistic unweighted;
  Scratch scratch;
  const auto add = [&](const Sums& sums) {
    z.Add(sums.z / Problem::kQueries);
    numerator.Add(sums.numerator / Problem::kQueries);
    powered.Add(sums.powered / Problem::kQueries);
    unweighted.Add(sums.unweighted / Problem::kQueries);
  };
  if (configuration().lsh()) {
    for (int seed = 0; seed < kSeeds; ++seed) {
      const auto sampler = configuration().Make(Problem::kDim, 100 + seed);
      add(Answer(*sampler, problem_.Segments(*sampler, num_segments()), 0, scratch));
    }
  } else {
    const auto sampler = configuration().Make(Problem::kDim);
    const auto segments = problem_.Segments(*sampler, num_segments());
    const int steps = configuration().sampler->draws ? kSteps : 2;
    for (int step = 0; step < steps; ++step) add(Answer(*sampler, segments, step, scratch));
  }
  std::printf("%d times: Z ratio %.4f +- %.4f, values %.4f +- %.4f; u^1.1 %.4f, no 1/u %.4f\n",
              z.count, z.mean(), z.standard_error(), numerator.mean(), numerator.standard_error(),
              powered.mean(), unweighted.mean());
  if (!configuration().sampler->unbiased) {
    // What is not found counts for nothing.
    EXPECT_LT(z.mean(), .95);
    EXPECT_NEAR(z.mean(), unweighted.mean(), 1e-4);
    return;
  }
  EXPECT_LE(z.standard_error(), kStandardError);
  EXPECT_LE(numerator.standard_error(), 2 * kStandardError);
  // Sums in f32 and rows in eight bits are no part of the estimate.
  const double rounding = 1e-5 + configuration().row_error / 8;
  EXPECT_LE(std::abs(z.mean() - 1), 4 * z.standard_error() + rounding);
  EXPECT_LE(std::abs(numerator.mean()), 4 * numerator.standard_error() + rounding);
  if (configuration().exact()) return;
  EXPECT_GT(powered.ErrorsFrom(1), 10);
  EXPECT_GT(unweighted.ErrorsFrom(1), 10);
}

std::string NameOf(const testing::TestParamInfo<CalibrationTest::ParamType>& test) {
  return std::get<0>(test.param).label + "_rho_" +
         std::to_string(static_cast<int>(100 * std::get<1>(test.param))) + "_segments_" +
         std::to_string(std::get<2>(test.param));
}

INSTANTIATE_TEST_SUITE_P(Samplers, CalibrationTest,
                         testing::Combine(testing::ValuesIn(Configurations()),
                                          testing::Values(0, .5, .95), testing::Values(1, 3, 8)),
                         NameOf);

}  // namespace
}  // namespace sounder::kv_node
