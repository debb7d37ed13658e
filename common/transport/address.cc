#include "common/transport/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>

#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/config/host_port.h"

namespace sounder::transport {
absl::StatusOr<HostPort> ParseHostPort(std::string_view text) {
  ASSIGN_OR_RETURN(const config::HostPort parsed, config::ParseHostPort(text));
  return HostPort{parsed.host, static_cast<uint16_t>(parsed.port)};
}

std::string FormatHostPort(const HostPort& address) {
  return config::HostPort{address.host, address.port}.ToString();
}

absl::StatusOr<SocketAddress> Resolve(const HostPort& address) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot find host \"", address.host, "\": ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  const addrinfo* chosen = found;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    if (each->ai_family == AF_INET) {
      chosen = each;
      break;
    }
  }
  SocketAddress resolved;
  std::memcpy(&resolved.storage, chosen->ai_addr, chosen->ai_addrlen);
  resolved.length = chosen->ai_addrlen;
  return resolved;
}

std::string FormatSocketAddress(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, &address, sizeof(v4));
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text));
    return FormatHostPort({text, ntohs(v4.sin_port)});
  }
  if (address.ss_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, &address, sizeof(v6));
    inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
    return FormatHostPort({text, ntohs(v6.sin6_port)});
  }
  return "?";
}

}  // namespace sounder::transport
