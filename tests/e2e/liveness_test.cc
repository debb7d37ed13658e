// Peers that stop, freeze, vanish and come back, and nodes that are told to end: noticed within the
// bounds of the options, without traffic, said once, and without harm to others.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <future>
#include <memory>
#include <span>
#include <vector>

#include "common/base/absl_text.h"
#include "common/base/thread_executor.h"
#include "common/transport/ucx_transport.h"
#include "common/wire/control_client.h"
#include "common/wire/data_client.h"
#include "tests/e2e/bystander.h"
#include "tests/e2e/endless_worker.h"

namespace sounder::e2e {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using Clock = std::chrono::steady_clock;

constexpr wire::LivenessOptions kQuick{
    .heartbeat = {.interval = milliseconds(200), .timeout = milliseconds(400)},
    .reconnect = {.first = milliseconds(50), .most = milliseconds(200)}};
const Arguments kQuickNode = {"--threads",           "1",    "--heartbeat-interval", "200ms",
                              "--heartbeat-timeout", "400ms"};
// Detection, on a machine that is busy.
constexpr auto kSoon = seconds(4);

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double SilentClosed(const Node& node) {
  return Metric(HttpGet(node.addresses().http, "/metrics").body,
                "sounder_node_refused_connections_total{cause=\"silent\",port=\"data\"}")
      .value_or(0);  // it is not there before the first
}

int CountOf(const std::string& text, const std::string& what) {
  int count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

// A client of the data plane alone, which may ask what a worker would not.
struct Asking {
  explicit Asking(const Node& node, const wire::LivenessOptions& liveness = {})
      : data(&transport, &executor, {.liveness = liveness}) {
    EXPECT_TRUE(transport.Start(&data).ok());
    index = data.AddNode(node.addresses().data);
  }
  // An empty request that waits until `sequence` operations of session {1, 1} are applied.
  std::future<absl::Status> Attend(uint64_t sequence) {
    static const std::vector<float> kQuery(16, 1.0f);
    wire::AttendRequest request;
    wire::AttendItem& item = request.items.emplace_back();
    item.session.id = {1, 1};
    item.sequence = sequence;
    item.kv_head_count = item.group = item.query_count = 1;
    item.head_dim = 16;
    item.scale = 1;
    item.queries = std::as_bytes(std::span(kQuery));
    auto done = std::make_shared<std::promise<absl::Status>>();
    data.Attend(index, std::move(request), seconds(20),
                [done](const absl::StatusOr<wire::AttendReply>& reply) {
                  done->set_value(!reply.ok()                    ? reply.status()
                                  : !reply->envelope.status.ok() ? reply->envelope.status
                                                                 : reply->items.at(0).status);
                });
    return done->get_future();
  }

  // Rows of zeros; what became of them.
  std::future<absl::Status> Append(uint32_t rows) {
    const std::vector<float> zeros(size_t{rows} * 16);
    wire::AppendRequest request;
    wire::AppendItem& item = request.items.emplace_back();
    item.session.id = {1, 1};
    item.sequence = 1;
    item.kv_head_count = 1;
    item.row_count = rows;
    item.head_dim = 16;
    item.keys = item.values = std::as_bytes(std::span(zeros));
    auto done = std::make_shared<std::promise<absl::Status>>();
    data.Append(index, std::move(request), seconds(60),
                [done](const absl::StatusOr<wire::AppendReply>& reply) {
                  done->set_value(reply.status());
                });
    return done->get_future();
  }

  base::ThreadExecutor executor{1, "asking"};
  wire::DataClient data;
  transport::UcxTransport transport{ShortSpin("tcp")};
  wire::DataClient::NodeIndex index = 0;
};

TEST(NodeAwayTest, AStoppedNodeIsNoticedWithoutTrafficAndComesBack) {
  const auto nodes = StartNodes(1, {"--threads", "1"});
  testing::internal::CaptureStderr();
  {
    Client client(nodes, "tcp", seconds(10), kQuick);
    const auto session = client->Open(TinySession(1));
    ASSERT_TRUE(session.ok()) << session.status();
    ASSERT_TRUE(AppendOnes(client.kv(), session->get(), 0, 4).ok());
    EXPECT_TRUE(client->Reachable(0).ok());

    nodes[0]->Stop();
    const auto stopped = Clock::now();
    EXPECT_TRUE(Eventually([&] { return !client->Reachable(0).ok(); }, kSoon));
    std::printf("noticed_stopped_node_seconds %.2f\n", SecondsSince(stopped));
    const auto asked = Clock::now();
    for (int i = 0; i < 100; ++i) {
      const absl::Status status = AttendTo(client.kv(), session->get(), 4);
      ASSERT_TRUE(absl::IsUnavailable(status)) << status;
      EXPECT_THAT(base::MessageOf(status),
                  AllOf(HasSubstr(nodes[0]->addresses().data), HasSubstr("is away, since"),
                        HasSubstr("it said nothing for")));
      EXPECT_TRUE(absl::IsUnavailable(client->Open(TinySession(100)).status()));
    }
    std::printf("seconds_of_200_requests_to_an_away_node %.3f\n", SecondsSince(asked));
    EXPECT_LT(SecondsSince(asked), 5) << "none waits for its deadline of 10 s";
    const Ran status =
        RunProgram("sounderctl", {"status", "--nodes", nodes[0]->control(), "--deadline", "300ms"});
    EXPECT_EQ(status.exit, 4);
    EXPECT_THAT(status.output, AllOf(HasSubstr(nodes[0]->control()), HasSubstr("away")));

    nodes[0]->Continue();
    const auto continued = Clock::now();
    EXPECT_TRUE(Eventually([&] { return client->Reachable(0).ok(); }, kSoon));
    std::printf("noticed_continued_node_seconds %.2f\n", SecondsSince(continued));
    EXPECT_TRUE(AttendTo(client.kv(), session->get(), 4).ok()) << "it lost nothing";
    EXPECT_TRUE(client->Close(session->get()).ok());

    // Killed and restarted at the same address.
    nodes[0]->Kill();
    EXPECT_TRUE(Eventually([&] {
      return absl::IsUnavailable(AttendTo(client.kv(), session->get(), 4)) &&
             !client->Reachable(0).ok();
    }));
    nodes[0]->Restart();
    EXPECT_TRUE(Eventually([&] { return client->Reachable(0).ok(); }, kSoon));
    const auto again = client->Open(TinySession(2));
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(AppendOnes(client.kv(), again->get(), 0, 4).ok());
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(CountOf(log, " is away: "), 2) << log;
  EXPECT_EQ(CountOf(log, " is back after "), 2) << log;
}

// Half of it sent at once, as far as the network takes it, half by rendezvous, which waits for the
// peer.
TEST(NodeAwayTest, ClosingAPeerThatHangsReturnsWhatWasQueuedForIt) {
  Node node({"--threads", "1"});
  Asking asking(node, kQuick);
  EXPECT_TRUE(asking.Append(1).get().ok()) << "answered, if with a refusal of its item";
  const auto resident = [] {
    ::malloc_trim(0);
    return ResidentKib(::getpid());
  };
  const int64_t before = resident();
  node.Stop();
  std::vector<std::future<absl::Status>> sent;
  for (int i = 0; i < 64; ++i) sent.push_back(asking.Append(4096));  // 512 KiB
  for (int i = 0; i < 4; ++i) sent.push_back(asking.Append(65536));  // 8 MiB
  const int64_t during = resident();
  for (std::future<absl::Status>& each : sent) {
    ASSERT_EQ(each.wait_for(kSoon), std::future_status::ready);
    EXPECT_TRUE(absl::IsUnavailable(each.get()));
  }
  int64_t after = 0;
  EXPECT_TRUE(Eventually([&] { return (after = resident()) < before + (12 << 10); }));
  std::printf("hung_peer_before_kib %ld\nhung_peer_during_kib %ld\nhung_peer_after_kib %ld\n",
              before, during, after);
  EXPECT_GT(during, before + (48 << 10));
}

// Several at once: a client that is stopped while the node has answers for it, and one that is
// well.
TEST(ClientAwayTest, AStoppedWorkerIsClosedAndTheOthersGoOn) {
  const auto nodes = StartNodes(1, kQuickNode);
  Client client(nodes, "tcp", seconds(5));
  Bystander bystander(&client.kv());
  ASSERT_TRUE(bystander.Works());
  const int descriptors = ResourcesOf(std::to_string(nodes[0]->process().pid())).descriptors;
  TemporaryFolder folder;
  const auto worker = EndlessWorker(folder, nodes[0]->control(), {"--ttl", "2s"});
  ASSERT_TRUE(Eventually([&] { return MetricOf(*nodes[0], "sounder_node_open_sessions") >= 5; },
                         seconds(20)));
  const int64_t resident = ResidentKib(nodes[0]->process().pid());
  worker->Signal(SIGSTOP);
  const auto stopped = Clock::now();
  EXPECT_TRUE(Eventually([&] { return SilentClosed(*nodes[0]) == 1; }, kSoon));
  std::printf("noticed_stopped_worker_seconds %.2f\n", SecondsSince(stopped));
  EXPECT_TRUE(Eventually([&] { return MetricOf(*nodes[0], "sounder_node_open_connections") == 1; }))
      << "closing a peer that hangs does not hang";
  // Its sessions go by their TTL, and what it held with them; its control connection stays until it
  // is idle for too long.
  EXPECT_TRUE(Eventually([&] { return MetricOf(*nodes[0], "sounder_node_open_sessions") <= 2; },
                         seconds(8)));
  EXPECT_TRUE(bystander.Works());
  worker->Signal(SIGKILL);
  EXPECT_TRUE(Eventually([&] {
    return ResourcesOf(std::to_string(nodes[0]->process().pid())).descriptors <= descriptors;
  })) << "descriptors";
  std::printf("resident_before_kib %ld\nresident_after_kib %ld\n", resident,
              ResidentKib(nodes[0]->process().pid()));
  EXPECT_EQ(CountOf(nodes[0]->process().Errors(), "silent for"), 1) << "once per event";
  bystander.Stop();
}

TEST(ClientAwayTest, AShortStopHarmsNobody) {
  const auto nodes = StartNodes(
      1, {"--threads", "1", "--heartbeat-interval", "100ms", "--heartbeat-timeout", "20s"});
  TemporaryFolder folder;
  const auto worker = EndlessWorker(folder, nodes[0]->control(), {"--deadline", "20s"});
  const auto attends = [&] { return MetricOf(*nodes[0], "sounder_node_attend_requests_total"); };
  ASSERT_TRUE(Eventually([&] { return attends() > 5; }, seconds(20)));
  worker->Signal(SIGSTOP);
  ::poll(nullptr, 0, 500);  // longer than the interval: it is probed meanwhile
  worker->Signal(SIGCONT);
  const double before = attends();
  EXPECT_TRUE(Eventually([&] { return attends() > before + 5; }));
  EXPECT_EQ(SilentClosed(*nodes[0]), 0);
  EXPECT_TRUE(worker->running());
}

// A cable that is pulled: in a network namespace of its own, which takes root.
TEST(ClientAwayTest, AHalfOpenConnectionIsClosed) {
  const std::string space = "sounder" + std::to_string(::getpid() % 10000);
  const std::string out = "so" + std::to_string(::getpid() % 10000);
  const std::string script =
      "ip netns add " + space + " && ip link add " + out + " type veth peer name in netns " +
      space + " && ip addr add 10.213.77.1/24 dev " + out + " && ip link set " + out +
      " up && ip -n " + space + " addr add 10.213.77.2/24 dev in && ip -n " + space +
      " link set in up && ip -n " + space + " link set lo up";
  const auto shell = [](const std::string& text) {
    Process process("sh", {"-c", text + " 2>/dev/null"});
    return process.Wait(seconds(5)) == 0;
  };
  const auto tidy = [&] { shell("ip netns del " + space + "; ip link del " + out); };
  if (!shell(script)) {
    tidy();
    GTEST_SKIP() << "no network namespace could be made here (it takes root and iproute2)";
  }
  {
    std::vector<std::unique_ptr<Node>> nodes;
    nodes.push_back(std::make_unique<Node>(
        kQuickNode, NodeAddresses{"10.213.77.1:0", "10.213.77.1:0", "127.0.0.1:0"}));
    Client client(nodes, "tcp", seconds(5));
    Bystander bystander(&client.kv());
    ASSERT_TRUE(bystander.Works());
    TemporaryFolder folder;
    Arguments arguments = {"netns", "exec", space, Binary("sounder_worker")};
    const Arguments worker_arguments = EndlessWorkerArguments(folder, nodes[0]->control(), {});
    arguments.insert(arguments.end(), worker_arguments.begin(), worker_arguments.end());
    Process worker("ip", arguments);
    EXPECT_TRUE(Eventually(
        [&] { return MetricOf(*nodes[0], "sounder_node_open_connections") == 2; }, seconds(20)))
        << worker.Errors();
    ASSERT_TRUE(shell("ip link set " + out + " down"));
    const auto cut = Clock::now();
    EXPECT_TRUE(Eventually([&] { return SilentClosed(*nodes[0]) == 1; }, kSoon));
    std::printf("noticed_half_open_seconds %.2f\n", SecondsSince(cut));
    EXPECT_TRUE(
        Eventually([&] { return MetricOf(*nodes[0], "sounder_node_open_connections") == 1; }));
    worker.Signal(SIGKILL);
    EXPECT_TRUE(bystander.Works());
    bystander.Stop();
  }
  tidy();
}

void OpenSession(const Node& node) {
  wire::SessionSpec spec;
  spec.session.id = {1, 1};
  spec.model = {"tiny", "abc123", 1, 1, 1, 16, "", "", ""};
  spec.dtype = base::DType::kF32;
  spec.seal_rows = spec.min_indexed_rows = 16;
  spec.kv_head_count = 1;
  ASSERT_TRUE(wire::ControlClient(node.control(), seconds(5)).Open(spec).ok());
}

TEST(ShutdownTest, WhatIsInFlightIsToldTheReasonWithinTheDeadline) {
  Node node({"--threads", "1", "--shutdown-deadline", "800ms"});
  OpenSession(node);
  Asking asking(node);
  EXPECT_TRUE(asking.Attend(0).get().ok());
  std::future<absl::Status> waiting = asking.Attend(9);  // for operations that never come
  EXPECT_TRUE(asking.Attend(0).get().ok());  // behind it on the same connection: that one was taken
  node.process().Signal(SIGTERM);
  const auto begin = Clock::now();
  // New requests are refused at once while that one is waited for.
  absl::Status late;
  EXPECT_TRUE(Eventually([&] { return !(late = asking.Attend(0).get()).ok(); }));
  EXPECT_LT(SecondsSince(begin), 0.6);
  EXPECT_TRUE(absl::IsUnavailable(late)) << late;
  EXPECT_THAT(base::MessageOf(late), HasSubstr("the node is shutting down"));
  EXPECT_EQ(HttpGet(node.addresses().http, "/readyz").status, 503);
  const absl::Status told = waiting.get();
  std::printf("shutdown_told_after_seconds %.2f\n", SecondsSince(begin));
  EXPECT_GE(SecondsSince(begin), 0.5) << "it had its time";
  EXPECT_TRUE(absl::IsUnavailable(told)) << told;
  EXPECT_THAT(base::MessageOf(told), HasSubstr("the node is shutting down"));
  EXPECT_EQ(node.process().Wait(seconds(5)), 0) << node.process().Errors();
  std::printf("shutdown_seconds %.2f\n", SecondsSince(begin));
  EXPECT_LT(SecondsSince(begin), 4);
}

TEST(ShutdownTest, ASecondSignalEndsItAtOnce) {
  Node node({"--threads", "1", "--shutdown-deadline", "60s"});
  OpenSession(node);
  Asking asking(node);
  std::future<absl::Status> waiting = asking.Attend(9);
  EXPECT_TRUE(asking.Attend(0).get().ok());  // behind it on the same connection: that one was taken
  node.process().Signal(SIGTERM);
  EXPECT_TRUE(Eventually([&] { return !asking.Attend(0).get().ok(); }));
  EXPECT_EQ(node.process().Wait(milliseconds(300)), std::nullopt) << "it waits for the request";
  node.process().Signal(SIGTERM);
  EXPECT_EQ(node.process().Wait(seconds(2)), -SIGTERM);
  EXPECT_TRUE(absl::IsUnavailable(waiting.get()));
}

}  // namespace
}  // namespace sounder::e2e
