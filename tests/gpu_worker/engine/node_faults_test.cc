// A node that dies, hangs or is full in the middle of a generation: the sequences on it end in time
// with an error that names it, the others go on as if nothing had happened.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "common/base/absl_text.h"
#include "common/base/virtual_executor.h"
#include "common/wire/codec.h"
#include "tests/cluster/local_cluster.h"
#include "tests/gpu_worker/engine/golden_run.h"

namespace sounder::gpu_worker {
namespace {

using ::testing::HasSubstr;
constexpr base::Duration kDeadline = std::chrono::seconds(2);

class NodeFaultsTest : public testing::Test {
 protected:
  NodeFaultsTest() {
    local_ = Generate(Options(LayerMode::kExactLocal), golden_.model.get(), nullptr, Prompts());
  }

  std::unique_ptr<tests::LocalCluster> MakeCluster(uint64_t memory_bytes = uint64_t{1} << 30) {
    tests::LocalClusterOptions options;
    options.nodes = 3;
    options.client.deadline = kDeadline;
    options.control_deadline = kDeadline;
    options.sessions.memory_bytes = memory_bytes;
    options.network.latency = std::chrono::microseconds(100);
    return std::make_unique<tests::LocalCluster>(options, &executor_);
  }
  GeneratorOptions Options(LayerMode mode) const {
    GeneratorOptions options = GoldenOptions(*golden_.model, mode, base::DType::kF32, 16);
    options.batch = 8;
    return options;
  }
  // Long enough to need their nodes from the first step on.
  std::vector<Prompt> Prompts() const {
    std::vector<Prompt> prompts;
    for (const uint64_t seed : {5, 6}) {
      for (Prompt& prompt : RaggedPrompts(*golden_.model, seed)) {
        if (prompt.tokens.size() < 16) continue;
        prompt.id += "/" + std::to_string(seed);
        prompts.push_back(std::move(prompt));
      }
    }
    return prompts;
  }

  // Generates over the cluster; at the eleventh set of logits `fault(node)` strikes the node of
  // that sequence. Sessions lie on one node each.
  struct Outcome {
    int node = -1;
    base::Time struck{};
    StepLogits logits;
    struct End {
      absl::Status status;
      base::Time when{};
      std::vector<int> nodes;
    };
    std::map<std::string, End> ends;
  };
  Outcome Strike(tests::LocalCluster& cluster, const std::function<void(int node)>& fault) {
    Outcome outcome;
    int steps = 0;
    Generator generator(Options(LayerMode::kExact), golden_.model.get(), &cluster.client(),
                        &executor_.clock());
    const absl::Status status = generator.Run(
        Prompts(),
        [&](const Sequence& sequence) {
          Outcome::End& end = outcome.ends[sequence.id];
          end = {sequence.status, executor_.clock().Now(), {}};
          if (sequence.session != nullptr) end.nodes = sequence.session->placement().Nodes();
        },
        [&](const Sequence& sequence, std::span<const float> logits) {
          outcome.logits[sequence.id].emplace_back(logits.begin(), logits.end());
          if (++steps != 11) return;
          outcome.node = sequence.session->placement().Nodes().at(0);
          outcome.struck = executor_.clock().Now();
          fault(outcome.node);
        });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(outcome.ends.size(), 8u);
    return outcome;
  }

  // Sequences elsewhere end well and right; those on the node fail with one of `codes`, naming it,
  // within `most` of the fault. Returns how many failed.
  int Check(const tests::LocalCluster& cluster, const Outcome& outcome,
            const std::set<absl::StatusCode>& codes, base::Duration most) {
    int failed = 0;
    StepLogits right;
    StepLogits expected;
    for (const auto& [id, end] : outcome.ends) {
      SCOPED_TRACE(id);
      if (end.status.ok()) {
        right[id] = outcome.logits.at(id);
        expected[id] = local_.logits.at(id);
        EXPECT_TRUE(end.nodes != std::vector<int>{outcome.node} || end.when < outcome.struck);
        continue;
      }
      ++failed;
      EXPECT_EQ(end.nodes, std::vector<int>{outcome.node});
      EXPECT_TRUE(codes.contains(end.status.code())) << end.status;
      EXPECT_THAT(end.status.ToString(), HasSubstr(cluster.Address(outcome.node)));
      EXPECT_LE(end.when - outcome.struck, most) << end.status;
    }
    EXPECT_LE(LogitDistance(right, expected), 1e-4);
    std::printf("%d sequences ended early, %zu went on\n", failed, right.size());
    return failed;
  }

  void ExpectAllWell(tests::LocalCluster& cluster) {
    const GoldenRun run =
        Generate(Options(LayerMode::kExact), golden_.model.get(), &cluster.client(), Prompts());
    for (const auto& [id, status] : run.statuses) EXPECT_TRUE(status.ok()) << id << ": " << status;
    EXPECT_LE(LogitDistance(run.logits, local_.logits), 1e-4);
    EXPECT_EQ(cluster.Sessions(), 0u);
    EXPECT_EQ(cluster.MemoryUsed(), 0u);
  }

  base::VirtualExecutor executor_{1};
  GoldenModel golden_{"gqa_untied"};
  GoldenRun local_;
};

TEST_F(NodeFaultsTest, KilledNode) {
  const auto cluster = MakeCluster();
  const Outcome outcome = Strike(*cluster, [&](int node) { cluster->Kill(node); });
  EXPECT_GE(Check(*cluster, outcome, {absl::StatusCode::kUnavailable}, kDeadline), 1);
  EXPECT_EQ(cluster->Sessions(), 0u);
  EXPECT_EQ(cluster->MemoryUsed(), 0u);
  cluster->Restart(outcome.node);
  ExpectAllWell(*cluster);
}

// Restarted between two requests, it answers, but does not know the sessions.
TEST_F(NodeFaultsTest, RestartedNode) {
  const auto cluster = MakeCluster();
  const Outcome outcome = Strike(*cluster, [&](int node) {
    cluster->Kill(node);
    cluster->Restart(node);
    // A while later: the end of the old connection has been noticed.
    const base::Time later = executor_.clock().Now() + std::chrono::milliseconds(10);
    executor_.RunAt(later, [] {});
    executor_.RunUntil([&] { return executor_.clock().Now() >= later; });
  });
  EXPECT_GE(Check(*cluster, outcome, {absl::StatusCode::kUnavailable}, kDeadline), 1);
  int lost = 0;  // others had a request in flight as the node was killed
  for (const auto& [id, end] : outcome.ends) {
    const bool asked_later =
        end.status.ToString().find("lost the session (was it restarted?)") != std::string::npos;
    lost += asked_later ? 1 : 0;
  }
  EXPECT_GE(lost, 1);
  EXPECT_EQ(cluster->Sessions(), 0u);
  ExpectAllWell(*cluster);
}

TEST_F(NodeFaultsTest, FrozenNode) {
  const auto cluster = MakeCluster();
  const Outcome outcome = Strike(*cluster, [&](int node) { cluster->Freeze(node); });
  // The first request that is late says so, the others that their connection was given up; one
  // step's worth of other things comes before.
  EXPECT_GE(Check(*cluster, outcome,
                  {absl::StatusCode::kDeadlineExceeded, absl::StatusCode::kUnavailable},
                  kDeadline + std::chrono::milliseconds(50)),
            1);
  // However many sessions were on it, closing them waited for it once.
  base::Time last = outcome.struck;
  for (const auto& [id, end] : outcome.ends) last = std::max(last, end.when);
  EXPECT_LE(last - outcome.struck, 2 * kDeadline + std::chrono::milliseconds(500));
  EXPECT_GT(cluster->Sessions(), 0u);
  cluster->Thaw(outcome.node);
  for (const auto& node : cluster->client().NodeStatuses()) EXPECT_TRUE(node.ok());
  EXPECT_EQ(cluster->Sessions(), 0u) << "what was left behind is closed when the node answers";
  ExpectAllWell(*cluster);
}

// The last rows of an answer get lost: nothing needs them, so nobody's answer is harmed.
TEST_F(NodeFaultsTest, LostLastAppend) {
  tests::LocalClusterOptions options;  // one node, where everybody is
  options.client.deadline = options.control_deadline = kDeadline;
  options.close_deadline = kDeadline + std::chrono::milliseconds(1);  // and the way there
  bool lose = false;
  int lost = 0;
  options.client_tap = [&](const transport::Message& message) {
    const auto envelope = wire::DecodeEnvelope(message);
    if (!lose || !envelope.ok() || envelope->kind != wire::MessageKind::kAppend) return true;
    lose = false;
    ++lost;
    return false;
  };
  tests::LocalCluster cluster(options, &executor_);
  std::vector<Prompt> prompts = Prompts();
  for (Prompt& prompt : prompts) prompt.max_tokens = 9;  // all end at once
  Generator generator(Options(LayerMode::kExact), golden_.model.get(), &cluster.client(),
                      &executor_.clock());
  int ended = 0;
  const base::Time start = executor_.clock().Now();
  const absl::Status status = generator.Run(
      prompts,
      [&](const Sequence& sequence) {
        ++ended;
        EXPECT_TRUE(sequence.status.ok()) << sequence.id << ": " << sequence.status;
      },
      [&](const Sequence& sequence, std::span<const float>) {
        if (sequence.id == prompts[0].id) lose = sequence.generated() == 8;
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(lost, 1);
  EXPECT_EQ(ended, 8);
  EXPECT_EQ(generator.failed_closes(), 0);
  EXPECT_LE(executor_.clock().Now() - start, kDeadline + std::chrono::milliseconds(100));
  EXPECT_EQ(cluster.Sessions(), 0u);
  EXPECT_EQ(cluster.MemoryUsed(), 0u);
}

// An answer that is complete stays one when its node dies before the session is closed.
TEST_F(NodeFaultsTest, FrozenAtTheEnd) {
  const auto cluster = MakeCluster();
  std::vector<Prompt> prompts = Prompts();
  prompts.resize(1);
  prompts[0].max_tokens = 9;
  Generator generator(Options(LayerMode::kExact), golden_.model.get(), &cluster->client(),
                      &executor_.clock());
  absl::Status ended = absl::UnknownError("not ended");
  const absl::Status status = generator.Run(
      prompts, [&](const Sequence& sequence) { ended = sequence.status; },
      [&](const Sequence& sequence, std::span<const float>) {
        if (sequence.generated() < 8) return;
        for (const int node : sequence.session->placement().Nodes()) cluster->Freeze(node);
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(ended.ok()) << ended;
  EXPECT_EQ(generator.failed_closes(), 1);
  for (int node = 0; node < 3; ++node) cluster->Thaw(node);
  for (const auto& node : cluster->client().NodeStatuses()) EXPECT_TRUE(node.ok());
  EXPECT_EQ(cluster->Sessions(), 0u);
}

TEST_F(NodeFaultsTest, DeadBeforeAnythingIsOpened) {
  const auto cluster = MakeCluster();
  for (int node = 0; node < 3; ++node) cluster->Kill(node);
  const GoldenRun run =
      Generate(Options(LayerMode::kExact), golden_.model.get(), &cluster->client(), Prompts());
  EXPECT_EQ(run.statuses.size(), 8u);
  for (const auto& [id, status] : run.statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(status.ToString(), HasSubstr("node"));
  }
  for (int node = 0; node < 3; ++node) cluster->Restart(node);
  ExpectAllWell(*cluster);
}

TEST_F(NodeFaultsTest, FullNodes) {
  // The largest prompt needs some 33 KB of rows on its node; so a node holds a few, not all.
  const auto cluster = MakeCluster(70000);
  int full = 0;
  int well = 0;
  for (int round = 0; round < 4; ++round) {
    const Outcome outcome = Strike(*cluster, [](int) {});
    StepLogits right;
    StepLogits expected;
    for (const auto& [id, end] : outcome.ends) {
      if (end.status.ok()) {
        right[id] = outcome.logits.at(id);
        expected[id] = local_.logits.at(id);
        ++well;
        continue;
      }
      ++full;
      EXPECT_EQ(end.status.code(), absl::StatusCode::kResourceExhausted) << end.status;
      EXPECT_THAT(end.status.ToString(), HasSubstr("the node's memory is full"));
      // Without nodes it was not even opened.
      EXPECT_THAT(end.status.ToString(),
                  HasSubstr(end.nodes.empty() ? "node" : cluster->Address(end.nodes.at(0))));
    }
    if (!right.empty()) {
      EXPECT_LE(LogitDistance(right, expected), 1e-4);
    }
    EXPECT_EQ(cluster->Sessions(), 0u);
    EXPECT_EQ(cluster->MemoryUsed(), 0u);
  }
  std::printf("%d sequences found no room, %d did\n", full, well);
  EXPECT_GT(full, 0);
  EXPECT_GT(well, 0);
}

// Nodes that take nothing on: every sequence ends as refused, naming its node, long before its
// deadline would have.
TEST_F(NodeFaultsTest, NodesThatRefuseEverythingEndSequencesInTime) {
  tests::LocalClusterOptions options;
  options.nodes = 3;
  options.client.deadline = options.control_deadline = kDeadline;
  options.server.max_attends = 0;
  tests::LocalCluster cluster(options, &executor_);
  Generator generator(Options(LayerMode::kExact), golden_.model.get(), &cluster.client(),
                      &executor_.clock());
  const base::Time begin = executor_.clock().Now();
  int ended = 0;
  const absl::Status status = generator.Run(Prompts(), [&](const Sequence& sequence) {
    ++ended;
    EXPECT_EQ(sequence.status.code(), absl::StatusCode::kResourceExhausted) << sequence.status;
    const int node = sequence.session->placement().Nodes().at(0);
    EXPECT_THAT(sequence.status.ToString(), HasSubstr(cluster.Address(node)));
    EXPECT_LE(executor_.clock().Now() - begin, kDeadline);
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(ended, 8);
  const wire::DataClientCounters counters = cluster.client().counters();
  EXPECT_GT(counters.retries, 0u);
  EXPECT_EQ(cluster.MemoryUsed(), 0u);
  EXPECT_EQ(generator.failed_closes(), 0u);
}

}  // namespace
}  // namespace sounder::gpu_worker
