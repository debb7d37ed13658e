// Attention sampled by sketches through whole nodes: the same however the session is cut, right on
// average, and steered by the hints of the request.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/virtual_executor.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/test_session.h"

namespace sounder::tests {
namespace {

constexpr int64_t kPositions = 640;
constexpr uint32_t kSealRows = 64;
constexpr uint32_t kHeads = 4;  // query heads
constexpr uint32_t kKvHeads = 2;

// A session of 10 sealed segments, on some nodes.
class Sketched {
 public:
  Sketched(int nodes, int64_t shard_rows, int head_shards,
           wire::RowFormat format = wire::RowFormat::kAsAppended)
      : cluster_(OnNodes(nodes), &executor_) {
    gpu_worker::RemoteSessionOptions options = SessionOptions(kShape, 1, kSealRows);
    options.sketch = {128, 3};
    options.row_format = format;
    options.indexed_layers = {0};
    options.shard_rows = shard_rows;
    options.head_shards = head_shards;
    auto session = cluster_.client().Open(options);
    EXPECT_TRUE(session.ok()) << session.status();
    session_ = *std::move(session);
    EXPECT_TRUE(cluster_.client().Append(session_.get(), Rows().Range({0, kPositions}, true)).ok());
  }

  static const TestRows& Rows() {
    static const TestRows rows = TestRows::Gaussian(kShape, kPositions, 3);
    return rows;
  }
  static const std::vector<float>& Queries() {
    static const std::vector<float> queries = GaussianQueries(kShape, 1, 11);
    return queries;
  }

  gpu_worker::AttendQuery Query(float budget, uint64_t sample_key = 5) const {
    gpu_worker::AttendQuery query = ExactQuery(session_.get(), Queries(), {0, kPositions});
    query.attention = wire::AttentionKind::kSketch;
    query.rows_budget = budget;
    query.sample_key = sample_key;
    return query;
  }
  gpu_worker::AttendQuery Ask(gpu_worker::AttendQuery query) {
    std::vector<gpu_worker::AttendQuery> queries{std::move(query)};
    cluster_.client().StartAttend(0, queries)->Wait();
    EXPECT_TRUE(queries[0].status.ok()) << queries[0].status;
    return std::move(queries[0]);
  }

  static constexpr Shape kShape{1, kKvHeads, 2, 16, base::DType::kF32};

 private:
  static LocalClusterOptions OnNodes(int nodes) {
    LocalClusterOptions options;
    options.nodes = nodes;
    return options;
  }
  base::VirtualExecutor executor_{1};
  LocalCluster cluster_;
  std::shared_ptr<gpu_worker::RemoteSession> session_;
};

Reference Truth(const gpu_worker::AttendQuery& query) {
  return ReferenceOf(Sketched::Rows(), 0, Sketched::Queries(), query.range, query.scale);
}

// The sum of the squared shares of all positions in a query head's attention.
double ConcentrationOf(uint32_t head, double lse, float scale) {
  const memory::RowsView keys = Sketched::Rows().Keys(0, head / Sketched::kShape.group);
  const size_t dim = Sketched::kShape.dim;
  double sum = 0;
  for (int64_t row = 0; row < kPositions; ++row) {
    double dot = 0;
    for (size_t d = 0; d < dim; ++d) {
      dot += double{Sketched::Queries()[head * dim + d]} * keys.At(row, static_cast<int>(d));
    }
    sum += std::exp(2 * (double{scale} * dot - lse));
  }
  return sum;
}

struct Cut {
  int nodes;
  int64_t shard_rows;
  int head_shards;
};
constexpr Cut kCuts[] = {{1, 0, 1}, {2, 0, 2}, {3, 128, 1}, {3, 64, 2}};

TEST(SketchAttendTest, WithAllRowsInTheBudgetEqualsTheReference) {
  for (const Cut& cut : kCuts) {
    SCOPED_TRACE(absl::StrCat(cut.nodes, " nodes, shards of ", cut.shard_rows));
    Sketched appended(cut.nodes, cut.shard_rows, cut.head_shards);
    gpu_worker::AttendQuery asked = appended.Query(1);
    asked.want_concentration = true;
    const gpu_worker::AttendQuery all = appended.Ask(asked);
    const Reference truth = Truth(all);
    EXPECT_LT(Distance(all, truth), 1e-5);
    EXPECT_EQ(all.rows_read, kHeads * uint64_t{kPositions});
    EXPECT_EQ(all.rows_loaded, kKvHeads * uint64_t{kPositions});
    EXPECT_EQ(all.rows_exact, 0u) << "drawn, with certainty";
    ASSERT_EQ(all.concentration.size(), kHeads);
    for (uint32_t head = 0; head < kHeads; ++head) {
      const double wanted = ConcentrationOf(head, truth.lse[head], all.scale);
      EXPECT_NEAR(all.concentration[head], wanted, 1e-4 * wanted) << head;
    }
    EXPECT_TRUE(appended.Ask(appended.Query(1)).concentration.empty()) << "nobody asked";

    Sketched int8(cut.nodes, cut.shard_rows, cut.head_shards, wire::RowFormat::kInt8);
    const double distance = Distance(int8.Ask(int8.Query(1)), truth);
    EXPECT_LT(distance, 0.02);
    EXPECT_GT(distance, 1e-4) << "not the rows as appended";
    gpu_worker::AttendQuery exact = int8.Query(0);
    exact.attention = wire::AttentionKind::kExact;
    EXPECT_LT(Distance(int8.Ask(exact), truth), 1e-5) << "those are there, too";
  }
}

TEST(SketchAttendTest, TheSameSampleHoweverItIsCut) {
  std::vector<gpu_worker::AttendQuery> answers;
  for (const Cut& cut : kCuts) {
    Sketched session(cut.nodes, cut.shard_rows, cut.head_shards);
    gpu_worker::AttendQuery query = session.Query(0.05f);
    query.want_concentration = true;
    answers.push_back(session.Ask(query));
    const gpu_worker::AttendQuery& first = answers.front();
    const gpu_worker::AttendQuery& last = answers.back();
    EXPECT_EQ(last.rows_loaded, first.rows_loaded);
    for (size_t i = 0; i < first.outputs.size(); ++i) {
      ASSERT_NEAR(last.outputs[i], first.outputs[i], 1e-5);
    }
    for (size_t i = 0; i < kHeads; ++i) {
      EXPECT_NEAR(last.concentration[i], first.concentration[i], 1e-4 * first.concentration[i]);
    }
    for (size_t i = 0; i < kKvHeads; ++i) {
      EXPECT_NEAR(last.head_mass[i], first.head_mass[i], 1e-4 * first.head_mass[i]);
    }
    EXPECT_NE(session.Ask(session.Query(0.05f, 6)).outputs, last.outputs) << "another sample";
  }
}

// The sum of the weights, e^lse, over 400 samples of a tenth of the rows.
TEST(SketchAttendTest, SumsAreRightOnAverage) {
  constexpr int kSamples = 400;
  for (const wire::RowFormat format : {wire::RowFormat::kAsAppended, wire::RowFormat::kInt8}) {
    Sketched session(2, 128, 1, format);
    const Reference truth = Truth(session.Query(1));
    double sum[kHeads] = {};
    double squares[kHeads] = {};
    uint64_t loaded = 0;
    for (int sample = 0; sample < kSamples; ++sample) {
      const auto answer = session.Ask(session.Query(0.1f, 100 + static_cast<uint64_t>(sample)));
      loaded += answer.rows_loaded;
      for (uint32_t head = 0; head < kHeads; ++head) {
        const double ratio = std::exp(answer.lse[head] - truth.lse[head]);
        sum[head] += ratio;
        squares[head] += ratio * ratio;
      }
    }
    for (uint32_t head = 0; head < kHeads; ++head) {
      const double mean = sum[head] / kSamples;
      const double deviation = std::sqrt(squares[head] / kSamples - mean * mean);
      std::printf("head %u: sum of weights %.4f +- %.4f of the true one\n", head, mean,
                  deviation / std::sqrt(kSamples));
      EXPECT_NEAR(mean, 1, 4 * deviation / std::sqrt(kSamples) + 2e-3) << head;
      EXPECT_LT(deviation, 0.5) << head;
    }
    const double share = static_cast<double>(loaded) / kSamples / (kKvHeads * kPositions);
    EXPECT_NEAR(share, 0.1, 0.01);
  }
}

TEST(SketchAttendTest, HintsSteerTheBudget) {
  Sketched session(3, 128, 1);
  const Reference truth = Truth(session.Query(1));
  const std::vector<float> lse(truth.lse.begin(), truth.lse.end());
  gpu_worker::AttendQuery query = session.Query(0.1f);
  query.lse_hints = lse.data();
  const gpu_worker::AttendQuery first = session.Ask(query);
  ASSERT_EQ(first.head_mass.size(), kKvHeads);
  std::vector<wire::HeadHint> hints;
  for (const float mass : first.head_mass) {
    // The largest of two shares, summed over all rows: of estimates, so about.
    EXPECT_GT(mass, 0.5f);
    EXPECT_LT(mass, 4.0f);
    hints.push_back({mass / kPositions, 0});
  }
  const auto loaded = [&] {
    query.head_hints = hints.data();
    return static_cast<double>(session.Ask(query).rows_loaded) / (kKvHeads * kPositions);
  };
  EXPECT_NEAR(loaded(), 0.1, 0.01) << "shared out by mass, and as much in all";
  for (wire::HeadHint& hint : hints) hint.mean_size *= 4;
  EXPECT_NEAR(loaded(), 0.1 * (0.1 + 0.9 / 4), 0.01);
  query.lse_hints = nullptr;
  EXPECT_NEAR(loaded(), 0.1, 0.01) << "sizes mean nothing without";
  query.rows_cap = 2;
  EXPECT_NEAR(loaded(), 2.0 / kSealRows, 0.005);
}

TEST(SketchAttendTest, HeadsMayBeDrawnAlike) {
  Sketched session(2, 128, 1);
  const std::vector<wire::HeadHint> hints = {{0, 0.25f}, {0, 0}};
  gpu_worker::AttendQuery query = session.Query(0.05f);
  query.head_hints = hints.data();
  const gpu_worker::AttendQuery answer = session.Ask(query);
  EXPECT_EQ(answer.head_mass[0], 0);
  EXPECT_GT(answer.head_mass[1], 0);
  const uint64_t other = answer.rows_loaded - kPositions / 4;  // 16 of every 64, no less, no more
  EXPECT_NEAR(static_cast<double>(other), 0.05 * kPositions, 10);
  const Reference truth = Truth(query);
  for (uint32_t head = 0; head < 2; ++head) {
    EXPECT_NEAR(answer.lse[head], truth.lse[head], 0.5) << head;
  }
}

}  // namespace
}  // namespace sounder::tests
