// The endpoints every Sounder process has:
//   /metrics  Prometheus' text format            /version  {"version": ..., "build": ...}
//   /healthz  200 "ok" or 503 and why: restart   /conf     the options and where each came from
//   /readyz   200 "ok" or 503 and why: no work   /status   what the process is doing, JSON
//   /         a list of these
#ifndef SOUNDER_COMMON_HTTP_ENDPOINTS_H_
#define SOUNDER_COMMON_HTTP_ENDPOINTS_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "common/http/route.h"
#include "common/metrics/registry.h"

namespace sounder::http {

// All callbacks are called from the server's threads, several at once, and must outlive it.
// Required, all of them (CHECK).
struct EndpointSources {
  const metrics::Registry* registry = nullptr;
  std::function<absl::Status()> health;  // not OK: the process is broken beyond repair
  std::function<absl::Status()> ready;   // not OK: send it no work for now (starting, draining)
  std::function<std::string()> status_json;
  std::function<std::string()> conf_json;
};

void AddStandardEndpoints(RouteTable& routes, const EndpointSources& sources);

}  // namespace sounder::http

#endif  // SOUNDER_COMMON_HTTP_ENDPOINTS_H_
