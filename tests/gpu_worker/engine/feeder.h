// A SplitAttention over a cluster, fed as a forward pass of one layer would.
#ifndef SOUNDER_TESTS_GPU_WORKER_ENGINE_FEEDER_H_
#define SOUNDER_TESTS_GPU_WORKER_ENGINE_FEEDER_H_

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "common/base/virtual_executor.h"
#include "gpu_worker/engine/split_attention.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/test_session.h"

namespace sounder::gpu_worker {

using tests::Shape;
using tests::TestRows;

// Feeds the rows of made-up sequences to a SplitAttention as a forward pass would, one layer, and
// ships them as the generator does.
class Feeder {
 public:
  Feeder(const Shape& shape, int64_t sinks, int64_t window,
         const tests::LocalClusterOptions& options, uint64_t seed,
         LayerMode mode = LayerMode::kExact)
      : shape_(shape), sinks_(sinks), executor_(seed), cluster_(options, &executor_) {
    config_.num_layers = 1;
    config_.num_query_heads = shape.query_heads();
    config_.num_kv_heads = shape.kv_heads;
    config_.head_dim = shape.dim;
    SplitAttentionOptions split;
    split.sinks = sinks;
    split.window = window;
    split.dtype = shape.dtype;
    split.layers = {mode};
    attention_ =
        std::make_unique<SplitAttention>(split, config_, &cluster_.client(), &executor_.clock());
  }

  std::unique_ptr<Sequence> NewSequence(uint64_t number, int64_t shard_rows, int head_shards,
                                        uint32_t ttl_seconds = 0) {
    auto sequence = std::make_unique<Sequence>();
    sequence->rows.resize(1);
    for (uint32_t head = 0; head < shape_.kv_heads; ++head) {
      sequence->rows[0].emplace_back(static_cast<int>(shape_.dim), shape_.dtype, sinks_);
    }
    RemoteSessionOptions options = tests::SessionOptions(shape_, number, 16);
    options.shard_rows = shard_rows;
    options.head_shards = head_shards;
    options.ttl_seconds = ttl_seconds;
    auto session = cluster_.client().Open(options);
    EXPECT_TRUE(session.ok()) << session.status();
    sequence->session = *std::move(session);
    return sequence;
  }

  // Positions [sequence positions, +count) of each sequence; outputs by slice, [count, query
  // width].
  std::vector<std::vector<float>> Feed(
      const std::vector<std::pair<Sequence*, const TestRows*>>& sequences, int64_t count,
      const std::vector<float>& queries, bool prefill = false) {
    const size_t width = size_t{shape_.query_heads()} * shape_.dim;
    std::vector<BatchSlice> slices;
    std::vector<float> k;
    std::vector<float> v;
    for (const auto& [sequence, rows] : sequences) {
      slices.push_back({sequence, static_cast<int64_t>(slices.size()) * count, count, prefill});
      for (base::Position at = sequence->positions; at < sequence->positions + count; ++at) {
        for (uint32_t head = 0; head < shape_.kv_heads; ++head) {
          for (uint32_t column = 0; column < shape_.dim; ++column) {
            k.push_back(rows->Keys(0, head).At(at, static_cast<int>(column)));
            v.push_back(rows->Values(0, head).At(at, static_cast<int>(column)));
          }
        }
      }
    }
    std::vector<float> out(sequences.size() * static_cast<size_t>(count) * width);
    EXPECT_EQ(queries.size(), out.size());
    attention_->Begin(slices);
    const absl::Status status =
        attention_->Attend(0, queries.data(), k.data(), v.data(), out.data());
    EXPECT_TRUE(status.ok()) << status;
    std::vector<std::vector<float>> outputs;
    for (const auto& [sequence, rows] : sequences) {
      EXPECT_TRUE(sequence->status.ok()) << sequence->status;
      const auto first =
          out.begin() + static_cast<int64_t>(outputs.size() * static_cast<size_t>(count) * width);
      outputs.emplace_back(first, first + static_cast<int64_t>(static_cast<size_t>(count) * width));
      sequence->positions += count;
    }
    return outputs;
  }

  void Ship(Sequence* sequence, const TestRows& rows, base::Position first, bool seal) {
    const base::Position window = attention_->WindowBegin(sequence->positions);
    EXPECT_TRUE(cluster_.client()
                    .Append(sequence->session.get(), rows.Range({first, sequence->positions}, seal))
                    .ok());
    sequence->shipped = sequence->positions;
    EXPECT_TRUE(cluster_.client().WaitAppended(sequence->session.get(), window).ok());
    for (LocalRows& local : sequence->rows[0]) local.DropBefore(window);
  }

  const Shape shape_;
  const int64_t sinks_;
  base::VirtualExecutor executor_;
  tests::LocalCluster cluster_;
  ModelConfig config_;
  std::unique_ptr<SplitAttention> attention_;
};

// Nodes whose messages are late, doubled and out of order.
inline tests::LocalClusterOptions Wobbly(int nodes, uint64_t seed) {
  tests::LocalClusterOptions options;
  options.nodes = nodes;
  options.network.latency = std::chrono::microseconds(100);
  options.client.append_message_bytes = 16 << 10;
  options.client_faults.delay = options.node_faults.delay = 0.3;
  options.client_faults.reorder = options.node_faults.reorder = 0.2;
  options.client_faults.duplicate = options.node_faults.duplicate = 0.2;
  options.fault_seed = seed;
  return options;
}

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_TESTS_GPU_WORKER_ENGINE_FEEDER_H_
