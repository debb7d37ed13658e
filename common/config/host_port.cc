#include "common/config/host_port.h"

#include <algorithm>
#include <charconv>

#include "absl/status/status.h"
#include "common/base/absl_text.h"

namespace sounder::config {

std::string HostPort::ToString() const {
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

absl::StatusOr<HostPort> ParseHostPort(std::string_view text) {
  const auto bad = [&](const std::string& why) {
    return absl::InvalidArgumentError("\"" + std::string(text) + "\" is not an address: " + why +
                                      " (expected host:port or [v6 address]:port)");
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad("no port");
  std::string_view host = text.substr(0, colon);
  const std::string_view port_text = text.substr(colon + 1);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find_first_of(":[]") != std::string_view::npos) {
    return bad("a v6 address needs brackets");
  }
  if (host.empty()) return bad("no host");
  // A NUL, say, would make the resolver read another name than the one that is reported.
  const bool plain = std::all_of(host.begin(), host.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte > ' ' && byte != 0x7f && c != '/' && c != '[' && c != ']';
  });
  if (!plain) return bad("the host has a character that no host has");
  int port = -1;
  const char* end = port_text.data() + port_text.size();
  const auto [stop, error] = std::from_chars(port_text.data(), end, port);
  if (port_text.empty() || error != std::errc() || stop != end || port < 0 || port > 65535) {
    return bad("port \"" + std::string(port_text) + "\" is not in 0..65535");
  }
  return HostPort{std::string(host), port};
}

std::string ReachableData(const std::string& reached, const std::string& listening) {
  const absl::StatusOr<HostPort> here = ParseHostPort(reached);
  absl::StatusOr<HostPort> there = ParseHostPort(listening);
  if (!here.ok() || !there.ok() || there->host != "0.0.0.0") return listening;
  there->host = here->host;
  return there->ToString();
}

absl::Status CheckAddresses(const std::string& flag, const std::vector<std::string>& addresses) {
  for (const std::string& address : addresses) {
    const absl::Status status = ParseHostPort(address).status();
    if (!status.ok()) return base::Annotate(status, flag);
  }
  return absl::OkStatus();
}

}  // namespace sounder::config
