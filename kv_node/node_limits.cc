#include "kv_node/node_limits.h"

#include <functional>

namespace sounder::kv_node {
namespace {

using Report = std::function<void(const std::string& cause, const std::string& what)>;

Report ReportTo(ServerProbe* probe, const char* port) {
  return [probe, port](const std::string& cause, const std::string& what) {
    probe->ConnectionRefused(port, cause, what);
  };
}

}  // namespace

void DeclareLimits(config::OptionSet& set, NodeLimits* limits) {
  const config::Range<int64_t> connections = {.min = 1, .max = 1 << 20};
  const config::Range<base::Duration> patience = {.min = std::chrono::milliseconds(10),
                                                  .max = std::chrono::hours(24)};
  set.AddDuration("shutdown_deadline", &limits->shutdown_deadline,
                  "how long requests in flight may take to end after SIGTERM or SIGINT");
  set.AddDuration("heartbeat_interval", &limits->heartbeat.interval,
                  "silence after which a worker is asked for a sign of life; 0s: never");
  set.AddDuration("heartbeat_timeout", &limits->heartbeat.timeout,
                  "how long it may take to give one before its connection is closed", patience);
  set.AddInt("data_connections", &limits->data_connections,
             "data connections at once, and sockets that may become one; more are refused",
             connections);
  set.AddDuration("data_hello_timeout", &limits->data_hello,
                  "how long a socket may take to become a data connection", patience);
  set.AddInt("control_connections", &limits->control_connections,
             "control connections at once; one more replaces one that has sent nothing, or is "
             "refused",
             connections);
  set.AddBytes("control_message_bytes", &limits->control_message_bytes,
               "longest control message that is read", {.min = 4096, .max = 64 << 20});
  set.AddDuration("control_stall", &limits->control_stall,
                  "how long a control message may take to come, and its answer to be read",
                  patience);
  set.AddDuration("control_idle", &limits->control_idle,
                  "a control connection without a message for so long is closed", patience);
  set.AddInt("http_connections", &limits->http_connections,
             "HTTP connections at once; one more replaces one whose request is not complete, or is "
             "refused",
             connections);
  set.AddDuration("http_timeout", &limits->http_timeout,
                  "how long an HTTP request may take to come, and its answer to be read", patience);
}

void Limit(const NodeLimits& limits, ServerProbe* probe, transport::UcxOptions* ucx) {
  ucx->connections_max = static_cast<size_t>(limits.data_connections);
  ucx->connect_timeout = limits.data_hello;
  ucx->refused = ReportTo(probe, "data");
}

wire::ControlLimits ControlLimitsOf(const NodeLimits& limits, ServerProbe* probe) {
  wire::ControlLimits control;
  control.connections = static_cast<size_t>(limits.control_connections);
  control.message_bytes = static_cast<size_t>(limits.control_message_bytes);
  control.stall = limits.control_stall;
  control.idle = limits.control_idle;
  control.refused = ReportTo(probe, "control");
  return control;
}

http::HttpServerOptions HttpOptionsOf(const NodeLimits& limits, const std::string& address,
                                      ServerProbe* probe) {
  http::HttpServerOptions options;
  options.address = address;
  options.max_connections = static_cast<int>(limits.http_connections);
  options.exchange_timeout = limits.http_timeout;
  options.refused = ReportTo(probe, "http");
  return options;
}

}  // namespace sounder::kv_node
