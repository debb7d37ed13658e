// Network addresses as people write them: "host:port", "[v6 address]:port". Pure functions.
#ifndef SOUNDER_COMMON_CONFIG_HOST_PORT_H_
#define SOUNDER_COMMON_CONFIG_HOST_PORT_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace sounder::config {

struct HostPort {
  std::string host;  // name or address, a v6 address without its brackets; never empty
  int port = 0;      // 0..65535; 0 asks a listener to pick one

  std::string ToString() const;  // v6 addresses get their brackets back
  bool operator==(const HostPort&) const = default;
};

// INVALID_ARGUMENT, naming the text and what was expected.
absl::StatusOr<HostPort> ParseHostPort(std::string_view text);

// Where a node listens, seen from here: `listening` on every interface is reached by the host that
// another of its ports is `reached` by. What is no address stays as it is.
std::string ReachableData(const std::string& reached, const std::string& listening);

// For OptionSet::AddCheck: the first of the addresses given to `flag` that is none.
absl::Status CheckAddresses(const std::string& flag, const std::vector<std::string>& addresses);

}  // namespace sounder::config

#endif  // SOUNDER_COMMON_CONFIG_HOST_PORT_H_
