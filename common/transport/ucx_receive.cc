#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/transport/ucx_engine.h"
#include "common/transport/ucx_status.h"

namespace sounder::transport {

ucs_status_t UcxEngine::OnActiveMessage(void* argument, const void* header, size_t header_bytes,
                                        void* data, size_t data_bytes,
                                        const ucp_am_recv_param_t* param) {
  UcxEngine& engine = *static_cast<UcxEngine*>(argument);
  // Every message of ours asks UCX to carry the identity of the endpoint it came from.
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) == 0) return UCS_OK;
  const auto found = engine.by_endpoint_.find(param->reply_ep);
  if (found == engine.by_endpoint_.end()) return UCS_OK;  // we have closed it
  UcxConnection& connection = *found->second;
  if (connection.failed) return UCS_OK;
  Frame frame;
  if (header_bytes < sizeof(frame)) {
    engine.Fail(connection, absl::InvalidArgumentError(absl::StrCat(
                                connection.peer, " sent a header of ", header_bytes,
                                " bytes; at least ", sizeof(frame), " were expected")));
    return UCS_OK;
  }
  std::memcpy(&frame, header, sizeof(frame));
  const auto* bytes = static_cast<const std::byte*>(header);
  const absl::Status status = engine.CheckFrame(connection, frame, header_bytes, data_bytes);
  if (!status.ok()) {
    engine.Fail(connection, status);
    return UCS_OK;
  }
  return engine.Receive(connection, frame, {bytes + sizeof(frame), bytes + header_bytes}, data,
                        data_bytes, (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0);
}

absl::Status UcxEngine::CheckFrame(const UcxConnection& connection, const Frame& frame,
                                   size_t header_bytes, size_t data_bytes) const {
  const auto refuse = [&](auto... why) {
    return absl::InvalidArgumentError(absl::StrCat(connection.peer, " sent ", why...));
  };
  if (frame.magic != kFrameMagic) {
    return refuse("a frame that starts with ", absl::Hex(frame.magic), "; expected ",
                  absl::Hex(kFrameMagic));
  }
  if (frame.version != kFrameVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(connection.peer, " speaks version ", frame.version,
                     " of the data plane's frames, we speak ", kFrameVersion));
  }
  if (header_bytes > kMaxFrameBytes) {
    return refuse("a header of ", header_bytes - sizeof(Frame), " bytes; at most ",
                  base::kMaxHeaderBytes);
  }
  const size_t rest = header_bytes - sizeof(Frame);
  switch (frame.kind) {
    case FrameKind::kHello:
      if (rest == 0 && data_bytes == 0 && !connection.hello_received) return absl::OkStatus();
      return refuse("a malformed or second hello");
    case FrameKind::kGoodbye:
      if (rest == sizeof(LaneCounts) && data_bytes == 0 && !connection.goodbye_received) {
        return absl::OkStatus();
      }
      return refuse("a malformed or second goodbye");
    case FrameKind::kMessage:
      if (frame.lane >= kLanes) return refuse("a message of unknown mode ", int{frame.lane});
      if (data_bytes > base::kMaxPayloadBytes) {
        return refuse("a payload of ", data_bytes, " bytes; at most ", base::kMaxPayloadBytes);
      }
      return absl::OkStatus();
  }
  return refuse("a frame of unknown kind ", static_cast<int>(frame.kind));
}

// The frame is sound. Returns UCS_INPROGRESS if `data` is a descriptor that we keep.
ucs_status_t UcxEngine::Receive(UcxConnection& connection, const Frame& frame,
                                std::span<const std::byte> header, void* data, size_t data_bytes,
                                bool rendezvous) {
  if (frame.kind == FrameKind::kHello) {
    connection.hello_received = true;
    Touch(connection);
    return UCS_OK;
  }
  if (frame.kind == FrameKind::kGoodbye) {
    std::memcpy(&connection.goodbye_counts, header.data(), sizeof(connection.goodbye_counts));
    connection.goodbye_received = true;
    Touch(connection);
    return UCS_OK;
  }
  if (connection.state == UcxConnection::State::kDraining) return UCS_OK;  // nobody listens
  auto receive = std::make_unique<UcxReceive>();
  receive->connection = &connection;
  receive->lane = frame.lane;
  receive->sequence = frame.sequence;
  receive->payload_bytes = data_bytes;
  receive->message.header.assign(header.begin(), header.end());
  if (rendezvous) {
    if (connection.announced_receives >= kWaitingMessagesMax) {
      Fail(connection,
           absl::ResourceExhaustedError(absl::StrCat(connection.peer, " announced more than ",
                                                     kWaitingMessagesMax, " payloads at once")));
      return UCS_OK;
    }
    ++connection.announced_receives;
    receive->descriptor = data;
    waiting_receives_.push_back(std::move(receive));
    StartReceives();
    return UCS_INPROGRESS;
  }
  receive->message.payload =
      memory::AlignedBuffer::CopyOf({static_cast<const std::byte*>(data), data_bytes});
  connection.received.Put(receive->lane, receive->sequence, std::move(receive->message));
  Touch(connection);
  return UCS_OK;
}

// Starts the waiting transfers for which there is room; one may always run. They start in the order
// they came, but nobody waits behind a connection that has its share.
void UcxEngine::StartReceives() {
  std::set<const UcxConnection*> full;
  for (auto entry = waiting_receives_.begin(); entry != waiting_receives_.end();) {
    const UcxConnection& connection = *(*entry)->connection;
    const size_t bytes = (*entry)->payload_bytes;
    if (full.contains(&connection) ||
        (connection.receiving_bytes > 0 &&
         connection.receiving_bytes + bytes > options_.connection_receive_bytes_max)) {
      full.insert(&connection);
      ++entry;
      continue;
    }
    if (receiving_bytes_ > 0 && receiving_bytes_ + bytes > options_.receive_bytes_max) return;
    std::unique_ptr<UcxReceive> receive = std::move(*entry);
    entry = waiting_receives_.erase(entry);
    --receive->connection->announced_receives;
    StartReceive(std::move(receive));
  }
}

void UcxEngine::StartReceive(std::unique_ptr<UcxReceive> receive) {
  UcxReceive* const raw = receive.get();
  UcxConnection& connection = *raw->connection;
  raw->message.payload = memory::AlignedBuffer(raw->payload_bytes);
  raw->deadline = now_ + options_.receive_timeout;
  ucp_request_param_t params{};
  params.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
  params.cb.recv_am = &UcxEngine::OnReceived;
  params.user_data = raw;
  connection.receives.emplace(raw, std::move(receive));
  receiving_bytes_ += raw->payload_bytes;
  connection.receiving_bytes += raw->payload_bytes;
  const ucs_status_ptr_t request = ucp_am_recv_data_nbx(
      worker_.get(), raw->descriptor, raw->message.payload.data(), raw->payload_bytes, &params);
  if (UCS_PTR_IS_PTR(request)) return WatchReceives(connection);  // OnReceived will come
  EndReceiving(*raw);
  connection.receives.erase(raw);
  Fail(connection,
       absl::UnavailableError(absl::StrCat("receiving from ", connection.peer, ": ",
                                           ucs_status_string(UCS_PTR_STATUS(request)))));
}

void UcxEngine::OnReceived(void* request, ucs_status_t status, size_t, void* argument) {
  UcxConnection& connection = *static_cast<UcxReceive*>(argument)->connection;
  const std::unique_ptr<UcxReceive> receive =
      std::move(connection.receives.extract(static_cast<UcxReceive*>(argument)).mapped());
  UcxEngine& engine = *connection.engine;
  ucp_request_free(request);
  engine.EndReceiving(*receive);
  engine.WatchReceives(connection);
  if (status == UCS_OK) {
    connection.received.Put(receive->lane, receive->sequence, std::move(receive->message));
  } else {
    engine.Fail(connection, absl::UnavailableError(absl::StrCat("receiving from ", connection.peer,
                                                                ": ", ucs_status_string(status))));
  }
  engine.Touch(connection);
}

// Its bytes count no longer.
void UcxEngine::EndReceiving(UcxReceive& receive) {
  const size_t bytes = std::exchange(receive.payload_bytes, 0);
  receiving_bytes_ -= bytes;
  receive.connection->receiving_bytes -= bytes;
  receives_ended_ = true;
}

// An open connection has a deadline while payloads are on their way: that of the first of them.
void UcxEngine::WatchReceives(UcxConnection& connection) {
  if (connection.state != UcxConnection::State::kOpen) return;
  base::Time first = base::kNever;
  for (const auto& [raw, receive] : connection.receives) first = std::min(first, raw->deadline);
  SetDeadline(connection, first);
}

// Gives descriptors of transfers that have not started back to UCX.
void UcxEngine::DropWaitingReceives(UcxConnection& connection) {
  std::erase_if(waiting_receives_, [&](const std::unique_ptr<UcxReceive>& receive) {
    if (receive->connection != &connection) return false;
    --connection.announced_receives;
    ucp_am_data_release(worker_.get(), receive->descriptor);
    return true;
  });
}

}  // namespace sounder::transport
