// Mistakes that a sampler of this kind has been or could be made with, each far outside what chance
// explains, on the problems and statistics of calibration_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/lsh/inclusion_probability.h"
#include "kv_node/kernels/pps_sample.h"
#include "kv_node/kernels/sketch_scan.h"
#include "tests/kv_node/sampler/calibration.h"

namespace sounder::kv_node {
namespace {

constexpr double kMutant = 10;  // standard errors

const Configuration& Named(const std::string& label) {
  static const auto* all = new std::vector<Configuration>(Configurations());
  const auto found = std::find_if(all->begin(), all->end(),
                                  [&](const Configuration& one) { return one.label == label; });
  CHECK(found != all->end()) << label;
  return *found;
}

void Print(const char* name, const Statistic& statistic) {
  std::printf("%s %.4f +- %.4f (%.0f standard errors)\n", name, statistic.mean(),
              statistic.standard_error(), statistic.ErrorsFrom(1));
}

// The chance that a query finds a row, [query, row]; the keys are centred by their mean.
std::vector<double> ChancesOf(const Problem& problem, const lsh::Projection& projection) {
  std::vector<double> mean(Problem::kDim);
  for (int64_t r = 0; r < Problem::kRows; ++r) {
    for (int c = 0; c < Problem::kDim; ++c) mean[c] += problem.key(r)[c] / double{Problem::kRows};
  }
  std::vector<double> chances;
  for (int q = 0; q < Problem::kQueries; ++q) {
    for (int64_t r = 0; r < Problem::kRows; ++r) {
      double qk = 0;
      double qq = 0;
      double kk = 0;
      for (int c = 0; c < Problem::kDim; ++c) {
        const double x = problem.query(q)[c];
        const double k = problem.key(r)[c] - mean[c];
        qk += x * k;
        qq += x * x;
        kk += k * k;
      }
      chances.push_back(lsh::InclusionProbability(projection, qk / std::sqrt(qq * kk)));
    }
  }
  return chances;
}

// Every head uses what any head finds, as if they found it independently; but they look into the
// same tables.
class SharedTablesTest : public testing::TestWithParam<double> {};

TEST_P(SharedTablesTest, AreNotIndependent) {
  const Problem problem(GetParam());
  const Configuration& lsh = Named("lsh_gaussian");
  const auto chances = ChancesOf(problem, *lsh.Make(Problem::kDim)->projection());
  Statistic honest;
  Statistic shared;
  Scratch scratch;
  for (int seed = 0; seed < 60; ++seed) {
    const auto sampler = lsh.Make(Problem::kDim, 100 + seed);
    const auto segments = problem.Segments(*sampler, 1);
    double honest_sum = 0;
    double shared_sum = 0;
    for (int g = 0; g < Problem::kGroups; ++g) {
      const int first = g * Problem::kHeads;
      const Group group = problem.Signed(*sampler, g);
      std::vector<bool> found(Problem::kRows);
      for (int h = 0; h < Problem::kHeads; ++h) {
        const int q = first + h;
        for (const Candidate& c :
             sampler->Candidates(*segments[0], group.Query(0, Problem::kRows), h, scratch)) {
          found[c.row] = true;
          honest_sum += std::exp(problem.logit(q, c.row)) / chances[q * Problem::kRows + c.row] /
                        problem.z(q);
        }
      }
      for (int64_t r = 0; r < Problem::kRows; ++r) {
        if (!found[r]) continue;
        double missed = 1;
        for (int h = 0; h < Problem::kHeads; ++h) {
          missed *= 1 - chances[(first + h) * Problem::kRows + r];
        }
        for (int q = first; q < first + Problem::kHeads; ++q) {
          shared_sum += std::exp(problem.logit(q, r)) / (1 - missed) / problem.z(q);
        }
      }
    }
    honest.Add(honest_sum / Problem::kQueries);
    shared.Add(shared_sum / Problem::kQueries);
  }
  Print("honest", honest);
  Print("shared", shared);
  EXPECT_TRUE(honest.IsOne());
  EXPECT_GT(shared.ErrorsFrom(1), kMutant);
}

INSTANTIATE_TEST_SUITE_P(Correlations, SharedTablesTest, testing::Values(.5, .95),
                         [](const auto& test) {
                           return "rho_" + std::to_string(static_cast<int>(100 * test.param));
                         });

// Rows drawn in proportion to sizes without the floor, weighted as if it were there.
TEST(FloorTest, BelongsToTheDrawAndToTheWeights) {
  constexpr int64_t kRows = 1024;
  base::PhiloxStream random(7, 0);
  constexpr int kStep = 16;  // scores are eighths of a binary order of magnitude
  std::vector<int8_t> scores(kRows);
  std::vector<double> weights;
  double total = 0;
  for (int8_t& score : scores) {
    // What is estimated to be next to nothing is not always nothing.
    score = static_cast<int8_t>(std::clamp(12 * random.NextGaussian(), -40.0, 40.0));
    weights.push_back(std::exp2(score / 8.0 + 1.5 * random.NextGaussian()));
    total += weights.back();
  }
  const std::vector<int16_t> offsets = {100};
  Scratch scratch;
  GroupSizes sizes = {.shares = scratch.shares(), .sums = scratch.size_sums()};
  MeasureSizes({.scores = scores.data(),
                .stride = kRows,
                .padded_rows = kRows,
                .step = kStep,
                .offsets = offsets},
               &sizes);
  const PpsPlan plan = PlanSample(sizes, kRows, 100, .3, scratch.large_sizes());
  PpsPlan without = plan;
  without.floor = 1;
  const auto estimate = [&](const PpsPlan& drawn, double added, uint32_t start) {
    const int64_t count =
        DrawSystematic(sizes, drawn, start, {}, scratch.candidates(), scratch.probabilities());
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      sum += weights[scratch.candidates()[i]] / std::min(1.0, scratch.probabilities()[i] + added) /
             total;
    }
    return sum;
  };
  Statistic honest;
  Statistic mutant;
  for (int i = 0; i < 4000; ++i) {
    const uint32_t start = random.Next32();
    honest.Add(estimate(plan, 0, start));
    mutant.Add(estimate(
        without, (static_cast<double>(plan.floor) - 1) / static_cast<double>(plan.step), start));
  }
  Print("honest", honest);
  Print("without floor", mutant);
  EXPECT_LE(honest.standard_error(), .005);
  EXPECT_TRUE(honest.IsOne());
  EXPECT_GT(mutant.ErrorsFrom(1), kMutant);
}

class CapTest : public testing::TestWithParam<double> {
 protected:
  const Problem problem_{GetParam()};
};

// A cap lowers the number of rows drawn; probabilities are those of the lower number.
TEST_P(CapTest, LowersProbabilities) {
  const auto sampler = Named("sketch_128").Make(Problem::kDim);
  const auto segments = problem_.Segments(*sampler, 1);
  Statistic honest;
  Statistic mutant;
  Scratch scratch;
  for (int step = 0; step < 120; ++step) {
    double honest_sum = 0;
    double mutant_sum = 0;
    for (int g = 0; g < Problem::kGroups; ++g) {
      const Group group = problem_.Signed(*sampler, g);
      const std::vector<float> lse = problem_.TrueLse(g);
      GroupQuery query = group.Query(0, Problem::kRows);
      query.lse_hints = lse;
      query.step = step;
      query.kv_head = g;
      std::map<int64_t, double> uncapped;
      for (const Candidate& c : sampler->Candidates(*segments[0], query, 0, scratch)) {
        uncapped[c.row] = c.u;
      }
      query.row_cap = 60;
      const auto capped = sampler->Candidates(*segments[0], query, 0, scratch);
      // Probabilities are in proportion as long as they are below 1.
      double factor = 0;
      for (const Candidate& c : capped) {
        const auto other = uncapped.find(c.row);
        if (other != uncapped.end() && other->second < 1 && c.u < 1) {
          factor = other->second / c.u;
        }
      }
      ASSERT_GT(factor, 1.2);
      for (const Candidate& c : capped) {
        for (int q = g * Problem::kHeads; q < (g + 1) * Problem::kHeads; ++q) {
          const double weight = std::exp(problem_.logit(q, c.row)) / problem_.z(q);
          honest_sum += weight / c.u;
          mutant_sum += weight / std::min(1.0, factor * c.u);
        }
      }
    }
    honest.Add(honest_sum / Problem::kQueries);
    mutant.Add(mutant_sum / Problem::kQueries);
  }
  Print("honest", honest);
  Print("uncapped probabilities", mutant);
  EXPECT_LE(honest.standard_error(), .005);
  EXPECT_TRUE(honest.IsOne());
  EXPECT_GT(mutant.ErrorsFrom(1), kMutant);
}

INSTANTIATE_TEST_SUITE_P(Correlations, CapTest, testing::Values(0, .5, .95), [](const auto& test) {
  return "rho_" + std::to_string(static_cast<int>(100 * test.param));
});

}  // namespace
}  // namespace sounder::kv_node
