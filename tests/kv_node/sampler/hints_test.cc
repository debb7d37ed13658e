// What a session knows of its attention as a whole, told to samplers that budget by it: budgets
// follow mass over segments and nodes, and estimates stay unbiased whatever the hints are worth.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <tuple>
#include <vector>

#include "tests/kv_node/sampler/calibration.h"

namespace sounder::kv_node {
namespace {

constexpr int kSegmentsOfANode = 2;

// Of the sketch sampler: configuration, rho, nodes.
class HintsTest : public testing::TestWithParam<std::tuple<Configuration, double, int>> {
 protected:
  // One answer to every group: segments merged on their node, nodes merged by the worker. `shift`:
  // what the hints of lse are wrong by.
  double ZRatio(const Sampler& sampler, const std::vector<std::unique_ptr<Segment>>& segments,
                uint64_t step, float shift, Scratch& scratch) {
    double ratios = 0;
    for (int g = 0; g < Problem::kGroups; ++g) {
      const Group group = problem_.Signed(sampler, g);
      std::vector<float> lse = problem_.TrueLse(g);
      for (float& one : lse) one += shift;
      Merged session;
      Merged node;
      for (size_t s = 0; s < segments.size(); ++s) {
        GroupQuery query = group.Query(0, segments[s]->num_rows());
        query.step = step;
        query.kv_head = g;
        query.lse_hints = lse;
        query.mean_size_hint = mean_sizes_.empty() ? 0 : mean_sizes_[g];
        const Answer answer = Ask(sampler, *segments[s], query, scratch);
        rows_ += answer.stats.rows_loaded;
        masses_[g] += answer.stats.mass;
        node.Add(answer.outputs.data(), answer.lse.data());
        if (s % kSegmentsOfANode == kSegmentsOfANode - 1) {
          session.Add(node.outputs.data(), node.lse.data());
          node = Merged();
        }
      }
      for (int h = 0; h < Problem::kHeads; ++h) {
        ratios += std::exp(session.lse[h] - std::log(problem_.z(g * Problem::kHeads + h)));
      }
    }
    return ratios / Problem::kQueries;
  }

  // Sets the hint of the mean size to what a step without it measures.
  void LearnMeanSizes(const Sampler& sampler, const std::vector<std::unique_ptr<Segment>>& segments,
                      float shift, Scratch& scratch) {
    ZRatio(sampler, segments, 0, shift, scratch);
    for (const double mass : masses_) {
      mean_sizes_.push_back(static_cast<float>(mass / double{Problem::kRows}));
    }
    rows_ = 0;
  }

  const Configuration& configuration() const { return std::get<0>(GetParam()); }

  const Problem problem_{std::get<1>(GetParam())};
  const int num_segments_ = kSegmentsOfANode * std::get<2>(GetParam());
  std::vector<double> masses_ = std::vector<double>(Problem::kGroups);
  std::vector<float> mean_sizes_;
  int64_t rows_ = 0;
};

TEST_P(HintsTest, EstimatesStayUnbiased) {
  const auto sampler = configuration().Make(Problem::kDim);
  const auto segments = problem_.Segments(*sampler, num_segments_);
  Scratch scratch;
  for (const float shift : {0.0f, -1.0f, 1.0f}) {
    mean_sizes_.clear();
    std::fill(masses_.begin(), masses_.end(), 0);
    LearnMeanSizes(*sampler, segments, shift, scratch);
    Statistic z;
    constexpr int kSteps = 80;
    for (int step = 0; step < kSteps; ++step) {
      z.Add(ZRatio(*sampler, segments, step, shift, scratch));
    }
    const double rows = static_cast<double>(rows_) / kSteps / Problem::kGroups / Problem::kRows;
    std::printf("hint off by %+.0f: Z ratio %.4f +- %.4f, rows %.4f\n", static_cast<double>(shift),
                z.mean(), z.standard_error(), rows);
    EXPECT_LE(z.standard_error(), .005);
    EXPECT_LE(std::abs(z.mean() - 1),
              4 * z.standard_error() + 1e-5 + configuration().row_error / 8);
    // The session reads what it was told to, wherever the mass is.
    EXPECT_NEAR(rows, configuration().spec.sketch.row_fraction, .01);
  }
}

std::vector<Configuration> WithHints() {
  std::vector<Configuration> all;
  for (const Configuration& one : Configurations()) {
    if (one.sampler->name == "sketch") all.push_back(one);
  }
  return all;
}

std::string NameOf(const testing::TestParamInfo<HintsTest::ParamType>& test) {
  return std::get<0>(test.param).label + "_rho_" +
         std::to_string(static_cast<int>(100 * std::get<1>(test.param))) + "_nodes_" +
         std::to_string(std::get<2>(test.param));
}

INSTANTIATE_TEST_SUITE_P(Samplers, HintsTest,
                         testing::Combine(testing::ValuesIn(WithHints()),
                                          testing::Values(0, .5, .95), testing::Values(1, 2, 3)),
                         NameOf);

}  // namespace
}  // namespace sounder::kv_node
