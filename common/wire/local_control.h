// A control channel to a service of the same process: clusters in one process, in virtual time too.
#ifndef SOUNDER_COMMON_WIRE_LOCAL_CONTROL_H_
#define SOUNDER_COMMON_WIRE_LOCAL_CONTROL_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/executor.h"
#include "common/wire/control_channel.h"

namespace sounder::wire {

// Thread safe. Calls run on the executor, waiting on a condition of it. `service` is asked for at
// every call, on the executor, and may return null: then the node is away. The executor, and what
// `service` refers to, outlive the channel and its late calls: one that missed its deadline still
// runs when the executor gets to it.
class LocalControl final : public ControlChannel {
 public:
  LocalControl(std::string address, std::function<ControlService*()> service,
               base::Executor* executor, base::Duration deadline)
      : address_(std::move(address)),
        service_(std::move(service)),
        executor_(executor),
        deadline_(deadline) {}

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
  // Runs `call(service, reply)` on the executor and waits for the reply.
  template <typename T>
  absl::StatusOr<T> Call(std::function<void(ControlService*, Reply<T>)> call);
  absl::Status CallStatus(std::function<void(ControlService*, StatusReply)> call);

  const std::string address_;
  const std::function<ControlService*()> service_;
  base::Executor* const executor_;
  const base::Duration deadline_;
};

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_LOCAL_CONTROL_H_
