// The node's control plane: what proto/control.capnp promises, on the session map.
#ifndef SOUNDER_KV_NODE_SERVER_NODE_SERVICE_H_
#define SOUNDER_KV_NODE_SERVER_NODE_SERVICE_H_

#include <atomic>
#include <functional>

#include "common/base/executor.h"
#include "common/wire/control_service.h"
#include "kv_node/session/session_map.h"

namespace sounder::kv_node {

// Thread safe. pin, spill and load take effect on a node with a store. Calls about durable sessions
// are answered by the store's io executor, others where they come.
class NodeService final : public wire::ControlService {
 public:
  // `describe_node` fills what only the process knows: addresses, threads, connections.
  // close_deadline: how long a close, a fork or a truncate waits for the operations before it.
  NodeService(SessionMap* sessions, base::Executor* executor, base::Duration close_deadline,
              std::function<wire::NodeStatus()> describe_node);

  void Open(const wire::SessionSpec& spec, wire::Reply<wire::OpenResult> reply) override;
  void Close(const wire::SessionOp& op, wire::StatusReply reply) override;
  void Fork(const wire::ForkCall& call, wire::StatusReply reply) override;
  void Truncate(const wire::SessionOp& op, base::Position position,
                wire::StatusReply reply) override;
  void Adopt(const wire::AdoptCall& call, wire::Reply<wire::SessionInfo> reply) override;
  void Describe(const wire::DescribeCall& call, wire::Reply<wire::SessionInfo> reply) override;
  void List(wire::Reply<std::vector<wire::SessionInfo>> reply) override;
  void Pin(const wire::PinCall& call, wire::StatusReply reply) override;
  void Spill(const base::SessionId& session, wire::StatusReply reply) override;
  void Load(const base::SessionId& session, wire::StatusReply reply) override;
  // A draining node keeps its sessions and refuses new ones.
  void Drain(bool on, wire::StatusReply reply) override;
  // UNAVAILABLE until the process names a data-plane address.
  void Status(wire::Reply<wire::NodeStatus> reply) override;

  bool draining() const { return draining_; }
  // New sessions are refused with the reason from now on, for good.
  void ShutDown() { shutting_down_ = true; }
  bool shutting_down() const { return shutting_down_; }
  wire::NodeStatus CurrentStatus() const;

 private:
  SessionMap* const sessions_;
  base::Executor* const executor_;
  const base::Duration close_deadline_;
  const std::function<wire::NodeStatus()> describe_node_;
  const base::Time started_;
  absl::Status TakesSessions() const;
  void RunOnDisk(std::function<void()> work);

  std::atomic<bool> draining_{false};
  std::atomic<bool> shutting_down_{false};
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_NODE_SERVICE_H_
