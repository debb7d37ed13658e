// A real Prometheus server scrapes a real HttpServer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/config/host_port.h"
#include "common/http/endpoints.h"
#include "common/http/http_server.h"

namespace sounder::http {
namespace {

using namespace std::chrono_literals;

constexpr char kPrometheus[] = "build/tools/usr/bin/prometheus";  // scripts/unpack_test_tools.sh

int PortOf(const std::string& address) { return config::ParseHostPort(address)->port; }

// A port that is free now: bound once, and given back.
int FreePort() {
  const auto server = HttpServer::Create({}, {});
  return server.ok() ? PortOf((*server)->address()) : 0;
}

// A Prometheus that scrapes `target` every second, until destruction.
class Prometheus {
 public:
  explicit Prometheus(const std::string& target)
      : folder_(::testing::TempDir() + "/prometheus." + std::to_string(getpid())),
        port_(FreePort()) {
    std::filesystem::create_directories(folder_);
    const std::string config = folder_ + "/prometheus.yml";
    std::ofstream(config) << "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
                          << "scrape_configs:\n- job_name: sounder\n  static_configs:\n"
                          << "  - targets: ['" << target << "']\n";
    const std::string arguments[] = {
        "--config.file=" + config, "--storage.tsdb.path=" + folder_ + "/data",
        "--web.listen-address=127.0.0.1:" + std::to_string(port_), "--log.level=error"};
    child_ = fork();
    if (child_ == 0) {
      execl(kPrometheus, kPrometheus, arguments[0].c_str(), arguments[1].c_str(),
            arguments[2].c_str(), arguments[3].c_str(), nullptr);
      _exit(127);
    }
  }
  ~Prometheus() {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    std::filesystem::remove_all(folder_);
  }

  // The value of a query with one result, asked for until there is one or `limit` has passed.
  std::string Query(const std::string& query, std::chrono::seconds limit) const {
    httplib::Client client("127.0.0.1", port_);
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (std::chrono::steady_clock::now() < deadline) {
      const auto answer = client.Get("/api/v1/query?query=" + query);
      if (answer && answer->status == 200) {
        const auto json = nlohmann::json::parse(answer->body);
        const auto& result = json["data"]["result"];
        if (!result.empty()) return result[0]["value"][1].get<std::string>();
      }
      poll(nullptr, 0, 20);  // it has no way to tell us
    }
    return "";
  }

 private:
  const std::string folder_;
  const int port_;
  pid_t child_ = -1;
};

TEST(Scrape, APrometheusServerReadsOurMetrics) {
  if (access(kPrometheus, X_OK) != 0) GTEST_SKIP() << kPrometheus << " is not there (./run test)";
  metrics::Registry registry;
  metrics::AddProcessMetrics(registry);
  registry.AddCounter("sounder_test_sent_messages_total", "Sent.").Add(42);
  RouteTable routes;
  AddStandardEndpoints(routes, {.registry = &registry,
                                .health = [] { return absl::OkStatus(); },
                                .ready = [] { return absl::OkStatus(); },
                                .status_json = [] { return std::string("{}\n"); },
                                .conf_json = [] { return std::string("{}\n"); }});
  const auto server = HttpServer::Create({}, routes);
  ASSERT_TRUE(server.ok()) << server.status();
  const Prometheus prometheus((*server)->address());
  EXPECT_EQ(prometheus.Query("sounder_test_sent_messages_total", 30s), "42");
  EXPECT_EQ(prometheus.Query("up", 1s), "1");
}

}  // namespace
}  // namespace sounder::http
