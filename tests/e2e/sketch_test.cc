// A long synthetic session on 1 to 3 real nodes, sampled by sketches step after step with the hints
// of the steps before: close to exact, right on average, and the same however it is cut.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

#include "bench/generator/synthetic.h"
#include "gpu_worker/engine/sketch_hints.h"
#include "tests/e2e/worker.h"

namespace sounder::e2e {
namespace {

constexpr int64_t kPositions = 16384;
constexpr int kKvHeads = 2;
constexpr int kGroup = 4;
constexpr size_t kHeads = kKvHeads * kGroup;
constexpr size_t kDim = 64;
constexpr int kSteps = 24;

struct Layout {
  const char* name;
  int nodes;
  int64_t shard_rows;
  int head_shards;
};
constexpr Layout kLayouts[] = {
    {"1 node", 1, 0, 1}, {"2 nodes by head", 2, 0, 2}, {"3 nodes by range", 3, 4096, 1}};

class Cache {
 public:
  explicit Cache(generator::Family family) : cache_(OptionsOf(family)) {
    for (int head = 0; head < kKvHeads; ++head) {
      heads_.push_back(cache_.MakeHead(0, head));
      keys_.emplace_back(kPositions * kDim * 2);
      values_.emplace_back(kPositions * kDim * 2);
      heads_.back().RowsAs(base::DType::kBF16, 0, kPositions, keys_.back().data(),
                           values_.back().data(), kDim * 2);
    }
  }
  // Those of step 0 with a part of a step's own: all of it at a drift of 1.
  std::vector<float> Queries(int64_t step, double drift) const {
    std::vector<float> queries;
    for (const generator::Head& head : heads_) {
      const std::vector<float> first = head.Queries(0);
      const std::vector<float> own = head.Queries(step);
      for (size_t i = 0; i < own.size(); ++i) {
        const double q = (1 - drift) * double{first[i]} + drift * double{own[i]};
        queries.push_back(base::RoundTo(base::DType::kBF16, static_cast<float>(q)));
      }
    }
    return queries;
  }
  gpu_worker::AppendRows Rows() const {
    gpu_worker::AppendRows rows;
    rows.row_count = kPositions;
    rows.seal_after = true;
    rows.rows = [this](uint32_t, uint32_t head) {
      return gpu_worker::AppendRows::Head{keys_[head], values_[head]};
    };
    return rows;
  }

 private:
  static generator::Options OptionsOf(generator::Family family) {
    return {.family = family, .seed = 4, .dim = kDim, .group = kGroup, .n = kPositions};
  }
  const generator::Cache cache_;
  std::vector<generator::Head> heads_;
  std::vector<std::vector<std::byte>> keys_, values_;
};

// What the steps of a session came to.
struct Session {
  std::vector<float> outputs;
  double error = 0;       // mean |o - o*| / |o*|
  double sum_ratio = 0;   // mean of e^(lse - lse*)
  double sum_spread = 0;  // standard deviation of that mean
  double loaded = 0;      // share of the rows
  int64_t drawn_alike = 0;
  int hinted = 0;
};

// drift: of the queries from step to step. seal_rows: of a segment. Without `hinted` no step is
// told of those before it.
Session Decode(const Cache& cache, const Layout& layout, wire::RowFormat format, double drift,
               uint32_t seal_rows = 4096, bool hinted = true) {
  const auto nodes = StartNodes(layout.nodes, {"--threads", "1"});
  Client client(nodes, "tcp", seconds(10));
  gpu_worker::RemoteSessionOptions options;
  options.id = {7, 7};
  options.model = {"synthetic", "", 1, kKvHeads, kHeads, kDim, "", ""};
  options.sketch = {128, 5};
  options.row_format = format;
  options.indexed_layers = {0};
  options.seal_rows = seal_rows;
  options.min_indexed_rows = 256;
  options.shard_rows = layout.shard_rows;
  options.head_shards = layout.head_shards;
  auto session = client->Open(options);
  EXPECT_TRUE(session.ok()) << session.status();
  EXPECT_TRUE(client->Append(session->get(), cache.Rows()).ok());
  EXPECT_TRUE(client->WaitAppended(session->get(), kPositions).ok());

  Session decoded;
  gpu_worker::SketchHints hints({.rows = .02, .uniform_above = .15, .uniform_rows = .04}, kKvHeads,
                                kGroup);
  double squares = 0;
  for (int step = 0; step < kSteps; ++step) {
    const std::vector<float> queries = cache.Queries(step, drift);
    std::vector<gpu_worker::AttendQuery> asked(2);  // exactly, and a sample
    for (gpu_worker::AttendQuery& query : asked) {
      query.session = session->get();
      query.queries = queries.data();
      query.range = {0, kPositions};
      query.layout_position = kPositions;
      query.scale = 0.125f;
      query.sample_key = 9;
      query.step = static_cast<uint64_t>(step);
    }
    hints.Ask(step, &asked[1]);
    if (!hinted) {
      asked[1].lse_hints = nullptr;
      asked[1].head_hints = nullptr;
    }
    decoded.drawn_alike += hints.drawn_alike();
    decoded.hinted += asked[1].lse_hints != nullptr;
    client->StartAttend(0, asked)->Wait();
    for (const auto& query : asked) EXPECT_TRUE(query.status.ok()) << query.status;
    hints.Learn(asked[1]);
    decoded.loaded += static_cast<double>(asked[1].rows_loaded) / (kKvHeads * kPositions * kSteps);
    for (size_t head = 0; head < kHeads; ++head) {
      double difference = 0;
      double norm = 0;
      for (size_t d = head * kDim; d < (head + 1) * kDim; ++d) {
        const double delta = double{asked[1].outputs[d]} - asked[0].outputs[d];
        difference += delta * delta;
        norm += double{asked[0].outputs[d]} * asked[0].outputs[d];
      }
      const double ratio = std::exp(double{asked[1].lse[head]} - asked[0].lse[head]);
      decoded.error += std::sqrt(difference / norm) / (kHeads * kSteps);
      decoded.sum_ratio += ratio / (kHeads * kSteps);
      squares += ratio * ratio / (kHeads * kSteps);
    }
    decoded.outputs.insert(decoded.outputs.end(), asked[1].outputs.begin(), asked[1].outputs.end());
  }
  const double variance = squares - decoded.sum_ratio * decoded.sum_ratio;
  // The queries of a group share their sample: as many independent ratios as kv heads and steps.
  decoded.sum_spread = std::sqrt(variance / (kKvHeads * kSteps));
  EXPECT_TRUE(client->Close(session->get()).ok());
  std::printf(
      "sketch: %s: error %.3f, sum of weights %.4f +- %.4f, %.2f %% of rows, %lld alike, hinted "
      "%d\n",
      layout.name, decoded.error, decoded.sum_ratio, decoded.sum_spread, 100 * decoded.loaded,
      static_cast<long long>(decoded.drawn_alike), decoded.hinted);
  return decoded;
}

double Difference(const Session& a, const Session& b) {
  double most = a.outputs.size() == b.outputs.size() ? 0 : INFINITY;
  for (size_t i = 0; i < a.outputs.size() && i < b.outputs.size(); ++i) {
    most = std::max(most, std::abs(double{a.outputs[i]} - b.outputs[i]));
  }
  return most;
}

TEST(SketchTest, PeakedAttentionOnOneToThreeNodes) {
  const Cache cache(generator::Family::kPeaked);
  Session first;
  for (const Layout& layout : kLayouts) {
    const Session session = Decode(cache, layout, wire::RowFormat::kAsAppended, /*drift=*/.05);
    EXPECT_LT(session.error, 0.2);
    EXPECT_NEAR(session.sum_ratio, 1, 4 * session.sum_spread);
    EXPECT_LT(session.sum_spread, 0.05);
    EXPECT_NEAR(session.loaded, .02, .004) << "budgets by hints, and as much in all";
    EXPECT_GT(session.hinted, kSteps / 2);
    EXPECT_EQ(session.drawn_alike, 0);
    if (first.outputs.empty()) first = session;
    EXPECT_LT(Difference(session, first), 1e-4) << "another sample";
  }
  const Session int8 = Decode(cache, kLayouts[1], wire::RowFormat::kInt8, .05);
  EXPECT_LT(int8.error, 0.2);
  EXPECT_NEAR(int8.sum_ratio, 1, 4 * int8.sum_spread);
  EXPECT_GT(Difference(int8, first), 1e-4) << "rows as appended were read";
}

// Queries that have nothing in common with those of the step before: hints of those would mislead.
TEST(SketchTest, QueriesThatJumpAreSampledWithoutHints) {
  const Cache cache(generator::Family::kPeaked);
  const Session session = Decode(cache, kLayouts[2], wire::RowFormat::kAsAppended, /*drift=*/1);
  EXPECT_LT(session.error, 0.2);
  EXPECT_NEAR(session.sum_ratio, 1, 4 * session.sum_spread);
  EXPECT_NEAR(session.loaded, .02, .002);
  EXPECT_LT(session.hinted, kSteps / 4);
}

// Mid: a query's mass lies in some of the 32 segments; which, the steps before it tell.
TEST(SketchTest, HintsMoveTheBudgetToWhereTheMassIs) {
  const Cache cache(generator::Family::kMid);
  const auto format = wire::RowFormat::kAsAppended;
  const Session without = Decode(cache, kLayouts[1], format, .05, /*seal_rows=*/512, false);
  const Session with = Decode(cache, kLayouts[1], format, .05, /*seal_rows=*/512, true);
  EXPECT_LT(with.error, 0.6 * without.error);
  EXPECT_NEAR(with.loaded, .02, .003);
  EXPECT_NEAR(with.sum_ratio, 1, 4 * with.sum_spread);
}

TEST(SketchTest, DiffuseAttentionIsDrawnAlike) {
  const Cache cache(generator::Family::kDiffuse);
  const Session session = Decode(cache, kLayouts[2], wire::RowFormat::kAsAppended, /*drift=*/1);
  EXPECT_GT(session.drawn_alike, kSteps);
  EXPECT_NEAR(session.sum_ratio, 1, 4 * session.sum_spread);
  EXPECT_GT(session.loaded, .02);
  EXPECT_LT(session.loaded, .045);
}

}  // namespace
}  // namespace sounder::e2e
