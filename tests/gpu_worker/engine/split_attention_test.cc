// Attention split between worker and nodes: every position exactly once at every step, and equal to
// full attention.
#include "gpu_worker/engine/split_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/philox.h"
#include "common/base/virtual_executor.h"
#include "tests/gpu_worker/engine/feeder.h"

namespace sounder::gpu_worker {
namespace {

using tests::Shape;
using tests::TestRows;

// Neither of a prompt that is prefilled for longer than its TTL, nor of one that waits meanwhile,
// does a node hear anything but that they are alive.
TEST(SplitAttentionTest, SessionsOutliveALongPrefill) {
  const Shape shape{1, 2, 2, 16, base::DType::kF32};
  const TestRows rows = TestRows::Gaussian(shape, 60, 1);
  tests::LocalClusterOptions options;
  options.nodes = 2;
  Feeder feeder(shape, 2, 8, options, 1);
  const auto prefilled = feeder.NewSequence(1, 16, 2, /*ttl_seconds=*/10);
  const auto waiting = feeder.NewSequence(2, 0, 1, /*ttl_seconds=*/10);
  const auto queries = tests::GaussianQueries(shape, 5, 1);
  for (int chunk = 0; chunk < 12; ++chunk) {
    feeder.Feed({{prefilled.get(), &rows}}, 5, queries, /*prefill=*/true);
    const base::Time later = feeder.executor_.clock().Now() + std::chrono::seconds(4);
    feeder.executor_.RunAt(later, [] {});
    feeder.executor_.RunUntil([&] { return feeder.executor_.clock().Now() >= later; });
    for (int node = 0; node < 2; ++node) {
      EXPECT_EQ(feeder.cluster_.sessions(node).CloseExpired(), 0u) << "after chunk " << chunk;
    }
  }
  // Closed, they are kept no longer; and what nobody keeps goes.
  EXPECT_TRUE(feeder.cluster_.client().Close(waiting->session.get()).ok());
  EXPECT_EQ(feeder.cluster_.Sessions(), 2u);
  const base::Time later = feeder.executor_.clock().Now() + std::chrono::seconds(10);
  feeder.executor_.RunAt(later, [] {});
  feeder.executor_.RunUntil([&] { return feeder.executor_.clock().Now() >= later; });
  for (int node = 0; node < 2; ++node) {
    EXPECT_EQ(feeder.cluster_.sessions(node).CloseExpired(), 1u);
  }
}

// With keys of zeros and values that say their position, an output is the count of every position.
TEST(SplitAttentionTest, EveryPositionIsCountedOnceAtEveryStep) {
  constexpr int64_t kPositions = 120;
  const Shape shape{1, 2, 2, 120, base::DType::kBF16};
  const TestRows rows = TestRows::Indicators(shape, kPositions);
  int steps = 0;
  for (uint64_t seed = 1; seed <= 20 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    base::PhiloxStream random(seed, 0);
    const int64_t sinks = random.NextBelow(6);
    const int64_t window = 1 + random.NextBelow(20);
    Feeder feeder(shape, sinks, window, Wobbly(1 + static_cast<int>(seed % 3), seed), seed);
    const auto sequence = feeder.NewSequence(seed, 16 * random.NextBelow(3),
                                             1 + static_cast<int>(random.NextBelow(2)));
    const int64_t prompt = random.NextBelow(60);
    if (prompt > 0) {
      const auto queries = tests::GaussianQueries(shape, static_cast<uint32_t>(prompt), seed);
      feeder.Feed({{sequence.get(), &rows}}, prompt, queries, /*prefill=*/true);
    }
    if (prompt > 0) feeder.Ship(sequence.get(), rows, 0, true);
    while (sequence->positions < kPositions) {
      const auto queries = tests::GaussianQueries(shape, 1, seed + 1000);
      const std::vector<float> out = feeder.Feed({{sequence.get(), &rows}}, 1, queries)[0];
      const int64_t n = sequence->positions;
      for (uint32_t head = 0; head < shape.query_heads(); ++head) {
        const auto fault = tests::CoverageFault(std::span(out).subspan(head * shape.dim, shape.dim),
                                                std::log(static_cast<float>(n)), {0, n});
        ASSERT_EQ(fault.value_or(""), "") << n << " positions, sinks " << sinks << ", window "
                                          << window << ", query head " << head;
      }
      ++steps;
      feeder.Ship(sequence.get(), rows, n - 1, false);
    }
    EXPECT_TRUE(feeder.cluster_.client().Close(sequence->session.get()).ok());
    EXPECT_EQ(feeder.cluster_.MemoryUsed(), 0u);
  }
  EXPECT_GT(steps, 1000);
}

TEST(SplitAttentionTest, EqualsFullAttention) {
  const Shape shape{1, 2, 3, 16, base::DType::kBF16};
  const TestRows first_rows = TestRows::Gaussian(shape, 100, 1);
  const TestRows second_rows = TestRows::Gaussian(shape, 100, 2);
  Feeder feeder(shape, 4, 12, Wobbly(3, 1), 1);
  const auto first = feeder.NewSequence(1, 32, 1);
  const auto second = feeder.NewSequence(2, 16, 2);
  const float scale = 1 / std::sqrt(16.0f);
  const auto check = [&](const TestRows& rows, int64_t positions, std::span<const float> queries,
                         std::span<const float> out, base::Position causal_from) {
    const tests::Reference reference =
        tests::ReferenceOf(rows, 0, queries, {0, positions}, scale, causal_from);
    for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], reference.outputs[i], 1e-5);
  };
  const auto prefill = [&](Sequence* sequence, const TestRows& rows, int64_t prompt) {
    for (const int64_t count : {prompt / 3, prompt - prompt / 3}) {
      const base::Position begin = sequence->positions;
      const auto queries = tests::GaussianQueries(shape, static_cast<uint32_t>(count), 7);
      const auto out = feeder.Feed({{sequence, &rows}}, count, queries, /*prefill=*/true)[0];
      check(rows, sequence->positions, queries, out, begin);
    }
    feeder.Ship(sequence, rows, 0, true);
  };
  prefill(first.get(), first_rows, 50);
  prefill(second.get(), second_rows, 13);
  for (int step = 0; step < 45; ++step) {
    const auto queries = tests::GaussianQueries(shape, 2, 100 + static_cast<uint64_t>(step));
    const auto out =
        feeder.Feed({{first.get(), &first_rows}, {second.get(), &second_rows}}, 1, queries);
    const auto half = queries.size() / 2;
    check(first_rows, first->positions, std::span(queries).first(half), out[0], -1);
    check(second_rows, second->positions, std::span(queries).last(half), out[1], -1);
    feeder.Ship(first.get(), first_rows, first->positions - 1, false);
    feeder.Ship(second.get(), second_rows, second->positions - 1, false);
  }
}

// A sampled layer of a sequence that sinks and window still hold attends to every position exactly.
TEST(SplitAttentionTest, CountsPositionsOfSequencesThatHaveNothingOnTheNodes) {
  const Shape shape{1, 2, 3, 16, base::DType::kBF16};
  const TestRows rows = TestRows::Gaussian(shape, 20, 1);
  Feeder feeder(shape, 4, 12, Wobbly(1, 1), 1, LayerMode::kLsh);
  const auto sequence = feeder.NewSequence(1, 0, 1);
  feeder.Feed({{sequence.get(), &rows}}, 13, tests::GaussianQueries(shape, 13, 1),
              /*prefill=*/true);
  EXPECT_EQ(sequence->counts.positions, 0u) << "prefill is not counted";
  uint64_t positions = 0;
  for (const int64_t n : {14, 15, 16}) {
    feeder.Feed({{sequence.get(), &rows}}, 1, tests::GaussianQueries(shape, 1, 2));
    positions += shape.query_heads() * static_cast<uint64_t>(n);
    EXPECT_EQ(sequence->counts.positions, positions);
    EXPECT_EQ(sequence->counts.positions_exact, positions);
    EXPECT_EQ(sequence->counts.rows_visible, 0u);
  }
}

}  // namespace
}  // namespace sounder::gpu_worker
