#include "common/http/endpoints.h"

#include <nlohmann/json.hpp>

#include "common/base/check.h"
#include "common/config/version.h"

namespace sounder::http {
namespace {

constexpr char kJson[] = "application/json";
constexpr char kText[] = "text/plain; charset=utf-8";

Route Judged(std::function<absl::Status()> judge) {
  return [judge = std::move(judge)](const Request&) -> Response {
    const absl::Status status = judge();
    if (status.ok()) return {200, kText, "ok\n"};
    return {503, kText, status.ToString() + "\n"};
  };
}

Route Json(std::function<std::string()> make) {
  return [make = std::move(make)](const Request&) -> Response { return {200, kJson, make()}; };
}

std::string VersionJson() {
  const nlohmann::ordered_json json = {{"version", config::Version()},
                                       {"build", config::VersionLine()}};
  return json.dump(2) + "\n";
}

}  // namespace

void AddStandardEndpoints(RouteTable& routes, const EndpointSources& sources) {
  CHECK(sources.registry != nullptr && sources.health && sources.ready && sources.status_json &&
        sources.conf_json);
  routes["/metrics"] = [registry = sources.registry](const Request&) -> Response {
    return {200, metrics::kExpositionContentType, registry->Exposition()};
  };
  routes["/healthz"] = Judged(sources.health);
  routes["/readyz"] = Judged(sources.ready);
  routes["/status"] = Json(sources.status_json);
  routes["/conf"] = Json(sources.conf_json);
  routes["/version"] = Json(VersionJson);
  routes["/"] = [](const Request&) -> Response {
    return {200, kText, "/metrics\n/healthz\n/readyz\n/status\n/version\n/conf\n"};
  };
}

}  // namespace sounder::http
