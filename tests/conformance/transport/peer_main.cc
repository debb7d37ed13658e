// A process that listens and sends every message back, for tests that kill or stop it.
// usage: transport_peer TLS ADDRESS COPIES. Prints the real address, runs until its input ends.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "common/transport/ucx_transport.h"

namespace sounder::transport {
namespace {

class Echo final : public TransportEvents {
 public:
  void OnAccept(ConnectionId, const std::string&) override {}
  void OnMessage(ConnectionId connection, Message message) override {
    for (int i = 1; i < copies; ++i) {
      transport->Send(connection,
                      {message.header, memory::AlignedBuffer::CopyOf(message.payload.bytes())},
                      SendMode::kAuto, nullptr);
    }
    transport->Send(connection, std::move(message), SendMode::kAuto, nullptr);
  }
  void OnClosed(ConnectionId, absl::Status) override {}

  Transport* transport = nullptr;
  int copies = 1;
};

int Serve(const char* tls, const char* address, int copies) {
  UcxOptions options;
  options.tls = tls;
  Echo echo;  // outlives the transport
  UcxTransport transport(options);
  echo.transport = &transport;
  echo.copies = copies;
  absl::Status status = transport.Start(&echo);
  const absl::StatusOr<std::string> listening =
      status.ok() ? transport.Listen(address) : absl::StatusOr<std::string>(status);
  if (!listening.ok()) {
    std::fprintf(stderr, "%s\n", listening.status().ToString().c_str());
    return 1;
  }
  std::printf("%s\n", listening->c_str());
  std::fflush(stdout);
  char byte;
  while (::read(STDIN_FILENO, &byte, 1) > 0) continue;
  return 0;
}

}  // namespace
}  // namespace sounder::transport

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  return sounder::transport::Serve(argv[1], argv[2], std::atoi(argv[3]));
}
