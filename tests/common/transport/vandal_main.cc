// A process that speaks UCX but not our language: it connects, says hello, waits for
// a message, sends one malformed frame and exits with 0 once it has been cut off. usage:
// transport_vandal FAULT HOST PORT
#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/transport/ucx_config.h"
#include "common/transport/ucx_frame.h"

namespace sounder::transport {
namespace {

struct Vandal {
  UcxContext context;
  UcxWorker worker;
  ucp_ep_h endpoint = nullptr;
  bool cut_off = false;
  int received = 0;
  std::vector<std::vector<std::byte>> kept;  // headers in flight
  std::vector<std::vector<char>> payloads;   // likewise

  explicit Vandal(const sockaddr_in& address) {
    context = std::move(CreateUcxContext({.tls = "tcp"}).value());
    ucp_worker_params_t worker_params{};
    ucp_worker_h made = nullptr;
    CHECK(ucp_worker_create(context.get(), &worker_params, &made) == UCS_OK);
    worker.reset(made);
    ucp_am_handler_param_t handler{};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                         UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.arg = this;
    handler.id = kActiveMessageId;
    handler.cb = [](void* self, const void*, size_t, void*, size_t, const ucp_am_recv_param_t*) {
      ++static_cast<Vandal*>(self)->received;
      return UCS_OK;
    };
    CHECK(ucp_worker_set_am_recv_handler(made, &handler) == UCS_OK);
    ucp_ep_params_t params{};
    params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR |
                        UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
    params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
    params.sockaddr.addr = reinterpret_cast<const sockaddr*>(&address);
    params.sockaddr.addrlen = sizeof(address);
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler.cb = [](void* self, ucp_ep_h, ucs_status_t) {
      static_cast<Vandal*>(self)->cut_off = true;
    };
    params.err_handler.arg = this;
    CHECK(ucp_ep_create(worker.get(), &params, &endpoint) == UCS_OK);
  }

  void Send(const Frame& frame, size_t header_bytes, size_t payload_bytes, uint32_t flags,
            unsigned id = kActiveMessageId) {
    std::vector<std::byte>& header = kept.emplace_back(std::max(header_bytes, sizeof(frame)));
    std::memcpy(header.data(), &frame, sizeof(frame));
    std::vector<char>& payload = payloads.emplace_back(payload_bytes);
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    params.flags = flags;
    (void)ucp_am_send_nbx(endpoint, id, header.data(), header_bytes, payload.data(), payload_bytes,
                          &params);
  }

  template <typename Condition>
  bool ProgressUntil(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition() && std::chrono::steady_clock::now() < deadline) {
      ucp_worker_progress(worker.get());
    }
    return condition();
  }
};

int Misbehave(const std::string& fault, const sockaddr_in& address) {
  Vandal& vandal = *new Vandal(address);  // lives until the process ends
  constexpr uint32_t kReply = UCP_AM_SEND_FLAG_REPLY;
  const Frame hello{.kind = FrameKind::kHello};
  Frame frame{};
  size_t header_bytes = sizeof(frame), payload_bytes = 8;
  uint32_t flags = kReply;
  if (fault != "no_hello") {
    vandal.Send(hello, sizeof(hello), 0, kReply);
    // The server's hello, and the message with which the test greets whom it has accepted.
    if (!vandal.ProgressUntil([&] { return vandal.received >= 2; })) return 3;
  }
  if (fault == "short") header_bytes = 5;
  if (fault == "magic") frame.magic = 0x20544547;
  if (fault == "version") frame.version = 77;
  if (fault == "kind") frame.kind = static_cast<FrameKind>(9);
  if (fault == "lane") frame.lane = 3;
  if (fault == "second_hello") frame.kind = FrameKind::kHello, payload_bytes = 0;
  if (fault == "goodbye") frame.kind = FrameKind::kGoodbye, payload_bytes = 0;
  if (fault == "header") header_bytes = kMaxFrameBytes + 1;
  if (fault == "gap") frame.sequence = 2;
  if (fault == "payload") {
    payload_bytes = base::kMaxPayloadBytes + 1;
    flags |= UCP_AM_SEND_FLAG_RNDV;
  }
  vandal.Send(frame, header_bytes, payload_bytes, flags);
  if (fault == "gap") {  // and none of the number before these
    for (frame.sequence = 3; frame.sequence < 4200; ++frame.sequence) {
      vandal.Send(frame, header_bytes, payload_bytes, flags);
      ucp_worker_progress(vandal.worker.get());
    }
  }
  return vandal.ProgressUntil([&] { return vandal.cut_off; }) ? 0 : 1;
}

}  // namespace
}  // namespace sounder::transport

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[3])));
  if (inet_pton(AF_INET, argv[2], &address.sin_addr) != 1) return 2;
  const int result = sounder::transport::Misbehave(argv[1], address);
  std::fflush(nullptr);
  ::_exit(result);  // a vandal does not tidy up
}
