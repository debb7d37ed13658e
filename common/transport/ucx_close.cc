#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/transport/ucx_describe.h"
#include "common/transport/ucx_engine.h"

namespace sounder::transport {

using State = UcxConnection::State;

// Notes that the connection is broken; Step does the rest. Called from UCX's callbacks too, inside
// which an endpoint must not be closed. The first reason stays; a connection that we are closing
// anyway ends well.
void UcxEngine::Fail(UcxConnection& connection, absl::Status reason) {
  if (connection.failed || connection.state == State::kClosing) return;
  connection.failed = true;
  if (connection.state == State::kConnecting || connection.state == State::kOpen) {
    connection.reason = std::move(reason);
  }
  Touch(connection);
}

void UcxEngine::Expire(UcxConnection& connection) {
  if (connection.state == State::kClosing) return Abandon(connection);
  if (connection.state == State::kOpen) {
    return Fail(connection,
                absl::DeadlineExceededError(absl::StrCat(
                    "a payload from ", connection.peer, " did not arrive within ",
                    std::chrono::duration<double>(options_.receive_timeout).count(), " s")));
  }
  Fail(connection, absl::DeadlineExceededError(absl::StrCat(
                       "no answer from ", connection.peer, " within ",
                       std::chrono::duration<double>(options_.connect_timeout).count(), " s")));
}

void UcxEngine::BeginClose(UcxConnection& connection) {
  if (connection.failed) return;
  if (connection.state != State::kConnecting && connection.state != State::kOpen) return;
  const bool connecting = connection.state == State::kConnecting;
  connection.state = State::kDraining;
  // Nobody to say goodbye to, and nothing to say before it.
  if (connecting && connection.unsent.empty()) connection.failed = true;
  SetDeadline(connection, now_ + options_.linger);
  Touch(connection);
}

void UcxEngine::Step(UcxConnection& connection) {
  if (connection.abandoned) {
    if (!connection.HeldByUcx()) abandoned_.erase(&connection);
    return;
  }
  if (connection.hello_received && connection.state == State::kConnecting && !connection.failed) {
    Open(connection);
  }
  if (connection.hello_received && !connection.failed) IssueUnsent(connection);
  if (connection.state == State::kOpen) Deliver(connection);
  if (connection.state == State::kOpen && connection.goodbye_received && !connection.failed &&
      connection.received.TakenUpTo(connection.goodbye_counts)) {
    connection.state = State::kLeaving;
    SetDeadline(connection, now_ + options_.linger);
    SendGoodbye(connection);
  }
  if (connection.state == State::kDraining && !connection.failed && connection.hello_received &&
      connection.user_sends == 0 && !connection.goodbye_sent) {
    SendGoodbye(connection);
  }
  // Who closes waits for the peer's goodbye, which says that the peer has heard ours; who was told
  // waits only until its own is out.
  const bool done = (connection.state == State::kDraining && connection.goodbye_sent &&
                     connection.goodbye_flushed && connection.goodbye_received) ||
                    (connection.state == State::kLeaving && connection.goodbye_flushed);
  if (connection.state != State::kClosing && (connection.failed || done)) ForceClose(connection);
  if (connection.state == State::kClosing && !connection.HeldByUcx()) Finish(connection);
}

// The peer's hello has come.
void UcxEngine::Open(UcxConnection& connection) {
  absl::Status status = LearnTransport(connection);
  if (!status.ok()) return Fail(connection, std::move(status));
  connection.state = State::kOpen;
  WatchReceives(connection);  // the hello has come: its deadline ends
  if (connection.announced) return;
  connection.announced = true;
  connection.port->events->OnAccept(connection.id, connection.peer);
}

absl::Status UcxEngine::LearnTransport(UcxConnection& connection) {
  ConnectionInfo info = DescribeEndpoint(connection.endpoint);
  info.peer = connection.peer;
  if (options_.require_rdma && !IsRdma(info.transport)) {
    return absl::FailedPreconditionError(
        absl::StrCat("RDMA is required, but the connection with ", connection.peer, " got ",
                     info.transport.empty() ? "an unknown transport" : info.transport));
  }
  connection.shared_memory = info.transport.find("/memory") != std::string::npos;
  const std::lock_guard lock(infos_mutex_);
  infos_[connection.id] = {connection.port, std::move(info)};
  return absl::OkStatus();
}

void UcxEngine::Deliver(UcxConnection& connection) {
  std::vector<Message> ready;
  connection.received.TakeReady(ready);
  for (Message& message : ready)
    connection.port->events->OnMessage(connection.id, std::move(message));
  // What is left came before messages that were sent earlier. Rendezvous allow for some of it.
  const OrderedLanes& received = connection.received;
  if (received.waiting() <= kWaitingMessagesMax &&
      received.waiting_bytes() <= options_.connection_receive_bytes_max) {
    return;
  }
  Fail(connection,
       absl::ResourceExhaustedError(absl::StrCat(
           connection.peer, " sent ", received.waiting(), " messages of ", received.waiting_bytes(),
           " bytes ahead of one that does not come; at most ", kWaitingMessagesMax, " of ",
           options_.connection_receive_bytes_max, " bytes are kept")));
}

void UcxEngine::ForceClose(UcxConnection& connection) {
  connection.state = State::kClosing;
  SetDeadline(connection, now_ + options_.linger);
  DropWaitingReceives(connection);
  for (std::unique_ptr<UcxSend>& send : std::exchange(connection.unsent, {})) {
    if (send->done == nullptr) continue;
    finished_sends_.emplace_back(std::move(send->done), SendFailure(connection));
  }
  if (connection.endpoint == nullptr) return;
  by_endpoint_.erase(connection.endpoint);
  ucp_request_param_t params{};
  params.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  params.cb.send = [](void* request, ucs_status_t, void* argument) {
    UcxConnection& closed = *static_cast<UcxConnection*>(argument);
    ucp_request_free(request);
    --closed.own_requests;
    closed.engine->Touch(closed);
  };
  params.user_data = &connection;
  ++connection.own_requests;
  const ucs_status_ptr_t request =
      ucp_ep_close_nbx(std::exchange(connection.endpoint, nullptr), &params);
  if (!UCS_PTR_IS_PTR(request)) --connection.own_requests;
}

// What a send that did not end well on this connection is told.
absl::Status UcxEngine::SendFailure(const UcxConnection& connection) {
  if (!connection.reason.ok()) return connection.reason;
  return absl::CancelledError("the connection was closed before the message was sent");
}

// UCX has not given back what it holds, as happens when a peer dies in the middle of a rendezvous
// through shared memory. The user gets his answers; the buffers live on until UCX is done with them
// or gone.
void UcxEngine::Abandon(UcxConnection& connection) {
  for (auto& [raw, send] : connection.sends) {
    polled_sends_ -= std::exchange(send->polled, false) ? 1 : 0;
    if (send->done == nullptr) continue;
    finished_sends_.emplace_back(std::exchange(send->done, nullptr), SendFailure(connection));
  }
  for (auto& [raw, receive] : connection.receives) EndReceiving(*receive);
  Finish(connection);
}

void UcxEngine::Finish(UcxConnection& connection) {
  std::unique_ptr<UcxConnection> owner = std::move(connections_.extract(connection.id).mapped());
  SetDeadline(connection, base::kNever);
  {
    const std::lock_guard lock(infos_mutex_);
    infos_.erase(connection.id);
    if (connection.accepted) accepted_peers_.erase(connection.peer);
  }
  // Touched again when UCX lets go of an abandoned one.
  if (std::exchange(connection.touched, false)) std::erase(touched_, &connection);
  RunFinishedSends();
  if (connection.announced) {
    connection.port->events->OnClosed(connection.id, std::move(connection.reason));
  } else if (options_.refused != nullptr && !connection.reason.ok()) {
    options_.refused("no_hello", base::MessageOf(connection.reason));
  }
  --connection.port->connections;
  if (!connection.HeldByUcx()) return;
  connection.abandoned = true;
  abandoned_.emplace(&connection, std::move(owner));
}

}  // namespace sounder::transport
