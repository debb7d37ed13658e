// Prompts of several turns: what is reported of each, what the nodes have of them, and what becomes
// of those behind a turn that fails.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/virtual_executor.h"
#include "common/kernels/simd_level.h"
#include "common/wire/codec.h"
#include "tests/cluster/local_cluster.h"
#include "tests/gpu_worker/engine/golden_run.h"

namespace sounder::gpu_worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Two more turns behind each of the ragged prompts, of 1 to 47 tokens.
std::vector<Prompt> InTurns(const LlamaModel& model, uint64_t seed, bool forced) {
  std::vector<Prompt> prompts = RaggedPrompts(model, seed);
  const std::vector<Prompt> second = RaggedPrompts(model, seed + 100);
  const std::vector<Prompt> third = RaggedPrompts(model, seed + 200);
  const size_t lengths[] = {12, 1, 40, 47, 3, 16};
  for (size_t i = 0; i < prompts.size(); ++i) {
    for (const Prompt& from : {second[4], third[4]}) {  // the longest
      Turn& turn = prompts[i].later_turns.emplace_back(from);
      const size_t length = lengths[(i + prompts[i].later_turns.size()) % 6];
      turn.tokens.resize(length);
      for (int32_t& token : turn.tokens) {
        token = static_cast<int32_t>((static_cast<size_t>(token) + i) %
                                     static_cast<size_t>(model.config().vocab_size));
      }
      turn.max_tokens = 7;
      turn.forced->resize(7);
    }
    prompts[i].in_turns = true;
    if (forced) continue;
    prompts[i].forced.reset();
    for (Turn& turn : prompts[i].later_turns) turn.forced.reset();
  }
  return prompts;
}

struct Record {
  int64_t turn = 0;
  bool last = false;
  absl::Status status;
  std::vector<int32_t> prompt;     // of the turn
  std::vector<int32_t> generated;  // by it
  AttentionCounts counts;
  int64_t decode_steps = 0;
};
using Records = std::map<std::string, std::vector<Record>>;

class TurnsTest : public testing::Test {
 protected:
  ~TurnsTest() override { EXPECT_TRUE(kernels::ForceSimdLevel("best").ok()); }

  static Record RecordOf(const Sequence& sequence) {
    Record record{sequence.turn,   sequence.last_turn,   sequence.status, {}, {},
                  sequence.counts, sequence.decode_steps};
    const auto begin = sequence.tokens.begin() + static_cast<int64_t>(sequence.turn_begin);
    const auto middle = sequence.tokens.begin() + static_cast<int64_t>(sequence.prompt_tokens);
    record.prompt.assign(begin, middle);
    record.generated.assign(middle, sequence.tokens.end());
    return record;
  }

  Records Run(const GeneratorOptions& options, KvClient* client, std::vector<Prompt> prompts,
              const Generator::Done& done = nullptr) {
    Records records;
    const base::SteadyClock clock;
    Generator generator(options, golden_.model.get(), client, &clock);
    const absl::Status status = generator.Run(std::move(prompts), [&](const Sequence& sequence) {
      records[sequence.id].push_back(RecordOf(sequence));
      if (done != nullptr) done(sequence);
    });
    EXPECT_TRUE(status.ok()) << status;
    return records;
  }

  std::unique_ptr<tests::LocalCluster> MakeCluster(int nodes) {
    cluster_options_.nodes = nodes;
    return std::make_unique<tests::LocalCluster>(cluster_options_, &executor_);
  }
  GeneratorOptions Options(LayerMode mode, base::DType dtype = base::DType::kF32) const {
    return GoldenOptions(*golden_.model, mode, dtype, 16);
  }

  base::VirtualExecutor executor_{1};
  tests::LocalClusterOptions cluster_options_;
  GoldenModel golden_{"gqa_untied"};
};

TEST_F(TurnsTest, ForcedLogitsEqualThoseOfOneMachine) {
  const std::vector<Prompt> prompts = InTurns(*golden_.model, 1, /*forced=*/true);
  const GoldenRun local =
      Generate(Options(LayerMode::kExactLocal), golden_.model.get(), nullptr, prompts);
  double most = 0;
  for (const auto& [nodes, shard_rows, head_shards, local_rows] :
       std::vector<std::tuple<int, int64_t, int, int64_t>>{
           {1, 0, 1, 0}, {2, 16, 1, 20}, {2, 0, 2, 1}, {3, 32, 2, 0}}) {
    const auto cluster = MakeCluster(nodes);
    GeneratorOptions options = Options(LayerMode::kExact);
    options.session.shard_rows = shard_rows;
    options.session.head_shards = head_shards;
    options.session.min_indexed_rows = 8;  // so that later turns have seal marks
    options.prefill_local_rows = local_rows;
    const GoldenRun run = Generate(options, golden_.model.get(), &cluster->client(), prompts);
    for (const auto& [id, steps] : run.logits) {
      EXPECT_EQ(steps.size(), local.logits.at(id).size()) << id;
    }
    most = std::max(most, LogitDistance(run.logits, local.logits));
    EXPECT_EQ(cluster->MemoryUsed(), 0u);
    EXPECT_EQ(cluster->Sessions(), 0u);
  }
  std::printf("three turns over 1 to 3 nodes: max difference %.2e of max|logit|\n", most);
  EXPECT_LE(most, 1e-4);
}

TEST_F(TurnsTest, EachIsReported) {
  const auto cluster = MakeCluster(2);
  const std::vector<Prompt> prompts = InTurns(*golden_.model, 2, /*forced=*/true);
  const Records records = Run(Options(LayerMode::kExact), &cluster->client(), prompts);
  ASSERT_EQ(records.size(), prompts.size());
  for (const Prompt& prompt : prompts) {
    SCOPED_TRACE(prompt.id);
    const std::vector<Record>& turns = records.at(prompt.id);
    ASSERT_EQ(turns.size(), 3u);
    const Turn* asked[] = {&prompt, &prompt.later_turns[0], &prompt.later_turns[1]};
    for (int64_t i = 0; i < 3; ++i) {
      const Record& record = turns[static_cast<size_t>(i)];
      EXPECT_EQ(record.turn, i + 1);
      EXPECT_EQ(record.last, i == 2);
      EXPECT_TRUE(record.status.ok()) << record.status;
      EXPECT_EQ(record.prompt, asked[i]->tokens);
      EXPECT_EQ(record.generated, *asked[i]->forced);
      EXPECT_EQ(record.decode_steps, asked[i]->max_tokens);
    }
  }
}

// As many tokens as were asked for, or none, are no reason to stop.
TEST_F(TurnsTest, TurnsWithoutAnswers) {
  const auto cluster = MakeCluster(1);
  std::vector<Prompt> prompts = InTurns(*golden_.model, 3, /*forced=*/true);
  prompts.resize(2);
  prompts[0].max_tokens = 0;  // 41 tokens
  prompts[0].later_turns[0].max_tokens = 0;
  prompts[1].max_tokens = 0;  // 1 token: nothing to prefill
  const Records records = Run(Options(LayerMode::kExact), &cluster->client(), prompts);
  const GoldenRun local =
      Generate(Options(LayerMode::kExactLocal), golden_.model.get(), nullptr, prompts);
  for (const Prompt& prompt : prompts) {
    const std::vector<Record>& turns = records.at(prompt.id);
    ASSERT_EQ(turns.size(), 3u);
    EXPECT_TRUE(turns[0].generated.empty());
    EXPECT_EQ(turns[2].generated.size(), 7u);
    for (const Record& record : turns) EXPECT_TRUE(record.status.ok()) << record.status;
  }
  const GoldenRun run =
      Generate(Options(LayerMode::kExact), golden_.model.get(), &cluster->client(), prompts);
  EXPECT_LE(LogitDistance(run.logits, local.logits), 1e-4);
}

TEST_F(TurnsTest, WhatFollowsATurnThatFailsFailsWithIt) {
  const auto cluster = MakeCluster(1);
  std::vector<Prompt> prompts = InTurns(*golden_.model, 4, /*forced=*/true);
  prompts[0].later_turns[0].tokens.clear();
  prompts[1].later_turns[1].tokens[0] = 83;  // the vocabulary's size
  prompts[2].tokens.clear();
  const Records records = Run(Options(LayerMode::kExact), &cluster->client(), prompts);
  const auto statuses = [&](const char* id) {
    std::vector<std::string> texts;
    for (const Record& record : records.at(id)) {
      texts.push_back(record.status.ok() ? "OK" : std::string(record.status.message()));
      if (!record.status.ok()) {
        EXPECT_TRUE(record.generated.empty());
      }
    }
    return texts;
  };
  const std::string empty = "the prompt has no tokens";
  EXPECT_THAT(statuses("p1"), ElementsAre("OK", empty, empty));
  EXPECT_THAT(statuses("p2"), ElementsAre("OK", "OK", "token 83 is not in [0, 83)"));
  EXPECT_THAT(statuses("p3"), ElementsAre(empty, empty, empty));
  for (const char* id : {"p4", "p5", "p6"}) {
    EXPECT_THAT(statuses(id), ElementsAre("OK", "OK", "OK"));
  }
  for (const auto& [id, turns] : records) {
    for (size_t i = 0; i < turns.size(); ++i) {
      EXPECT_EQ(turns[i].turn, static_cast<int64_t>(i) + 1);
      EXPECT_EQ(turns[i].last, i == 2);
    }
  }
  EXPECT_EQ(cluster->Sessions(), 0u);
  EXPECT_EQ(cluster->MemoryUsed(), 0u);
}

// A segment too short for an index is attended exactly for good, so short turns make none.
TEST_F(TurnsTest, ShortTurnsAreNoSegments) {
  const auto cluster = MakeCluster(1);
  Prompt prompt;
  prompt.id = "short";
  prompt.tokens.assign(20, 5);
  prompt.max_tokens = 1;
  for (int turn = 0; turn < 12; ++turn) prompt.later_turns.push_back({{7, 8, 9}, 1, {}});
  GeneratorOptions options = Options(LayerMode::kExact);
  options.session.min_indexed_rows = 8;
  std::vector<base::Position> marks;
  Run(options, &cluster->client(), {prompt},
      [&](const Sequence& sequence) { marks = sequence.marks; });
  // Four rows a turn, from 19 on: where 8 and more have come since the last mark or multiple of 16.
  EXPECT_THAT(marks, ElementsAre(19, 27, 43, 59));
}

TEST_F(TurnsTest, StoppedBetweenTurns) {
  const auto cluster = MakeCluster(1);
  std::atomic<bool> stop = false;
  GeneratorOptions options = Options(LayerMode::kExact);
  options.stop = &stop;
  options.batch = 1;
  std::vector<Prompt> prompts = InTurns(*golden_.model, 5, /*forced=*/true);
  prompts.resize(2);
  const Records records = Run(options, &cluster->client(), prompts, [&](const Sequence& sequence) {
    if (sequence.turn == 1) stop = true;
  });
  const std::vector<Record>& first = records.at("p1");
  ASSERT_EQ(first.size(), 3u);
  EXPECT_TRUE(first[0].status.ok()) << first[0].status;
  for (const Record& record : {first[1], first[2]}) {
    EXPECT_EQ(record.status.code(), absl::StatusCode::kCancelled) << record.status;
    EXPECT_TRUE(record.generated.empty());
  }
  for (const Record& record : records.at("p2")) {
    EXPECT_EQ(record.status.code(), absl::StatusCode::kCancelled) << record.status;
  }
  EXPECT_EQ(cluster->Sessions(), 0u);
}

// A node that dies or hangs while a later turn's prompt is computed ends that turn and the next, in
// time, and is named; the turns before it stay answered.
class NodeEndsInPrefillTest : public TurnsTest, public testing::WithParamInterface<bool> {};

TEST_P(NodeEndsInPrefillTest, EndsTheTurnAndThoseBehindIt) {
  constexpr base::Duration kDeadline = std::chrono::seconds(2), kBlock = std::chrono::seconds(7);
  cluster_options_.client.deadline = cluster_options_.control_deadline = kDeadline;
  cluster_options_.client.block_deadline = kBlock;
  cluster_options_.network.latency = std::chrono::microseconds(100);
  int blocks = -1;  // Attends with many queries still to go through; negative: all
  base::Time struck{};
  tests::LocalCluster* cluster = nullptr;
  cluster_options_.client_tap = [&](const transport::Message& message) {
    const auto envelope = wire::DecodeEnvelope(message);
    if (!envelope.ok() || envelope->kind != wire::MessageKind::kAttend || blocks < 0) return true;
    if (blocks-- > 0) return true;
    struck = executor_.clock().Now();
    for (int node = 0; node < 2; ++node) cluster->Freeze(node);
    return true;
  };
  const auto owned = MakeCluster(2);
  cluster = owned.get();
  GeneratorOptions options = Options(LayerMode::kExact);
  options.prefill_tokens = 5;
  std::vector<Prompt> prompts = InTurns(*golden_.model, 6, /*forced=*/true);
  prompts.resize(1);  // 41 tokens
  prompts[0].later_turns[0].tokens.resize(30, 3);
  base::Time ended{};
  const Records records = Run(options, &cluster->client(), prompts, [&](const Sequence& sequence) {
    if (sequence.turn == 1) {
      if (GetParam()) {
        // Between two blocks of the second turn.
        blocks = 3;
      } else {
        struck = executor_.clock().Now();
        for (int node = 0; node < 2; ++node) cluster->Kill(node);
      }
    }
    if (sequence.turn == 2) ended = executor_.clock().Now();
  });
  const std::vector<Record>& turns = records.at("p1");
  ASSERT_EQ(turns.size(), 3u);
  EXPECT_TRUE(turns[0].status.ok()) << turns[0].status;
  for (const Record& record : {turns[1], turns[2]}) {
    EXPECT_EQ(record.status.code(),
              GetParam() ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kUnavailable)
        << record.status;
    EXPECT_THAT(record.status.ToString(), HasSubstr("node"));
    EXPECT_TRUE(record.generated.empty());
  }
  EXPECT_LE(ended - struck, (GetParam() ? kBlock : kDeadline) + std::chrono::milliseconds(50));
  if (GetParam()) {
    EXPECT_GE(turns[1].counts.prefill_blocks, 2u);
    for (int node = 0; node < 2; ++node) cluster->Thaw(node);
    for (const auto& node : cluster->client().NodeStatuses()) EXPECT_TRUE(node.ok());
  }
  EXPECT_EQ(cluster->Sessions(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Ways, NodeEndsInPrefillTest, testing::Values(false, true),
                         [](const auto& hangs) { return hangs.param ? "Hangs" : "Dies"; });

// Sampled decoding gives the same tokens in every turn, whatever nodes, batches and SIMD levels.
TEST_F(TurnsTest, SketchDecodingIsDeterministic) {
  const std::vector<Prompt> prompts = InTurns(*golden_.model, 7, /*forced=*/false);
  uint64_t read = 0, visible = 0;
  const auto decode = [&](int nodes, int64_t shard_rows, int head_shards, int64_t batch) {
    const auto cluster = MakeCluster(nodes);
    GeneratorOptions options = Options(LayerMode::kSketch, base::DType::kBF16);
    options.session.sketch = {64, 3};
    options.attention.sketch = {.rows = .3, .uniform_above = .5, .uniform_rows = .4};
    options.session.indexed_layers = {0, 1};
    options.session.min_indexed_rows = 8;
    options.session.shard_rows = shard_rows;
    options.session.head_shards = head_shards;
    options.batch = batch;
    std::map<std::string, std::vector<int32_t>> generated;
    read = visible = 0;
    for (const auto& [id, turns] : Run(options, &cluster->client(), prompts)) {
      for (const Record& record : turns) {
        EXPECT_TRUE(record.status.ok()) << record.status;
        generated[absl::StrCat(id, "/", record.turn)] = record.generated;
        read += record.counts.rows_read;
        visible += record.counts.rows_visible;
      }
    }
    return generated;
  };
  const auto first = decode(1, 0, 1, 1);
  ASSERT_EQ(first.size(), 3 * prompts.size());
  EXPECT_GT(read, 0u);
  EXPECT_LT(read, visible) << "nothing was sampled";
  EXPECT_EQ(decode(1, 0, 1, 6), first);
  EXPECT_EQ(decode(3, 16, 1, 3), first);
  EXPECT_EQ(decode(2, 0, 2, 4), first);
  for (const std::string& level : kernels::SimdLevels()) {
    SCOPED_TRACE(level);
    ASSERT_TRUE(kernels::ForceSimdLevel(level).ok());
    EXPECT_EQ(decode(1, 0, 1, 2), first);
    EXPECT_EQ(decode(3, 32, 2, 6), first);
  }
  std::printf("sketch decoding in three turns: %zu answers alike, %llu of %llu rows read\n",
              first.size(), static_cast<unsigned long long>(read),
              static_cast<unsigned long long>(visible));
}

}  // namespace
}  // namespace sounder::gpu_worker
