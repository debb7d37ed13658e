// A process that listens and sends every message back, for tests that kill or stop it.
// usage: transport_peer TLS ADDRESS. Prints the real address, runs until its input ends.
#include <unistd.h>

#include <cstdio>

#include "common/transport/ucx_transport.h"

namespace sounder::transport {
namespace {

class Echo final : public TransportEvents {
 public:
  void OnAccept(ConnectionId, const std::string&) override {}
  void OnMessage(ConnectionId connection, Message message) override {
    transport->Send(connection, std::move(message), SendMode::kAuto, nullptr);
  }
  void OnClosed(ConnectionId, absl::Status) override {}

  Transport* transport = nullptr;
};

int Serve(const char* tls, const char* address) {
  UcxOptions options;
  options.tls = tls;
  Echo echo;  // outlives the transport
  UcxTransport transport(options);
  echo.transport = &transport;
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
  if (argc != 3) return 2;
  return sounder::transport::Serve(argv[1], argv[2]);
}
