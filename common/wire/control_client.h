// Calls a ControlService of another process, with a deadline on every call.
#ifndef SOUNDER_COMMON_WIRE_CONTROL_CLIENT_H_
#define SOUNDER_COMMON_WIRE_CONTROL_CLIENT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/wire/control_channel.h"

namespace sounder::wire {

// One node's control plane at "host:port". Connects on the first call and again after a failure.
// Calls block the caller until the answer or the deadline (see control_channel.h). Thread safe:
// calls from several threads take turns, and the wait for a turn counts.
class ControlClient final : public ControlChannel {
 public:
  ControlClient(std::string address, base::Duration deadline);
  ~ControlClient() override;
  ControlClient(const ControlClient&) = delete;
  ControlClient& operator=(const ControlClient&) = delete;

  const std::string& address() const override { return address_; }

  absl::StatusOr<OpenResult> Open(const SessionSpec& spec) override;
  absl::Status Close(const SessionOp& op) override;
  absl::Status Fork(const ForkCall& call) override;
  absl::Status Truncate(const SessionOp& op, base::Position position) override;
  absl::StatusOr<SessionInfo> Adopt(const AdoptCall& call) override;
  absl::StatusOr<SessionInfo> Describe(const DescribeCall& call) override;
  absl::StatusOr<std::vector<SessionInfo>> List() override;
  absl::Status Pin(const PinCall& call) override;
  absl::Status Spill(const base::SessionId& session) override;
  absl::Status Load(const base::SessionId& session) override;
  absl::Status Drain(bool on) override;
  absl::StatusOr<NodeStatus> Status() override;

 private:
  class Loop;  // the kj event loop and its thread
  std::string address_;
  std::unique_ptr<Loop> loop_;
};

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_CONTROL_CLIENT_H_
