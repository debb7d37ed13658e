// Addresses of the data plane: "host:port", with IPv6 hosts in brackets ("[::1]:7401").
#ifndef SOUNDER_COMMON_TRANSPORT_ADDRESS_H_
#define SOUNDER_COMMON_TRANSPORT_ADDRESS_H_

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace sounder::transport {

struct HostPort {
  std::string host;  // a name or a number, without brackets; never empty
  uint16_t port = 0;
};

// As config::ParseHostPort.
absl::StatusOr<HostPort> ParseHostPort(std::string_view text);

// "host:port", with brackets where the host needs them.
std::string FormatHostPort(const HostPort& address);

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
};

// Looks the host up; IPv4 is preferred where a name has both. Blocks when the name is not a number
// and the system's resolver must ask. UNAVAILABLE if nothing is found.
absl::StatusOr<SocketAddress> Resolve(const HostPort& address);

// The numeric "host:port" of a socket address, "?" for an unknown family.
std::string FormatSocketAddress(const sockaddr_storage& address);

}  // namespace sounder::transport

#endif  // SOUNDER_COMMON_TRANSPORT_ADDRESS_H_
