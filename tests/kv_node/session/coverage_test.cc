// Coverage: whatever appends, acknowledgements, seals and attends are in flight, an answer covers
// every position of its range exactly once, or it is a refusal. All logits are 0 and values say
// which position they are of, so an answer shows how often each position was counted.
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/attention/partial_output.h"
#include "common/base/absl_text.h"
#include "common/base/philox.h"
#include "common/base/virtual_executor.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/test_session.h"

namespace sounder::tests {
namespace {

constexpr int64_t kPositions = 160;
constexpr uint32_t kSealRows = 16;

Shape WideShape(base::DType dtype) { return {2, 2, 2, 160, dtype}; }

// One random schedule on one random cluster.
class Schedule {
 public:
  explicit Schedule(uint64_t seed)
      : random_(seed, 7),
        executor_(seed),
        rows_(TestRows::Indicators(
            WideShape(random_.NextBelow(2) == 0 ? base::DType::kF32 : base::DType::kBF16),
            kPositions)),
        queries_(GaussianQueries(rows_.shape(), 2, seed)) {
    LocalClusterOptions options;
    options.nodes = 1 + static_cast<int>(random_.NextBelow(3));
    options.network.latency = std::chrono::microseconds(50);
    options.client.append_message_bytes = 40 << 10;
    options.client_faults.delay = options.node_faults.delay = 0.3;
    options.client_faults.reorder = options.node_faults.reorder = 0.2;
    options.client_faults.duplicate = options.node_faults.duplicate = 0.2;
    options.fault_seed = seed;
    cluster_ = std::make_unique<LocalCluster>(options, &executor_);
    gpu_worker::RemoteSessionOptions session = SessionOptions(rows_.shape(), seed, kSealRows);
    session.shard_rows = kSealRows * random_.NextBelow(4);
    session.head_shards = 1 + static_cast<int>(random_.NextBelow(2));
    // Segments too short for an index: sampled attention is exact, but waits like any other.
    session.lsh = {8, 4, 2, wire::Projection::kHadamard, 1};
    session.min_indexed_rows = 1 << 16;
    session.indexed_layers = {0, 1};
    auto opened = cluster_->client().Open(session);
    EXPECT_TRUE(opened.ok()) << opened.status();
    session_ = *std::move(opened);
    signatures_ = Sign(*session_, queries_);
  }

  void Run() {
    for (int action = 0; action < 60; ++action) {
      switch (random_.NextBelow(5)) {
        case 0:
        case 1:
          Append();
          break;
        case 2:
        case 3:
          Attend();
          break;
        default:
          for (uint32_t steps = random_.NextBelow(40); steps > 0; --steps) executor_.Step();
      }
      if (random_.NextBelow(8) == 0) {
        const absl::Status status = cluster_->client().WaitAppended(
            session_.get(), 1 + random_.NextBelow(static_cast<uint32_t>(appended_) + 1));
        EXPECT_TRUE(status.ok()) << status;
      }
      if (random_.NextBelow(6) == 0) Check();
    }
    Check();
    EXPECT_TRUE(cluster_->client().Close(session_.get()).ok());
    EXPECT_EQ(cluster_->MemoryUsed(), 0u);
  }

  int answered() const { return answered_; }
  int refused() const { return refused_; }

 private:
  struct Asked {
    std::vector<gpu_worker::AttendQuery> queries;
    base::Position appended = 0;  // when it was asked
    std::unique_ptr<gpu_worker::KvClient::PendingAttend> pending;
  };

  void Append() {
    const int64_t count = std::min<int64_t>(
        1 + random_.NextBelow(random_.NextBelow(4) == 0 ? 60 : 9), kPositions - appended_);
    if (count <= 0) return;
    const absl::Status status = cluster_->client().Append(
        session_.get(), rows_.Range({appended_, appended_ + count}, random_.NextBelow(5) == 0));
    EXPECT_TRUE(status.ok()) << status;
    appended_ += count;
  }

  void Attend() {
    auto asked = std::make_unique<Asked>();
    asked->appended = appended_;
    asked->queries.resize(1 + random_.NextBelow(2));
    for (gpu_worker::AttendQuery& query : asked->queries) {
      const bool beyond = random_.NextBelow(8) == 0;
      const auto limit = static_cast<uint32_t>(appended_ + (beyond ? 5 : 0));
      const base::Position a = random_.NextBelow(limit + 1);
      const base::Position b = random_.NextBelow(limit + 1);
      query = ExactQuery(session_.get(), queries_, {std::min(a, b), std::max(a, b)});
      query.layout_position = random_.NextBelow(kPositions);
      if (random_.NextBelow(2) == 0) {
        query.attention = wire::AttentionKind::kLshTables;
        query.signatures = signatures_.data();
      }
    }
    asked->pending = cluster_->client().StartAttend(random_.NextBelow(2), asked->queries);
    asked_.push_back(std::move(asked));
  }

  void Check() {
    for (const auto& asked : asked_) {
      asked->pending->Wait();
      for (const gpu_worker::AttendQuery& query : asked->queries) {
        // Rows that were not sent when it was asked may have overtaken it, or are refused.
        if (query.range.end > asked->appended && !query.status.ok()) {
          EXPECT_EQ(query.status.code(), absl::StatusCode::kFailedPrecondition) << query.status;
          EXPECT_NE(base::MessageOf(query.status).find("is not held"), std::string::npos)
              << query.status;
          ++refused_;
          continue;
        }
        ASSERT_TRUE(query.status.ok()) << query.status;
        EXPECT_EQ(CoverageFault(query).value_or(""), "");
        EXPECT_EQ(query.rows_read, query.rows_visible);
        ++answered_;
      }
    }
    asked_.clear();
  }

  base::PhiloxStream random_;
  base::VirtualExecutor executor_;
  const TestRows rows_;
  const std::vector<float> queries_;
  std::vector<uint64_t> signatures_;
  std::unique_ptr<LocalCluster> cluster_;
  std::shared_ptr<gpu_worker::RemoteSession> session_;
  base::Position appended_ = 0;
  std::vector<std::unique_ptr<Asked>> asked_;
  int answered_ = 0;
  int refused_ = 0;
};

TEST(CoverageTest, EveryPositionIsCountedOnceUnderRandomSchedules) {
  int answered = 0;
  int refused = 0;
  for (uint64_t seed = 1; seed <= 300 && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Schedule schedule(seed);
    schedule.Run();
    answered += schedule.answered();
    refused += schedule.refused();
  }
  std::printf("%d answers covered their range, %d were refused\n", answered, refused);
  EXPECT_GT(answered, 5000);
  EXPECT_GT(refused, 100);
}

// The checker must notice what it is there for.
class PlantedTest : public testing::Test {
 protected:
  PlantedTest() : executor_(1), rows_(TestRows::Indicators(WideShape(base::DType::kF32), 96)) {
    LocalClusterOptions options;
    options.nodes = 3;
    cluster_ = std::make_unique<LocalCluster>(options, &executor_);
    gpu_worker::RemoteSessionOptions session = SessionOptions(rows_.shape(), 1, kSealRows);
    session.shard_rows = 2 * kSealRows;
    session_ = *cluster_->client().Open(session);
    EXPECT_TRUE(cluster_->client().Append(session_.get(), rows_.Range({0, 90}, false)).ok());
    queries_ = GaussianQueries(rows_.shape(), 1, 1);
  }

  // Query head 0 of the merged answers to several ranges.
  std::optional<std::string> Fault(const std::vector<base::PositionRange>& ranges,
                                   base::PositionRange meant) {
    std::vector<float> output(rows_.shape().dim);
    float lse = attention::kEmptyLse;
    for (const base::PositionRange range : ranges) {
      std::vector<gpu_worker::AttendQuery> query{ExactQuery(session_.get(), queries_, range)};
      cluster_->client().StartAttend(0, query)->Wait();
      EXPECT_TRUE(query[0].status.ok()) << query[0].status;
      attention::MergePartial(output.data(), &lse, query[0].outputs.data(), query[0].lse[0],
                              static_cast<int>(output.size()));
    }
    return CoverageFault(output, lse, meant);
  }

  base::VirtualExecutor executor_;
  const TestRows rows_;
  std::unique_ptr<LocalCluster> cluster_;
  std::shared_ptr<gpu_worker::RemoteSession> session_;
  std::vector<float> queries_;
};

TEST_F(PlantedTest, TheSameRangesInPartsAreRight) {
  EXPECT_EQ(Fault({{0, 90}}, {0, 90}).value_or(""), "");
  EXPECT_EQ(Fault({{0, 7}, {7, 40}, {40, 90}}, {0, 90}).value_or(""), "");
}

TEST_F(PlantedTest, ADoubleCountIsCaught) {
  EXPECT_TRUE(Fault({{0, 41}, {40, 90}}, {0, 90}).has_value());
  EXPECT_TRUE(Fault({{0, 90}, {32, 64}}, {0, 90}).has_value()) << "a shard asked twice";
}

TEST_F(PlantedTest, AGapIsCaught) {
  EXPECT_TRUE(Fault({{0, 39}, {40, 90}}, {0, 90}).has_value());
  EXPECT_TRUE(Fault({{0, 32}, {64, 90}}, {0, 90}).has_value()) << "a shard not asked";
}

TEST_F(PlantedTest, AShiftIsCaughtThoughTheCountIsRight) {
  EXPECT_TRUE(Fault({{11, 51}}, {10, 50}).has_value());
  EXPECT_TRUE(Fault({{0, 41}, {41, 50}, {49, 89}}, {0, 90}).has_value());
}

}  // namespace
}  // namespace sounder::tests
