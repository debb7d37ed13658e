// The calling side of one node's control plane, blocking. control_client.h calls over the network,
// local_control.h a service of the same process.
#ifndef SOUNDER_COMMON_WIRE_CONTROL_CHANNEL_H_
#define SOUNDER_COMMON_WIRE_CONTROL_CHANNEL_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/wire/control_service.h"

namespace sounder::wire {

// Thread safe. Every call ends by the channel's deadline: UNAVAILABLE if the node cannot be
// reached, DEADLINE_EXCEEDED if it does not answer in time, INVALID_ARGUMENT if its address is
// malformed, otherwise the node's answer. Errors name the node. A call that breaks with its
// connection is sent once more, so that a restart of the node between two calls goes unseen: a
// node may see a call twice, and calls that change a session are idempotent by their sequence.
class ControlChannel {
 public:
  virtual ~ControlChannel() = default;
  virtual const std::string& address() const = 0;
  virtual absl::StatusOr<OpenResult> Open(const SessionSpec& spec) = 0;
  virtual absl::Status Close(const SessionOp& op) = 0;
  virtual absl::Status Fork(const ForkCall& call) = 0;
  virtual absl::Status Truncate(const SessionOp& op, base::Position position) = 0;
  virtual absl::StatusOr<SessionInfo> Adopt(const AdoptCall& call) = 0;
  virtual absl::StatusOr<SessionInfo> Describe(const DescribeCall& call) = 0;
  virtual absl::StatusOr<std::vector<SessionInfo>> List() = 0;
  virtual absl::Status Pin(const PinCall& call) = 0;
  virtual absl::Status Spill(const base::SessionId& session) = 0;
  virtual absl::Status Load(const base::SessionId& session) = 0;
  virtual absl::Status Drain(bool on) = 0;
  virtual absl::StatusOr<NodeStatus> Status() = 0;
};

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_CONTROL_CHANNEL_H_
