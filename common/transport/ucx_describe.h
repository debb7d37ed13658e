// What UCX chose for an endpoint, read from its own description.
#ifndef SOUNDER_COMMON_TRANSPORT_UCX_DESCRIBE_H_
#define SOUNDER_COMMON_TRANSPORT_UCX_DESCRIBE_H_

#include <ucp/api/ucp.h>

#include <string>
#include <string_view>

#include "common/transport/transport.h"

namespace sounder::transport {

// `transport` and `detail` of a connected endpoint; `peer` is left to the caller. `transport` names
// each "transport/device" once, in the order of UCX's lanes, separated by commas; it is empty if
// the description cannot be understood.
ConnectionInfo DescribeEndpoint(ucp_ep_h endpoint);

// The transports in the text that ucp_ep_print_info prints. Pure function.
std::string ParseTransports(std::string_view description);

// Whether any of `transports` (as above) is an RDMA transport. Pure function.
bool IsRdma(std::string_view transports);

}  // namespace sounder::transport

#endif  // SOUNDER_COMMON_TRANSPORT_UCX_DESCRIBE_H_
