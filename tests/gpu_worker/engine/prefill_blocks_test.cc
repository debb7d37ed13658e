// Blocks of a prompt's queries against rows on the nodes: every position once for every query,
// equal to full attention, and every row read once for a block.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/philox.h"
#include "tests/gpu_worker/engine/feeder.h"

namespace sounder::gpu_worker {
namespace {

// What is wrong with a block of outputs over Indicators rows at [first, first + count).
std::string BlockFault(const Shape& shape, std::span<const float> out, base::Position first,
                       int64_t count) {
  for (int64_t t = 0; t < count; ++t) {
    for (uint32_t head = 0; head < shape.query_heads(); ++head) {
      const auto own =
          out.subspan((static_cast<size_t>(t) * shape.query_heads() + head) * shape.dim, shape.dim);
      const base::Position n = first + t + 1;
      const auto fault =
          tests::CoverageFault(own, std::log(static_cast<float>(n)), base::PositionRange{0, n});
      if (fault.has_value()) return absl::StrCat("query ", t, ", head ", head, ": ", *fault);
    }
  }
  return "";
}

// First turns shorter than sinks and window, steps of decode between blocks of all sizes, seals.
TEST(PrefillBlocksTest, EveryPositionIsCountedOnceForEveryQuery) {
  constexpr int64_t kPositions = 160;
  const Shape shape{1, 2, 2, kPositions, base::DType::kBF16};
  const TestRows rows = TestRows::Indicators(shape, kPositions);
  const int64_t sizes[] = {1, 2, 7, 16, 33, 64};
  uint64_t asked = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    base::PhiloxStream random(seed, 2);
    const int64_t sinks = random.NextBelow(6);
    const int64_t window = 1 + random.NextBelow(24);
    Feeder feeder(shape, sinks, window, Wobbly(1 + static_cast<int>(seed % 3), seed), seed);
    const auto sequence = feeder.NewSequence(seed, 16 * random.NextBelow(3),
                                             1 + static_cast<int>(random.NextBelow(2)));
    while (sequence->positions < kPositions) {
      const bool prefill = random.NextBelow(3) > 0 || sequence->positions == 0;
      const int64_t count = std::min<int64_t>(prefill ? sizes[random.NextBelow(6)] : 1,
                                              kPositions - sequence->positions);
      const base::Position first = sequence->positions;
      if (!prefill && sequence->shipped < first) feeder.Ship(sequence.get(), rows, 0, true);
      const auto queries = tests::GaussianQueries(shape, static_cast<uint32_t>(count), seed);
      const auto out = feeder.Feed({{sequence.get(), &rows}}, count, queries, prefill)[0];
      ASSERT_EQ(BlockFault(shape, out, first, count), "")
          << count << " queries at " << first << ", sinks " << sinks << ", window " << window;
      // While nothing is on the nodes yet, a prompt may go on here.
      if (prefill && sequence->shipped == 0 && random.NextBelow(2) == 0) continue;
      const bool seal = prefill && random.NextBelow(2) == 0;
      feeder.Ship(sequence.get(), rows, sequence->shipped, seal);
      if (seal) sequence->marks.push_back(sequence->positions);
    }
    asked += sequence->counts.prefill_blocks;
    EXPECT_TRUE(feeder.cluster_.client().Close(sequence->session.get()).ok());
    EXPECT_EQ(feeder.cluster_.MemoryUsed(), 0u);
  }
  std::printf("%llu blocks asked of the nodes\n", static_cast<unsigned long long>(asked));
  EXPECT_GT(asked, 100u);
}

// Exact also in layers whose decode is sampled: this session has nothing to sample by.
TEST(PrefillBlocksTest, EqualFullAttentionInSampledLayersToo) {
  const Shape shape{1, 2, 3, 16, base::DType::kBF16};
  const TestRows rows = TestRows::Gaussian(shape, 300, 1);
  Feeder feeder(shape, 4, 12, Wobbly(3, 1), 1, LayerMode::kLsh);
  const auto sequence = feeder.NewSequence(1, 32, 2);
  for (const int64_t count : {50, 1, 64, 2, 7, 100, 76}) {
    const base::Position first = sequence->positions;
    const auto queries = tests::GaussianQueries(shape, static_cast<uint32_t>(count), 7);
    const auto out = feeder.Feed({{sequence.get(), &rows}}, count, queries, /*prefill=*/true)[0];
    const tests::Reference reference = tests::ReferenceOf(
        rows, 0, queries, {0, sequence->positions}, 1 / std::sqrt(16.0f), /*causal_from=*/first);
    double most = 0;
    for (size_t i = 0; i < out.size(); ++i) {
      most = std::max(most, std::abs(out[i] - reference.outputs[i]));
    }
    EXPECT_LE(most, 1e-5) << count << " queries at " << first;
    feeder.Ship(sequence.get(), rows, first, count > 50);
  }
  EXPECT_EQ(sequence->counts.prefill_blocks, 6u);
  EXPECT_EQ(sequence->counts.positions, 0u) << "prefill is no decode";
}

// More partial outputs than a node keeps for one request: the block goes out in parts.
TEST(PrefillBlocksTest, BlocksThatDoNotFitAreCut) {
  constexpr int64_t kBefore = 16 * 140, kNew = 1024;
  const Shape shape{1, 1, 1, 512, base::DType::kBF16};
  const TestRows rows = TestRows::Gaussian(shape, kBefore + kNew, 1);
  Feeder feeder(shape, /*sinks=*/0, /*window=*/1, {}, 1);
  const auto sequence = feeder.NewSequence(1, 0, 1);
  for (base::Position at = 0; at < kBefore; ++at) {
    std::vector<float> key, value;
    for (int i = 0; i < 512; ++i) {
      key.push_back(rows.Keys(0, 0).At(at, i));
      value.push_back(rows.Values(0, 0).At(at, i));
    }
    sequence->rows[0][0].Append(key.data(), value.data());
  }
  sequence->positions = kBefore;
  feeder.Ship(sequence.get(), rows, 0, true);
  const auto queries = tests::GaussianQueries(shape, kNew, 1);
  std::vector<AttendQuery> whole{tests::ExactQuery(sequence->session.get(), queries, {0, kBefore})};
  feeder.cluster_.client().StartAttend(0, whole)->Wait();
  EXPECT_EQ(whole[0].status.code(), absl::StatusCode::kResourceExhausted) << whole[0].status;
  const auto out = feeder.Feed({{sequence.get(), &rows}}, kNew, queries, /*prefill=*/true)[0];
  EXPECT_EQ(sequence->counts.prefill_blocks, 2u);
  EXPECT_EQ(sequence->counts.prefill_rows_loaded, uint64_t{kBefore})
      << "each row once all the same";
  const tests::Reference reference =
      tests::ReferenceOf(rows, 0, {queries.data(), 512}, {0, kBefore + 1}, 1 / std::sqrt(512.0f));
  for (size_t i = 0; i < 512; ++i) ASSERT_NEAR(out[i], reference.outputs[i], 1e-5);
}

// 512 new tokens over 65,536 rows on two nodes, in two layers.
TEST(PrefillBlocksTest, RowsAreReadOncePerBlock) {
  constexpr uint32_t kLayers = 2;
  constexpr int64_t kRemote = 65536, kNew = 512, kSinks = 4, kWindow = 64;
  // So that the middle of the first query is kRemote rows.
  constexpr base::Position kBefore = kRemote + kSinks + kWindow - 1;
  const Shape shape{kLayers, 2, 1, 8, base::DType::kBF16};
  const TestRows rows = TestRows::Gaussian(shape, kBefore + kNew, 1);
  tests::LocalClusterOptions cluster_options;
  cluster_options.nodes = 2;
  base::VirtualExecutor executor(1);
  tests::LocalCluster cluster(cluster_options, &executor);
  ModelConfig config;
  config.num_layers = kLayers;
  config.num_query_heads = config.num_kv_heads = shape.kv_heads;
  config.head_dim = shape.dim;
  const auto queries = tests::GaussianQueries(shape, kNew, 1);
  const size_t width = shape.query_heads() * shape.dim;
  SplitAttentionOptions options{kSinks, kWindow, shape.dtype, {}, 0, {}};
  options.layers.assign(kLayers, LayerMode::kExact);
  SplitAttention attention(options, config, &cluster.client(), &executor.clock());

  for (const int64_t block : {kNew, kNew / 4}) {
    Sequence sequence;
    RemoteSessionOptions session = tests::SessionOptions(shape, 1, 4096);
    session.shard_rows = 16384;
    sequence.session = *cluster.client().Open(session);
    ASSERT_TRUE(
        cluster.client().Append(sequence.session.get(), rows.Range({0, kBefore}, true)).ok());
    sequence.marks = {kBefore};
    sequence.positions = sequence.shipped = kBefore;
    const auto element = [&](memory::RowsView view, base::Position at) {
      std::vector<float> row;
      for (int i = 0; i < view.dim; ++i) row.push_back(view.At(at, i));
      return row;
    };
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      auto& heads = sequence.rows.emplace_back();
      for (uint32_t head = 0; head < shape.kv_heads; ++head) {
        LocalRows& local = heads.emplace_back(static_cast<int>(shape.dim), shape.dtype, kSinks);
        for (base::Position at = 0; at < kBefore; ++at) {
          local.Append(element(rows.Keys(layer, head), at).data(),
                       element(rows.Values(layer, head), at).data());
        }
        local.DropBefore(kBefore - kWindow);
      }
    }
    std::vector<float> out(static_cast<size_t>(block) * width);
    int64_t expected = 0;
    for (base::Position first = kBefore; first < kBefore + kNew; first += block) {
      attention.Begin({{&sequence, 0, block, /*prefill=*/true}});
      for (uint32_t layer = 0; layer < kLayers; ++layer) {
        std::vector<float> k, v;
        for (base::Position at = first; at < first + block; ++at) {
          for (uint32_t head = 0; head < shape.kv_heads; ++head) {
            const auto key = element(rows.Keys(layer, head), at);
            const auto value = element(rows.Values(layer, head), at);
            k.insert(k.end(), key.begin(), key.end());
            v.insert(v.end(), value.begin(), value.end());
          }
        }
        const float* q = queries.data() + static_cast<size_t>(first - kBefore) * width;
        ASSERT_TRUE(
            attention.Attend(static_cast<int>(layer), q, k.data(), v.data(), out.data()).ok());
        const tests::Reference reference =
            tests::ReferenceOf(rows, layer, {q, width}, {0, first + 1}, 1 / std::sqrt(8.0f));
        for (size_t i = 0; i < width; ++i) ASSERT_NEAR(out[i], reference.outputs[i], 1e-5);
      }
      ASSERT_TRUE(sequence.status.ok()) << sequence.status;
      expected += (kRemote + first - kBefore) * shape.kv_heads * kLayers;
      sequence.positions += block;
      ASSERT_TRUE(cluster.client()
                      .Append(sequence.session.get(),
                              rows.Range({sequence.shipped, sequence.positions}, false))
                      .ok());
      sequence.shipped = sequence.positions;
    }
    EXPECT_EQ(sequence.counts.prefill_rows_loaded, static_cast<uint64_t>(expected));
    EXPECT_EQ(sequence.counts.prefill_blocks, static_cast<uint64_t>(kNew / block * kLayers));
    std::printf(
        "512 new tokens over 65,536 remote rows in blocks of %lld: %llu rows read, "
        "rows x kv heads x layers = %lld\n",
        static_cast<long long>(block),
        static_cast<unsigned long long>(sequence.counts.prefill_rows_loaded),
        static_cast<long long>(expected));
    EXPECT_TRUE(cluster.client().Close(sequence.session.get()).ok());
  }
}

}  // namespace
}  // namespace sounder::gpu_worker
