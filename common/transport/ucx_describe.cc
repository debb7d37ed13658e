#include "common/transport/ucx_describe.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace sounder::transport {

ConnectionInfo DescribeEndpoint(ucp_ep_h endpoint) {
  char* text = nullptr;
  size_t bytes = 0;
  std::FILE* stream = ::open_memstream(&text, &bytes);
  ConnectionInfo info;
  if (stream == nullptr) return info;
  ucp_ep_print_info(endpoint, stream);
  std::fclose(stream);
  const std::unique_ptr<char, decltype(&std::free)> owner(text, std::free);
  info.detail.assign(text, bytes);
  info.transport = ParseTransports(info.detail);
  return info;
}

std::string ParseTransports(std::string_view description) {
  std::vector<std::string_view> names;
  size_t lane = 0;
  while ((lane = description.find("lane[", lane)) != std::string_view::npos) {
    const size_t end_of_line = std::min(description.find('\n', lane), description.size());
    const std::string_view line = description.substr(lane, end_of_line - lane);
    lane = end_of_line;
    // lane[0]:  2:tcp/lo.0 md[1] -> ...; the last number is the path index. Lanes without a '/'
    // serve the connection's management ("cm tcp").
    const size_t label = line.find(':', line.find(']') + 2);
    const size_t space = line.find(' ', label == std::string_view::npos ? 0 : label);
    if (label == std::string_view::npos || space == std::string_view::npos) continue;
    std::string_view name = line.substr(label + 1, space - label - 1);
    if (name.find('/') == std::string_view::npos) continue;
    const size_t dot = name.rfind('.');
    if (dot != std::string_view::npos &&
        name.find_first_not_of("0123456789", dot + 1) == std::string_view::npos) {
      name = name.substr(0, dot);
    }
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  std::string transports;
  for (const std::string_view name : names) {
    if (!transports.empty()) transports += ',';
    transports += name;
  }
  return transports;
}

bool IsRdma(std::string_view transports) {
  for (const std::string_view prefix : {"rc_", "dc_", "ud_"}) {
    size_t at = 0;
    while ((at = transports.find(prefix, at)) != std::string_view::npos) {
      if (at == 0 || transports[at - 1] == ',') return true;
      ++at;
    }
  }
  return false;
}

}  // namespace sounder::transport
