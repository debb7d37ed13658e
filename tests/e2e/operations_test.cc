// What an operator sees and does: sounderctl status, the HTTP endpoints, stopping a node, and
// sessions whose worker went away.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tests/e2e/endless_worker.h"

namespace sounder::e2e {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

bool Decoding(const Node& node) { return MetricOf(node, "sounder_node_attend_requests_total") > 5; }

TEST(StatusTest, TableAndJson) {
  const auto nodes = StartNodes(2, {"--threads", "1", "--memory", "64MiB"});
  TemporaryFolder folder;
  const auto worker = EndlessWorker(folder, ControlList(nodes), {"--ucx-tls", "tcp"});
  ASSERT_TRUE(Eventually([&] { return Decoding(*nodes[0]) && Decoding(*nodes[1]); }, seconds(20)))
      << worker->Errors();
  const Ran table = RunProgram(
      "sounderctl", {"status", "--nodes", ControlList(nodes), "--sessions", "--ucx-tls", "tcp"});
  EXPECT_EQ(table.exit, 0) << table.errors;
  EXPECT_THAT(table.output, AllOf(HasSubstr(nodes[0]->control()), HasSubstr(nodes[1]->control()),
                                  HasSubstr("64.0 MiB"), HasSubstr("tcp/lo")));
  std::printf("%s", table.output.c_str());

  const Ran text = RunProgram("sounderctl", {"status", "--nodes", ControlList(nodes), "--json",
                                             "--sessions", "--ucx-tls", "tcp"});
  ASSERT_EQ(text.exit, 0) << text.errors;
  const json views = json::parse(text.output);
  ASSERT_EQ(views.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(views[i].at("node"), nodes[i]->control());
    EXPECT_EQ(views[i].at("data"), nodes[i]->addresses().data);
    EXPECT_EQ(views[i].at("http"), nodes[i]->addresses().http);
    EXPECT_EQ(views[i].at("sessions"), 4);
    EXPECT_EQ(views[i].at("session_list").size(), 4u);
    EXPECT_FALSE(views[i].at("session_list")[0].at("index").get<std::string>().empty());
    EXPECT_GT(views[i].at("memory_used_bytes"), 0);
    EXPECT_EQ(views[i].at("memory_limit_bytes"), 64 << 20);
    EXPECT_THAT(views[i].at("transport").get<std::string>(), HasSubstr("tcp"));
    // The worker's connection, and the one that looked.
    ASSERT_GE(views[i].at("connections").size(), 1u);
    EXPECT_THAT(views[i].at("connections")[0].at("transport").get<std::string>(), HasSubstr("tcp"));
  }
}

TEST(StatusTest, SharedMemoryIsShown) {
  const Node node({"--threads", "1", "--ucx-tls", "shm"});
  const Ran ran =
      RunProgram("sounderctl", {"status", "--nodes", node.control(), "--ucx-tls", "shm"});
  EXPECT_EQ(ran.exit, 0) << ran.errors;
  EXPECT_THAT(ran.output, testing::AnyOf(HasSubstr("posix"), HasSubstr("sysv")));
}

TEST(StatusTest, NodeAway) {
  const auto nodes = StartNodes(2, {"--threads", "1"});
  nodes[1]->Kill();
  const Ran ran = RunProgram(
      "sounderctl", {"status", "--nodes", ControlList(nodes), "--deadline", "1s", "--json"});
  EXPECT_EQ(ran.exit, 4);
  EXPECT_THAT(ran.errors, HasSubstr(nodes[1]->control()));
  const json views = json::parse(ran.output);
  ASSERT_EQ(views.size(), 2u);
  EXPECT_FALSE(views[0].contains("error"));  // the other one is shown all the same
  EXPECT_EQ(views[0].at("sessions"), 0);
  EXPECT_TRUE(views[1].contains("error"));
}

// Local addresses of a process's listening TCP sockets, as the kernel writes them: in v4 the
// address as a little-endian number, colon, port, all hexadecimal.
std::vector<std::string> Listeners(pid_t pid) {
  std::set<std::string> sockets;  // "socket:[INODE]"
  const std::string process = "/proc/" + std::to_string(pid);
  for (const auto& entry : std::filesystem::directory_iterator(process + "/fd")) {
    std::error_code gone;
    sockets.insert(std::filesystem::read_symlink(entry.path(), gone).string());
  }
  std::vector<std::string> listeners;
  for (const char* table : {"/net/tcp", "/net/tcp6"}) {
    std::istringstream lines(ReadFile(process + table));
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      std::string slot, local, remote, state, skipped, inode;
      words >> slot >> local >> remote >> state;
      for (int i = 0; i < 5; ++i) words >> skipped;
      words >> inode;
      if (state == "0A" && sockets.contains("socket:[" + inode + "]")) listeners.push_back(local);
    }
  }
  return listeners;
}

TEST(ListenTest, ANodeOnLoopbackListensNowhereElse) {
  for (const char* tls : {"auto", "tcp", "shm"}) {
    Node node({"--threads", "1", "--ucx-tls", tls});
    const std::vector<std::string> listeners = Listeners(node.process().pid());
    EXPECT_GE(listeners.size(), 4u) << "control, data, HTTP and UCX's own";
    EXPECT_THAT(listeners, testing::Each(testing::StartsWith("0100007F:"))) << tls;
  }
}

TEST(HttpTest, EndpointsOfALiveNode) {
  const Node node({"--threads", "1", "--seal-rows", "512"});
  const std::string& http = node.addresses().http;
  EXPECT_EQ(HttpGet(http, "/healthz").body, "ok\n");
  EXPECT_EQ(HttpGet(http, "/readyz").body, "ok\n");
  EXPECT_EQ(HttpGet(http, "/nothing").status, 404);
  const json status = json::parse(HttpGet(http, "/status").body);
  EXPECT_EQ(status.at("control"), node.control());
  EXPECT_EQ(status.at("sessions"), 0);
  EXPECT_TRUE(json::parse(HttpGet(http, "/version").body).contains("version"));
  const std::string conf = HttpGet(http, "/conf").body;
  EXPECT_TRUE(json::accept(conf));
  EXPECT_THAT(conf, AllOf(HasSubstr("seal_rows"), HasSubstr("--seal-rows")));
}

TEST(HttpTest, PromtoolAcceptsTheMetrics) {
  const std::string promtool = "build/tools/usr/bin/promtool";
  if (!std::filesystem::exists(promtool)) {
    GTEST_SKIP() << "no " << promtool << " (scripts/unpack_test_tools.sh)";
  }
  const Node node({"--threads", "1"});
  TemporaryFolder folder;
  const std::string file = folder.Write("metrics", HttpGet(node.addresses().http, "/metrics").body);
  Process check("sh", {"-c", promtool + " check metrics <" + file});
  EXPECT_EQ(check.Wait(seconds(20)), 0) << check.Output() << check.Errors();
}

TEST(HttpTest, MetricsMoveWithTraffic) {
  const Node node({"--threads", "1"});
  const std::vector<std::string> names = {
      "sounder_node_attend_requests_total", "sounder_node_attend_items_total",
      "sounder_node_visible_rows_total",    "sounder_node_read_rows_total",
      "sounder_node_loaded_rows_total",     "sounder_node_append_requests_total",
      "sounder_node_appended_rows_total",   "sounder_node_appended_bytes_total",
      "sounder_node_attend_seconds_count"};
  for (const std::string& name : names) EXPECT_EQ(MetricOf(node, name), 0) << name;
  EXPECT_EQ(MetricOf(node, "sounder_node_open_sessions"), 0);
  TemporaryFolder folder;
  auto worker = EndlessWorker(folder, node.control());
  for (const std::string& name : names) {
    EXPECT_TRUE(Eventually([&] { return MetricOf(node, name) > 0; }, seconds(20))) << name;
  }
  EXPECT_EQ(MetricOf(node, "sounder_node_open_sessions"), 4);
  EXPECT_EQ(MetricOf(node, "sounder_node_open_connections"), 1);
  EXPECT_GT(MetricOf(node, "sounder_node_memory_used_bytes"), 0);
  EXPECT_EQ(MetricOf(node, "sounder_node_attend_failed_items_total"), 0);
  // Exact attention reads all it can see.
  const std::string text = HttpGet(node.addresses().http, "/metrics").body;
  EXPECT_EQ(Metric(text, "sounder_node_visible_rows_total"),
            Metric(text, "sounder_node_read_rows_total"));
  worker = nullptr;  // killed
  EXPECT_TRUE(Eventually([&] { return MetricOf(node, "sounder_node_open_connections") == 0; }));
}

TEST(StopTest, IdleNodeEndsCleanly) {
  for (const int signal : {SIGTERM, SIGINT}) {
    Node node({"--threads", "1"});
    node.process().Signal(signal);
    EXPECT_EQ(node.process().Wait(seconds(2)), 0) << node.process().Errors();
  }
}

TEST(StopTest, NodeEndsCleanlyWithRequestsInFlight) {
  for (const char* attention : {"exact", "lsh", "sketch"}) {
    Node node({"--threads", "2"});
    TemporaryFolder folder;
    const auto worker = EndlessWorker(folder, node.control(),
                                      {"--seal-rows", "16", "--min-indexed-rows", "16"}, attention);
    ASSERT_TRUE(Eventually([&] { return Decoding(node); }, seconds(20))) << worker->Errors();
    node.process().Signal(SIGTERM);
    EXPECT_EQ(node.process().Wait(seconds(2)), 0) << node.process().Errors();
    EXPECT_EQ(worker->Wait(seconds(10)), 4) << worker->Errors();
  }
}

TEST(TtlTest, SessionsOfAKilledWorkerAreFreed) {
  const Node node({"--threads", "1"});
  TemporaryFolder folder;
  auto worker = EndlessWorker(folder, node.control(), {"--ttl", "1s"});
  ASSERT_TRUE(Eventually([&] { return Decoding(node); }, seconds(20))) << worker->Errors();
  // Sessions in use outlive their TTL.
  const auto uptime = [&] {
    return json::parse(HttpGet(node.addresses().http, "/status").body)
        .at("uptime_seconds")
        .get<int>();
  };
  const int later = uptime() + 3;
  ASSERT_TRUE(Eventually([&] { return uptime() >= later; }, seconds(8)));
  EXPECT_EQ(MetricOf(node, "sounder_node_open_sessions"), 4);
  worker->Signal(SIGKILL);
  ASSERT_TRUE(worker->Wait(seconds(5)).has_value());
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(Eventually([&] { return MetricOf(node, "sounder_node_open_sessions") == 0; }));
  EXPECT_TRUE(Eventually([&] { return MetricOf(node, "sounder_node_memory_used_bytes") == 0; }));
  std::printf("ttl: freed %.1f s after the worker's death\n",
              std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

}  // namespace
}  // namespace sounder::e2e
