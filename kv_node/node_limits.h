// What a node bears from peers that hang and from whoever connects to its ports: options, and the
// same as its servers want them.
#ifndef SOUNDER_KV_NODE_NODE_LIMITS_H_
#define SOUNDER_KV_NODE_NODE_LIMITS_H_

#include <chrono>
#include <cstdint>
#include <string>

#include "common/config/option_set.h"
#include "common/http/http_server.h"
#include "common/policy/liveness.h"
#include "common/transport/ucx_transport.h"
#include "common/wire/control_limits.h"
#include "kv_node/server/probe.h"

namespace sounder::kv_node {

struct NodeLimits {
  policy::HeartbeatOptions heartbeat{.interval = std::chrono::seconds(5)};
  base::Duration shutdown_deadline = std::chrono::seconds(5);
  int64_t data_connections = 1024;
  base::Duration data_hello = std::chrono::seconds(5);
  int64_t control_connections = 256;
  int64_t control_message_bytes = int64_t{1} << 20;
  base::Duration control_stall = std::chrono::seconds(10);
  base::Duration control_idle = std::chrono::minutes(10);
  int64_t http_connections = 64;
  base::Duration http_timeout = std::chrono::seconds(5);
};

void DeclareLimits(config::OptionSet& set, NodeLimits* limits);

// Each refusal is reported to the probe, which outlives the servers.
void Limit(const NodeLimits& limits, ServerProbe* probe, transport::UcxOptions* ucx);
wire::ControlLimits ControlLimitsOf(const NodeLimits& limits, ServerProbe* probe);
http::HttpServerOptions HttpOptionsOf(const NodeLimits& limits, const std::string& address,
                                      ServerProbe* probe);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_NODE_LIMITS_H_
