#include "common/wire/local_control.h"

#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"

namespace sounder::wire {
namespace {

// Shared by the caller and a reply that may come after the caller gave up.
template <typename T>
struct Answer {
  std::mutex mutex;
  std::unique_ptr<base::Condition> changed;
  std::optional<absl::StatusOr<T>> value;  // guarded by mutex
};

}  // namespace

template <typename T>
absl::StatusOr<T> LocalControl::Call(std::function<void(ControlService*, Reply<T>)> call) {
  auto answer = std::make_shared<Answer<T>>();
  answer->changed = executor_->NewCondition();
  // Nothing of this channel: it may be gone when a call that came too late gets its turn.
  executor_->Run([service_of = service_, answer, call = std::move(call)] {
    const Reply<T> reply = [answer](absl::StatusOr<T> value) {
      std::lock_guard lock(answer->mutex);
      answer->value = std::move(value);
      answer->changed->NotifyAll();
    };
    ControlService* const service = service_of();
    if (service == nullptr) {
      reply(absl::UnavailableError("not reachable"));
      return;
    }
    call(service, reply);
  });
  std::unique_lock lock(answer->mutex);
  if (!answer->changed->WaitFor(lock, deadline_, [&] { return answer->value.has_value(); })) {
    return absl::DeadlineExceededError(absl::StrCat("node ", address_,
                                                    " did not answer a control call within ",
                                                    deadline_.count() / 1000000, " ms"));
  }
  if (!answer->value->ok()) return base::Annotate(answer->value->status(), "node " + address_);
  return *std::move(*answer->value);
}

absl::Status LocalControl::CallStatus(std::function<void(ControlService*, StatusReply)> call) {
  return Call<bool>([call = std::move(call)](ControlService* service, Reply<bool> reply) {
           call(service, [reply = std::move(reply)](absl::Status status) {
             if (status.ok()) {
               reply(true);
             } else {
               reply(std::move(status));
             }
           });
         })
      .status();
}

absl::StatusOr<OpenResult> LocalControl::Open(const SessionSpec& spec) {
  return Call<OpenResult>([spec](ControlService* service, Reply<OpenResult> reply) {
    service->Open(spec, std::move(reply));
  });
}

absl::Status LocalControl::Close(const SessionOp& op) {
  return CallStatus(
      [op](ControlService* service, StatusReply reply) { service->Close(op, std::move(reply)); });
}

absl::Status LocalControl::Fork(const ForkCall& call) {
  return CallStatus([call](ControlService* service, StatusReply reply) {
    service->Fork(call, std::move(reply));
  });
}

absl::Status LocalControl::Truncate(const SessionOp& op, base::Position position) {
  return CallStatus([op, position](ControlService* service, StatusReply reply) {
    service->Truncate(op, position, std::move(reply));
  });
}

absl::StatusOr<SessionInfo> LocalControl::Adopt(const AdoptCall& call) {
  return Call<SessionInfo>([call](ControlService* service, Reply<SessionInfo> reply) {
    service->Adopt(call, std::move(reply));
  });
}

absl::StatusOr<SessionInfo> LocalControl::Describe(const DescribeCall& call) {
  return Call<SessionInfo>([call](ControlService* service, Reply<SessionInfo> reply) {
    service->Describe(call, std::move(reply));
  });
}

absl::StatusOr<std::vector<SessionInfo>> LocalControl::List() {
  return Call<std::vector<SessionInfo>>(
      [](ControlService* service, Reply<std::vector<SessionInfo>> reply) {
        service->List(std::move(reply));
      });
}

absl::Status LocalControl::Pin(const PinCall& call) {
  return CallStatus(
      [call](ControlService* service, StatusReply reply) { service->Pin(call, std::move(reply)); });
}

absl::Status LocalControl::Spill(const base::SessionId& session) {
  return CallStatus([session](ControlService* service, StatusReply reply) {
    service->Spill(session, std::move(reply));
  });
}

absl::Status LocalControl::Load(const base::SessionId& session) {
  return CallStatus([session](ControlService* service, StatusReply reply) {
    service->Load(session, std::move(reply));
  });
}

absl::Status LocalControl::Drain(bool on) {
  return CallStatus(
      [on](ControlService* service, StatusReply reply) { service->Drain(on, std::move(reply)); });
}

absl::StatusOr<NodeStatus> LocalControl::Status() {
  return Call<NodeStatus>(
      [](ControlService* service, Reply<NodeStatus> reply) { service->Status(std::move(reply)); });
}

}  // namespace sounder::wire
