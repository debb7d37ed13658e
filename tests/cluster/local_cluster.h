// A whole cluster in one process: KV nodes and a worker's client on a loopback fabric, all on one
// executor. On a VirtualExecutor a run is a pure function of its seed.
#ifndef SOUNDER_TESTS_CLUSTER_LOCAL_CLUSTER_H_
#define SOUNDER_TESTS_CLUSTER_LOCAL_CLUSTER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/executor.h"
#include "common/transport/faulty_transport.h"
#include "common/transport/loopback_transport.h"
#include "gpu_worker/kv/kv_client.h"
#include "kv_node/server/data_server.h"
#include "kv_node/session/session_map.h"
#include "tests/cluster/gated_executor.h"
#include "tests/cluster/service_switch.h"
#include "tests/cluster/tapped_transport.h"

namespace sounder::tests {

struct LocalClusterOptions {
  int nodes = 1;
  int attend_threads = 2;  // of the executor, that one request may use
  kv_node::SessionMapOptions sessions;
  kv_node::DataServerOptions server;
  gpu_worker::KvClientOptions client;
  transport::LoopbackOptions network;
  transport::FaultOptions client_faults;  // of messages the worker sends
  transport::FaultOptions node_faults;    // of messages the nodes send
  uint64_t fault_seed = 0;
  MessageTap client_tap;  // sees and may lose what the worker sends; may be null
  // Whether the client watches its nodes, as client.liveness says. Then virtual time never runs
  // out.
  bool heartbeats = false;
  base::Duration control_deadline = std::chrono::seconds(2);
  base::Duration close_deadline = std::chrono::seconds(1);
};

// Calls are made from one thread, which is not one of the executor's. The executor outlives it.
class LocalCluster {
 public:
  LocalCluster(LocalClusterOptions options, base::Executor* executor);
  ~LocalCluster();
  LocalCluster(const LocalCluster&) = delete;
  LocalCluster& operator=(const LocalCluster&) = delete;

  gpu_worker::KvClient& client() { return *client_; }
  // For other machines in the network; they go before the cluster.
  transport::LoopbackFabric& fabric() { return fabric_; }
  // Data-plane address, as errors name it.
  std::string Address(int node) const;
  kv_node::SessionMap& sessions(int node);
  // Accounted bytes of all nodes that are alive, when they have done what they had to do.
  uint64_t MemoryUsed();
  size_t Sessions() const;
  // The node's metrics, as /metrics would show them.
  std::string Metrics(int node) const;

  // As by SIGKILL: nothing of the node is left.
  void Kill(int node);
  // An empty node at the same address; not one that is alive.
  void Restart(int node);
  // As by SIGSTOP or a silent partition, on both planes.
  void Freeze(int node);
  void Thaw(int node);
  // What becomes of calls to every node's control plane; null: all are delivered.
  void SetControlFate(const std::function<CallFate()>& fate);
  // Another control channel to a node.
  std::unique_ptr<wire::ControlChannel> Control(int node);

 private:
  struct Node;
  std::unique_ptr<transport::Transport> Wrap(std::unique_ptr<transport::Transport> transport,
                                             base::Executor* executor,
                                             const transport::FaultOptions& faults, uint64_t which);

  const LocalClusterOptions options_;
  base::Executor* const executor_;
  GatedExecutor fabric_executor_;
  transport::LoopbackFabric fabric_;
  std::vector<std::unique_ptr<ServiceSwitch>> control_;  // one per node
  std::vector<std::unique_ptr<Node>> nodes_;             // null: killed
  GatedExecutor client_executor_;
  std::unique_ptr<gpu_worker::KvClient> client_;
  std::unique_ptr<transport::Transport> client_transport_;  // destroyed before the client
};

}  // namespace sounder::tests

#endif  // SOUNDER_TESTS_CLUSTER_LOCAL_CLUSTER_H_
