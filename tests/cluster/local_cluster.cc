#include "tests/cluster/local_cluster.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/config/logging.h"
#include "common/wire/local_control.h"
#include "kv_node/server/data_server.h"
#include "kv_node/server/node_service.h"
#include "kv_node/server/probe.h"

namespace sounder::tests {
namespace {

bool AnyFault(const transport::FaultOptions& faults) {
  return faults.delay + faults.drop + faults.duplicate + faults.reorder + faults.truncate +
             faults.flip + faults.reset >
         0;
}

}  // namespace

// What a sounder_node process is made of, and ends like one (kv_node/main.cc).
struct LocalCluster::Node {
  Node(const LocalClusterOptions& options, base::Executor* shared, std::string address,
       const std::function<std::unique_ptr<transport::Transport>(base::Executor*)>& make_transport)
      : executor(shared),
        sessions(options.sessions, &executor),
        probe(registry, sessions),
        transport(make_transport(&executor)),
        data(transport.get(), &sessions, &executor, options.attend_threads, &probe, {},
             options.server),
        service(&sessions, &executor, options.close_deadline, [address] {
          wire::NodeStatus status;
          status.data_address = address;
          return status;
        }) {
    CHECK(transport->Start(&data).ok());
    const absl::StatusOr<std::string> listening = transport->Listen(address);
    CHECK(listening.ok()) << listening.status().ToString();
  }
  ~Node() {
    data.Stop();
    sessions.CloseAll(absl::UnavailableError("the node is shutting down"));
    executor.Stop();
    transport.reset();
  }

  GatedExecutor executor;
  kv_node::SessionMap sessions;
  metrics::Registry registry;
  kv_node::ServerProbe probe;
  std::unique_ptr<transport::Transport> transport;
  kv_node::DataServer data;
  kv_node::NodeService service;
};

LocalCluster::LocalCluster(LocalClusterOptions options, base::Executor* executor)
    : options_(std::move(options)),
      executor_(executor),
      fabric_executor_(executor),
      fabric_(&fabric_executor_, options_.network),
      client_executor_(executor) {
  config::SetLogLevel(config::LogLevel::kError);  // faults are what the tests are about
  std::vector<std::unique_ptr<wire::ControlChannel>> channels;
  nodes_.resize(static_cast<size_t>(options_.nodes));
  for (int node = 0; node < options_.nodes; ++node) {
    control_.push_back(std::make_unique<ServiceSwitch>());
    Restart(node);
    channels.push_back(Control(node));
  }
  client_transport_ = Wrap(std::make_unique<transport::LoopbackTransport>(&fabric_, "worker:0"),
                           &client_executor_, options_.client_faults, 0);
  if (options_.client_tap != nullptr) {
    client_transport_ =
        std::make_unique<TappedTransport>(std::move(client_transport_), options_.client_tap);
  }
  gpu_worker::KvClientOptions client_options = options_.client;
  if (!options_.heartbeats) client_options.liveness = {};
  auto client = gpu_worker::KvClient::Create(client_options, std::move(channels),
                                             client_transport_.get(), &client_executor_);
  CHECK(client.ok()) << client.status().ToString();
  client_ = *std::move(client);
}

LocalCluster::~LocalCluster() {
  client_transport_.reset();
  client_executor_.Stop();
  client_.reset();
  for (int node = 0; node < options_.nodes; ++node) {
    control_[static_cast<size_t>(node)]->Freeze(false);
    control_[static_cast<size_t>(node)]->Set(nullptr);
  }
  nodes_.clear();
  fabric_executor_.Stop();  // what is queued for machines holds them
}

std::unique_ptr<transport::Transport> LocalCluster::Wrap(
    std::unique_ptr<transport::Transport> transport, base::Executor* executor,
    const transport::FaultOptions& faults, uint64_t which) {
  if (!AnyFault(faults)) return transport;
  return std::make_unique<transport::FaultyTransport>(std::move(transport), executor, faults,
                                                      options_.fault_seed * 1000 + which);
}

std::string LocalCluster::Address(int node) const { return absl::StrCat("node", node, ":7401"); }

kv_node::SessionMap& LocalCluster::sessions(int node) {
  return nodes_.at(static_cast<size_t>(node))->sessions;
}

uint64_t LocalCluster::MemoryUsed() {
  uint64_t used = 0;
  for (const auto& node : nodes_) {
    if (node == nullptr) continue;
    node->executor.WaitIdle();
    used += node->sessions.budget().used();
  }
  return used;
}

size_t LocalCluster::Sessions() const {
  size_t sessions = 0;
  for (const auto& node : nodes_) sessions += node == nullptr ? 0 : node->sessions.size();
  return sessions;
}

std::string LocalCluster::Metrics(int node) const {
  return nodes_.at(static_cast<size_t>(node))->registry.Exposition();
}

void LocalCluster::Kill(int node) {
  control_.at(static_cast<size_t>(node))->Set(nullptr);
  fabric_.Kill(Address(node));
  nodes_.at(static_cast<size_t>(node)).reset();
}

void LocalCluster::Restart(int node) {
  const size_t index = static_cast<size_t>(node);
  CHECK(nodes_.at(index) == nullptr) << "node " << node << " is alive";
  nodes_[index] =
      std::make_unique<Node>(options_, executor_, Address(node), [&](base::Executor* executor) {
        return Wrap(std::make_unique<transport::LoopbackTransport>(&fabric_, Address(node)),
                    executor, options_.node_faults, static_cast<uint64_t>(node) + 1);
      });
  control_[index]->Set(&nodes_[index]->service);
}

void LocalCluster::Freeze(int node) {
  control_.at(static_cast<size_t>(node))->Freeze(true);
  fabric_.Freeze(Address(node));
}

void LocalCluster::Thaw(int node) {
  fabric_.Thaw(Address(node));
  control_.at(static_cast<size_t>(node))->Freeze(false);
}

void LocalCluster::SetControlFate(const std::function<CallFate()>& fate) {
  for (const auto& control : control_) control->SetFate(fate);
}

std::unique_ptr<wire::ControlChannel> LocalCluster::Control(int node) {
  return std::make_unique<wire::LocalControl>(
      Address(node), [service = control_.at(static_cast<size_t>(node)).get()] { return service; },
      &client_executor_, options_.control_deadline);
}

}  // namespace sounder::tests
