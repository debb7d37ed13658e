#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/transport/message_limits.h"
#include "common/transport/ucx_engine.h"
#include "common/transport/ucx_status.h"

namespace sounder::transport {

static_assert(std::endian::native == std::endian::little, "frames are sent as they lie in memory");

std::unique_ptr<UcxSend> UcxEngine::NewSend(FrameKind kind) const {
  std::unique_ptr<UcxSend> send(new UcxSend);  // not make_unique: `frame` stays uninitialised
  send->kind = kind;
  const Frame frame{.kind = kind};
  std::memcpy(send->frame.data(), &frame, sizeof(frame));
  send->frame_bytes = sizeof(frame);
  return send;
}

// On the caller's thread.
void UcxEngine::Send(UcxPort& port, ConnectionId connection, Message message, SendMode mode,
                     SendDone done) {
  const absl::Status refused = CheckLimits(message);
  if (!refused.ok()) {
    if (done != nullptr) {
      Post({.work = [this, done = std::move(done), refused] {
        finished_sends_.emplace_back(done, refused);
      }});
    }
    return;
  }
  std::unique_ptr<UcxSend> send = NewSend(FrameKind::kMessage);
  send->mode = mode;
  send->payload = std::move(message.payload);
  send->done = std::move(done);
  if (!message.header.empty()) {
    std::memcpy(send->frame.data() + send->frame_bytes, message.header.data(),
                message.header.size());
    send->frame_bytes += message.header.size();
  }
  Post({.port = &port, .connection = connection, .send = std::move(send)});
}

void UcxEngine::SendHere(UcxPort& port, ConnectionId id, std::unique_ptr<UcxSend> send) {
  const auto found = connections_.find(id);
  using State = UcxConnection::State;
  if (found == connections_.end() || found->second->port != &port || found->second->failed ||
      (found->second->state != State::kConnecting && found->second->state != State::kOpen)) {
    if (send->done == nullptr) return;
    finished_sends_.emplace_back(
        std::move(send->done),
        absl::UnavailableError(absl::StrCat("connection ", id, " is gone or was closed")));
    return;
  }
  UcxConnection& connection = *found->second;
  const size_t lane = static_cast<size_t>(send->mode);
  const Frame frame{.kind = FrameKind::kMessage,
                    .lane = static_cast<uint8_t>(lane),
                    .sequence = connection.sent[lane]++};
  std::memcpy(send->frame.data(), &frame, sizeof(frame));
  if (connection.state == State::kOpen) return Issue(connection, std::move(send));
  connection.unsent.push_back(std::move(send));
}

void UcxEngine::IssueUnsent(UcxConnection& connection) {
  for (std::unique_ptr<UcxSend>& send : std::exchange(connection.unsent, {})) {
    Issue(connection, std::move(send));
  }
}

void UcxEngine::Issue(UcxConnection& connection, std::unique_ptr<UcxSend> send) {
  UcxSend* const raw = send.get();
  raw->connection = &connection;
  connection.user_sends += raw->kind == FrameKind::kMessage ? 1 : 0;
  // UCX never chooses between the two itself: the choice, and so the order in which messages of
  // different modes may arrive, is then the same over every transport. There is no rendezvous for
  // nothing.
  const size_t bytes = raw->payload.size();
  const bool rendezvous =
      raw->mode == SendMode::kRendezvous
          ? bytes > 0
          : raw->mode == SendMode::kAuto && bytes > 0 && bytes >= options_.rendezvous_bytes;
  ucp_request_param_t params{};
  params.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_AM_SEND_FLAG_REPLY |
                 static_cast<uint32_t>(rendezvous ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER);
  params.cb.send = &UcxEngine::OnSent;
  params.user_data = raw;
  connection.sends.emplace(raw, std::move(send));
  const ucs_status_ptr_t request =
      ucp_am_send_nbx(connection.endpoint, kActiveMessageId, raw->frame.data(), raw->frame_bytes,
                      raw->payload.data(), bytes, &params);
  if (UCS_PTR_IS_PTR(request)) {
    raw->polled = connection.shared_memory;
    polled_sends_ += raw->polled ? 1 : 0;
    return;  // OnSent will come
  }
  const ucs_status_t status = UCS_PTR_RAW_STATUS(request);
  if (status == UCS_OK) return FinishSend(*raw, absl::OkStatus());
  // The receiver would wait for this message's number forever.
  Fail(connection, absl::UnavailableError(absl::StrCat("sending to ", connection.peer, ": ",
                                                       ucs_status_string(status))));
  FinishSend(*raw, SendFailure(connection));
}

void UcxEngine::OnSent(void* request, ucs_status_t status, void* argument) {
  UcxSend& send = *static_cast<UcxSend*>(argument);
  UcxConnection& connection = *send.connection;
  ucp_request_free(request);
  absl::Status result;
  if (status != UCS_OK) {
    connection.engine->Fail(
        connection, absl::UnavailableError(absl::StrCat("sending to ", connection.peer, ": ",
                                                        ucs_status_string(status))));
    result = SendFailure(connection);
  }
  connection.engine->FinishSend(send, std::move(result));
}

void UcxEngine::FinishSend(UcxSend& finished, absl::Status status) {
  UcxConnection& connection = *finished.connection;
  const std::unique_ptr<UcxSend> send = std::move(connection.sends.extract(&finished).mapped());
  polled_sends_ -= send->polled ? 1 : 0;
  connection.user_sends -= send->kind == FrameKind::kMessage ? 1 : 0;
  if (send->kind == FrameKind::kGoodbye && status.ok()) FlushGoodbye(connection);
  if (send->done != nullptr) {
    finished_sends_.emplace_back(std::move(send->done), std::move(status));
  }
  // An open connection has nothing to do because a send ended.
  if (connection.state != UcxConnection::State::kOpen) Touch(connection);
}

void UcxEngine::SendHello(UcxConnection& connection) {
  Issue(connection, NewSend(FrameKind::kHello));
}

void UcxEngine::SendGoodbye(UcxConnection& connection) {
  CHECK(!connection.goodbye_sent);
  connection.goodbye_sent = true;
  std::unique_ptr<UcxSend> send = NewSend(FrameKind::kGoodbye);
  std::memcpy(send->frame.data() + send->frame_bytes, &connection.sent, sizeof(connection.sent));
  send->frame_bytes += sizeof(connection.sent);
  Issue(connection, std::move(send));
}

// A send that UCX calls done may still lie in UCX's own buffer, which a forced close throws away.
void UcxEngine::FlushGoodbye(UcxConnection& connection) {
  if (connection.endpoint == nullptr || connection.failed) {
    connection.goodbye_flushed = true;
    return;
  }
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.send = [](void* request, ucs_status_t, void* argument) {
    UcxConnection& flushed = *static_cast<UcxConnection*>(argument);
    ucp_request_free(request);
    --flushed.own_requests;
    flushed.goodbye_flushed = true;
    flushed.engine->Touch(flushed);
  };
  params.user_data = &connection;
  ++connection.own_requests;
  const ucs_status_ptr_t request = ucp_ep_flush_nbx(connection.endpoint, &params);
  if (UCS_PTR_IS_PTR(request)) return;
  --connection.own_requests;
  connection.goodbye_flushed = true;
}

}  // namespace sounder::transport
