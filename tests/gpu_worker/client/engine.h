// An engine of somebody else's: a client of the public interface on the network of a cluster in one
// process.
#ifndef SOUNDER_TESTS_GPU_WORKER_CLIENT_ENGINE_H_
#define SOUNDER_TESTS_GPU_WORKER_CLIENT_ENGINE_H_

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/transport/loopback_transport.h"
#include "gpu_worker/client/client_access.h"
#include "tests/cluster/gated_executor.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/test_session.h"

namespace sounder::tests {

inline LocalClusterOptions NodesOf(int count) {
  LocalClusterOptions options;
  options.nodes = count;
  return options;
}

// Goes before the cluster, which has `nodes` nodes; so does everything that was made with its
// client.
class Engine {
 public:
  Engine(LocalCluster* cluster, int nodes, base::Executor* executor) : executor_(executor) {
    std::vector<std::unique_ptr<wire::ControlChannel>> channels;
    for (int node = 0; node < nodes; ++node) channels.push_back(cluster->Control(node));
    auto connection = gpu_worker::KvConnection::Create(
        {}, std::move(channels),
        std::make_unique<transport::LoopbackTransport>(&cluster->fabric(), "engine:0"), &executor_);
    CHECK(connection.ok()) << connection.status().ToString();
    client_ = gpu_worker::ClientAccess::Make(*std::move(connection));
  }
  ~Engine() {
    client_.reset();
    executor_.Stop();
  }

  client::Client& operator*() { return *client_; }
  client::Client* operator->() { return client_.get(); }
  void DropClient() { client_.reset(); }

 private:
  GatedExecutor executor_;
  std::unique_ptr<client::Client> client_;
};

// The options of SessionOptions in the public type.
inline client::SessionOptions PublicOptions(const Shape& shape, uint64_t number,
                                            uint32_t seal_rows) {
  client::SessionOptions options;
  options.id = {0x5e55, number};
  options.model = {"made up",      "0123456789abcdef",  "",       "", shape.layers,
                   shape.kv_heads, shape.query_heads(), shape.dim};
  options.dtype = static_cast<client::DType>(shape.dtype);
  options.seal_rows = seal_rows;
  options.min_indexed_rows = 1;
  return options;
}

// Rows of TestRows, which outlive them.
inline client::Rows PublicRows(const TestRows& rows, client::Position first, client::Position end) {
  client::Rows append;
  append.first = first;
  append.count = end - first;
  append.head = [&rows, first](uint32_t layer, uint32_t head) {
    const memory::RowsView keys = rows.Keys(layer, head);
    const memory::RowsView values = rows.Values(layer, head);
    return client::HeadRows{keys.data + first * keys.row_stride,
                            values.data + first * values.row_stride,
                            static_cast<size_t>(keys.row_stride)};
  };
  return append;
}

inline client::Query PublicQuery(client::Session* session, std::span<const float> queries,
                                 const Shape& shape, client::Range range) {
  client::Query query;
  query.session = session;
  query.queries = queries.data();
  query.query_count = static_cast<uint32_t>(queries.size() / (shape.query_heads() * shape.dim));
  query.range = range;
  return query;
}

// How far an answer is from exact attention; see test_session.h.
inline double Distance(const client::Query& query, const Reference& reference) {
  gpu_worker::AttendQuery answer;
  answer.outputs = query.outputs;
  answer.lse = query.lse;
  return Distance(answer, reference);
}

}  // namespace sounder::tests

#endif  // SOUNDER_TESTS_GPU_WORKER_CLIENT_ENGINE_H_
