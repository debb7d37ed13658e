#include "common/http/endpoints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <nlohmann/json.hpp>

#include "common/config/host_port.h"
#include "common/http/http_server.h"

namespace sounder::http {
namespace {

using ::testing::HasSubstr;

TEST(Endpoints, OverARealConnection) {
  metrics::Registry registry;
  registry.AddCounter("sounder_test_sent_messages_total", "Sent.").Add(3);
  std::atomic<bool> ready = false;
  RouteTable routes;
  AddStandardEndpoints(
      routes,
      {.registry = &registry,
       .health = [] { return absl::OkStatus(); },
       .ready = [&] { return ready ? absl::OkStatus() : absl::UnavailableError("starting"); },
       .status_json = [] { return std::string("{\"sessions\": 0}\n"); },
       .conf_json = [] { return std::string("{}\n"); }});
  auto server = HttpServer::Create({}, routes);
  ASSERT_TRUE(server.ok()) << server.status();
  httplib::Client client("127.0.0.1", config::ParseHostPort((*server)->address())->port);
  const auto get = [&](const char* path) {
    auto result = client.Get(path);
    EXPECT_TRUE(result) << path;
    return result ? result.value() : httplib::Response();
  };

  EXPECT_EQ(get("/metrics").get_header_value("Content-Type"), metrics::kExpositionContentType);
  EXPECT_THAT(get("/metrics").body, HasSubstr("\nsounder_test_sent_messages_total 3\n"));
  EXPECT_EQ(get("/healthz").body, "ok\n");
  EXPECT_EQ(get("/readyz").status, 503);
  EXPECT_THAT(get("/readyz").body, HasSubstr("starting"));
  ready = true;
  EXPECT_EQ(get("/readyz").status, 200);
  EXPECT_EQ(get("/status").get_header_value("Content-Type"), "application/json");
  EXPECT_EQ(nlohmann::json::parse(get("/status").body)["sessions"], 0);
  EXPECT_EQ(get("/conf").body, "{}\n");
  EXPECT_THAT(nlohmann::json::parse(get("/version").body)["build"], HasSubstr("sounder "));
  EXPECT_THAT(get("/").body, HasSubstr("/readyz"));
}

TEST(EndpointsDeathTest, AllSourcesAreNeeded) {
  RouteTable routes;
  EXPECT_DEATH(AddStandardEndpoints(routes, {}), "CHECK failed");
}

}  // namespace
}  // namespace sounder::http
