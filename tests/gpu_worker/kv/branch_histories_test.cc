// Random histories of sessions that are appended to, sealed, truncated, forked and closed, over one
// to three nodes, in virtual time: each session is at any time what one built from scratch is.
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/virtual_executor.h"
#include "tests/cluster/branch_model.h"
#include "tests/cluster/local_cluster.h"

namespace sounder::tests {
namespace {

constexpr int64_t kPositions = 120;

struct Tally {
  int histories = 0;
  int compared = 0;
  int truncates = 0;
  int forks = 0;
};

class History {
 public:
  History(uint64_t seed, Tally* tally)
      : tally_(tally),
        random_(seed, 11),
        executor_(seed),
        rows_({1 + random_.NextBelow(2), 1 + random_.NextBelow(3), 1 + random_.NextBelow(2), 16,
               random_.NextBelow(2) == 0 ? base::DType::kF32 : base::DType::kBF16},
              kPositions, 4, seed) {
    LocalClusterOptions options;
    options.nodes = 1 + static_cast<int>(random_.NextBelow(3));
    options.network.latency = std::chrono::microseconds(50);
    options.client.append_message_bytes = 4 << 10;
    options.client_faults.reorder = options.node_faults.reorder = 0.2;
    options.client_faults.duplicate = options.node_faults.duplicate = 0.2;
    options.fault_seed = seed;
    cluster_ = std::make_unique<LocalCluster>(options, &executor_);
    const uint32_t seal_rows = 3 + random_.NextBelow(20);
    options_ = SessionOptions(rows_.shape(), 0, seal_rows);
    options_.shard_rows = int64_t{seal_rows} * random_.NextBelow(4);
    options_.head_shards =
        1 + static_cast<int>(random_.NextBelow(std::min(2u, rows_.shape().kv_heads)));
    options_.min_indexed_rows = 1 + random_.NextBelow(12);
    for (uint32_t layer = 0; layer < rows_.shape().layers; ++layer) {
      options_.indexed_layers.push_back(layer);
    }
    const uint32_t index = random_.NextBelow(5);
    if (index < 2) options_.lsh = {4, 6, 2, wire::Projection::kHadamard, 1};
    if (index >= 2 && index < 4) options_.sketch = {64, 1};
    if (index == 3) options_.row_format = wire::RowFormat::kInt8;
  }

  void Run() {
    Open();
    for (int action = 0; action < 24 && !testing::Test::HasFailure(); ++action) {
      if (live_.empty()) Open();
      const size_t chosen = random_.NextBelow(static_cast<uint32_t>(live_.size()));
      Act(chosen);
      for (uint32_t steps = random_.NextBelow(10); steps > 0; --steps) executor_.Step();
    }
    for (const auto& one : live_) Compare(*one);
    while (!live_.empty()) Close(random_.NextBelow(static_cast<uint32_t>(live_.size())));
    EXPECT_EQ(cluster_->Sessions(), 0u);
    EXPECT_EQ(cluster_->MemoryUsed(), 0u);
    ++tally_->histories;
  }

 private:
  struct Live {
    std::shared_ptr<gpu_worker::RemoteSession> session;
    BranchContent content;
  };

  // Where a session lies depends on its id: it is the seed's.
  gpu_worker::RemoteSessionOptions NewOptions() {
    options_.id = {1, ++number_};
    return options_;
  }
  void Open() {
    auto session = cluster_->client().Open(NewOptions());
    ASSERT_TRUE(session.ok()) << session.status();
    live_.push_back(std::make_unique<Live>(Live{*std::move(session), {}}));
  }
  void Act(size_t chosen) {
    Live& one = *live_[chosen];
    switch (random_.NextBelow(12)) {
      case 0:
        return Close(chosen);
      case 1:
      case 2:
        return Fork(one);
      case 3:
      case 4:
      case 5:
        return Truncate(one);
      case 6:
        return Compare(one);
      default:
        return Append(one);
    }
  }
  void Append(Live& one) {
    const int64_t count = std::min<int64_t>(
        1 + random_.NextBelow(random_.NextBelow(3) == 0 ? 50 : 9), kPositions - one.content.end());
    if (count <= 0) return;
    const auto version = static_cast<int>(random_.NextBelow(4));
    const absl::Status status = AppendVersion(cluster_->client(), one.session.get(), rows_, version,
                                              count, random_.NextBelow(4) == 0, &one.content);
    EXPECT_TRUE(status.ok()) << status;
  }
  base::Position Place(const Live& one) {
    if (random_.NextBelow(10) == 0) return 0;
    if (random_.NextBelow(10) == 0) return one.content.end();
    const auto limit = static_cast<uint32_t>(one.content.end()) + 1;
    return one.content.end() -
           random_.NextBelow(random_.NextBelow(2) == 0 ? limit : std::min(limit, 8u));
  }
  void Truncate(Live& one) {
    const base::Position position = Place(one);
    const absl::Status status = cluster_->client().Truncate(one.session.get(), position);
    EXPECT_TRUE(status.ok()) << status;
    one.content.Truncate(position);
    ++tally_->truncates;
  }
  void Fork(Live& one) {
    const base::Position position = Place(one);
    auto child = cluster_->client().Fork(one.session.get(), position, NewOptions().id);
    ASSERT_TRUE(child.ok()) << child.status();
    live_.push_back(std::make_unique<Live>(Live{*std::move(child), one.content}));
    live_.back()->content.Truncate(position);
    ++tally_->forks;
  }
  void Close(size_t chosen) {
    const absl::Status status = cluster_->client().Close(live_[chosen]->session.get());
    EXPECT_TRUE(status.ok()) << status;
    live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(chosen));
  }
  void Compare(const Live& one) {
    const auto scratch = BuildFromScratch(cluster_->client(), NewOptions(), rows_, one.content);
    EXPECT_EQ(BranchFault(cluster_->client(), one.session.get(), rows_, one.content, scratch.get(),
                          random_),
              "");
    EXPECT_TRUE(cluster_->client().Close(scratch.get()).ok());
    ++tally_->compared;
  }

  Tally* const tally_;
  base::PhiloxStream random_;
  base::VirtualExecutor executor_;
  const RowVersions rows_;
  std::unique_ptr<LocalCluster> cluster_;
  gpu_worker::RemoteSessionOptions options_;
  uint64_t number_ = 0;  // of sessions
  std::vector<std::unique_ptr<Live>> live_;
};

Tally RunHistories(uint64_t first, uint64_t last) {
  Tally tally;
  for (uint64_t seed = first; seed <= last && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    History(seed, &tally).Run();
  }
  return tally;
}

TEST(BranchHistoriesTest, FiveHundred) {
  const Tally tally = RunHistories(1, 500);
  std::printf(
      "%d random histories (seeds 1 to 500): %d truncates, %d forks, %d sessions equal one "
      "built from scratch\n",
      tally.histories, tally.truncates, tally.forks, tally.compared);
  EXPECT_EQ(tally.histories, 500);
  EXPECT_GT(tally.truncates, 1500);
  EXPECT_GT(tally.forks, 1000);
  EXPECT_GT(tally.compared, 1500);
}

// For the sanitizers.
TEST(BranchHistoriesTest, AFew) { EXPECT_EQ(RunHistories(501, 530).histories, 30); }

// The comparison must notice what it is there for.
TEST(BranchHistoriesTest, WhatIsWrongIsNoticed) {
  base::VirtualExecutor executor(1);
  LocalClusterOptions options;
  options.nodes = 2;
  LocalCluster cluster(options, &executor);
  const RowVersions rows({2, 2, 1, 16, base::DType::kF32}, kPositions, 3, 1);
  gpu_worker::RemoteSessionOptions session_options = SessionOptions(rows.shape(), 0, 16);
  session_options.shard_rows = 32;
  session_options.sketch = {64, 1};
  session_options.indexed_layers = {0, 1};
  BranchContent content;
  const auto session = *cluster.client().Open(session_options);
  ASSERT_TRUE(AppendVersion(cluster.client(), session.get(), rows, 0, 60, false, &content).ok());
  const auto fault = [&](const BranchContent& claimed, const BranchContent& built) {
    session_options.id.low += 1;
    const auto scratch = BuildFromScratch(cluster.client(), session_options, rows, built);
    std::string found;
    for (uint64_t seed = 1; seed <= 20 && found.empty(); ++seed) {
      base::PhiloxStream random(seed, 1);
      found = BranchFault(cluster.client(), session.get(), rows, claimed, scratch.get(), random);
    }
    EXPECT_TRUE(cluster.client().Close(scratch.get()).ok());
    return found;
  };
  EXPECT_EQ(fault(content, content), "");
  BranchContent other = content;
  other.versions[41] = 1;
  EXPECT_NE(fault(other, content), "") << "a row of another version";
  EXPECT_NE(fault(content, other), "") << "a row of another version in the other session";
  BranchContent longer = content;
  longer.Append(1, 0, false);
  EXPECT_NE(fault(longer, longer), "") << "a row that is not there";
  BranchContent marked = content;
  marked.marks.insert(37);
  EXPECT_NE(fault(content, marked), "") << "a seal mark that was forgotten";
}

}  // namespace
}  // namespace sounder::tests
