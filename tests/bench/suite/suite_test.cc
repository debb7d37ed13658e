// The suite on a small segment: every figure is there, finite and plausible. (Speed is not tested:
// machines differ; `./run bench` measures it.)
#include "bench/suite/suite.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "bench/suite/frontier.h"
#include "bench/suite/machine.h"
#include "bench/suite/timing.h"
#include "common/base/cpu.h"

namespace sounder::suite {
namespace {

TEST(SuiteTest, GivesEveryFigure) {
  SuiteSpec spec = QuickSuite();
  spec.size = {.n = 2048, .dim = 64, .group = 2};
  spec.pairs = 3;
  spec.steps = 3;
  spec.frontier_steps = 1;
  spec.million_steps = 1;
  cli::Record record;
  RunSuite(spec, record);
  const auto json = nlohmann::json::parse(record.ToJson());
  for (const char* key : {"seq_read_us",
                          "parallel_read_us",
                          "exact_us",
                          "exact_over_seq_read",
                          "lsh_10_150_us",
                          "lsh_10_150_over_seq_read",
                          "lsh_10_150_rows_fraction",
                          "lsh_10_150_error_peaked",
                          "lsh_10_150_error_flat",
                          "lsh_10_150_error_diffuse",
                          "ingest_lsh_us_per_token",
                          "signature_query_us",
                          "tuning_s",
                          "tuning_off_over_on_exact",
                          "tuning_off_over_on_lsh_10_150",
                          "tuning_on_sketch_128_1pct_int8_us",
                          "tuning_int8_over_appended",
                          "sketch_128_1pct_int8_us",
                          "sketch_128_2pct_int8_error_sharp",
                          "ingest_sketch_128_int8_us_per_token",
                          "frontier_mid_sketch_128_50bp_int8_us",
                          "frontier_sharp_lsh_10_75_split_error",
                          "seq_read_n1m_us",
                          "sketch_128_int8_n1m_error"}) {
    ASSERT_TRUE(json.contains(key)) << key;
    EXPECT_GT(json[key].get<double>(), 0) << key;
  }
  EXPECT_EQ(json["n"], 2048);
  EXPECT_EQ(json["pairs"], 3);
  EXPECT_DOUBLE_EQ(json["exact_over_seq_read"].get<double>(),
                   json["exact_us"].get<double>() / json["seq_read_us"].get<double>());
  EXPECT_LT(json["lsh_10_150_rows_fraction"], 0.2);
  EXPECT_LE(json["exact_over_seq_read_p10"], json["exact_over_seq_read_p90"]);
}

// At the length the project quotes: the share of rows that LSH(10,150) reads on the generator.
TEST(SuiteTest, SamplesThreePercentOfTheRows) {
  kv_node::SamplerSpec sampler;
  sampler.kind = kv_node::SamplerKind::kLshTables;
  const cli::EvalFigures figures =
      Accuracy(generator::Family::kPeaked, Size(), /*data_seeds=*/1, /*steps=*/8,
               /*hash_seeds=*/1, sampler);
  EXPECT_NEAR(figures.rows_read_fraction, 0.032, 0.003);
  EXPECT_NEAR(figures.mean_relative_error, 0.3, 0.1);
}

TEST(FrontierTest, TimeAtErrorIsOnTheLineBetweenNeighbours) {
  const std::vector<FrontierPoint> points = {{.1, 400}, {.4, 100}, {.2, 200}};
  EXPECT_DOUBLE_EQ(TimeAtError(points, .2), 200);
  EXPECT_NEAR(TimeAtError(points, .1 * std::sqrt(2)), 200 * std::sqrt(2), 1e-9);
  EXPECT_DOUBLE_EQ(TimeAtError(points, 1), 100) << "better than asked for is good enough";
  EXPECT_TRUE(std::isinf(TimeAtError(points, .05)));
}

TEST(TimingTest, QuantilesInterpolate) {
  EXPECT_EQ(Quantile({3}, 0.9), 3);
  EXPECT_DOUBLE_EQ(Quantile({4, 1, 3, 2}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(Quantile({0, 10}, 0.1), 1);
  EXPECT_DOUBLE_EQ(Quantile({5, 1}, 1), 5);
}

TEST(TimingDeathTest, ResultsMustBeFinite) {
  Use(1);
  EXPECT_DEATH(Use(0.0 / 0.0), "a timed step gave");
}

TEST(MachineTest, SaysSomething) {
  EXPECT_NE(base::CpuModel(), "");
  EXPECT_EQ(CommitOf("/no/such/folder"), "unknown");
}

}  // namespace
}  // namespace sounder::suite
