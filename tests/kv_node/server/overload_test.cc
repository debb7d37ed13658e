// A node over the loopback fabric, in virtual time, that is asked for one, two and three times of
// what it can do: it does as much as it can, refuses the rest at once, and its queues and memory
// stay within their bounds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/config/logging.h"
#include "common/transport/loopback_transport.h"
#include "common/wire/data_client.h"
#include "kv_node/server/data_server.h"
#include "tests/kv_node/server/timed_executor.h"
#include "tests/kv_node/session/session_driver.h"

namespace sounder::kv_node {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr int kThreads = 2;
constexpr auto kDeadline = milliseconds(25);
constexpr auto kLatency = microseconds(50);

// Sends when the work that sends has come so far, and not when it began.
class PutOffTransport final : public transport::Transport {
 public:
  PutOffTransport(transport::Transport* inner, base::VirtualExecutor* time, base::Clock* clock)
      : inner_(inner), time_(time), clock_(clock) {}
  absl::Status Start(transport::TransportEvents* events) override { return inner_->Start(events); }
  absl::StatusOr<std::string> Listen(const std::string& address) override {
    return inner_->Listen(address);
  }
  absl::StatusOr<transport::ConnectionId> Connect(const std::string& address) override {
    return inner_->Connect(address);
  }
  void Send(transport::ConnectionId connection, transport::Message message,
            transport::SendMode mode, transport::SendDone done) override {
    auto held = std::make_shared<transport::Message>(std::move(message));
    time_->RunAt(clock_->Now(), [=, this, done = std::move(done)] {
      inner_->Send(connection, std::move(*held), mode, done);
    });
  }
  void Close(transport::ConnectionId connection) override { inner_->Close(connection); }
  absl::StatusOr<transport::ConnectionInfo> Describe(transport::ConnectionId connection) override {
    return inner_->Describe(connection);
  }

 private:
  transport::Transport* const inner_;
  base::VirtualExecutor* const time_;
  base::Clock* const clock_;
};

struct Outcome {
  int asked = 0;
  int good = 0;     // answered in time
  int refused = 0;  // RESOURCE_EXHAUSTED
  int other = 0;    // late, one way or another
  std::vector<base::Duration> until_refused;
  double most_admitted = 0;
  double most_message_bytes = 0;
  size_t most_queued = 0;  // on the executor
  uint64_t most_memory = 0;
};

class Overload {
 public:
  struct Limits {
    uint64_t max_attends = 64;
    uint64_t message_bytes = uint64_t{2} << 20;
  };
  explicit Overload(uint64_t seed) : Overload(seed, Limits()) {}
  Overload(uint64_t seed, Limits limits)
      : time_(seed),
        random_(seed, 9),
        limits_(limits),
        executor_(&time_, kThreads, microseconds(25)) {
    config::SetLogLevel(config::LogLevel::kError);
    EXPECT_TRUE(transport_.Start(&server_).ok());
    EXPECT_TRUE(transport_.Listen("node:1").ok());
    EXPECT_TRUE(map_.Open(spec_).ok());
    for (Client& client : clients_) {
      client.transport = std::make_unique<transport::LoopbackTransport>(&fabric_, "client:0");
      client.data = std::make_unique<wire::DataClient>(client.transport.get(), &time_,
                                                       wire::DataClientOptions{.retry = false});
      EXPECT_TRUE(client.transport->Start(client.data.get()).ok());
      client.data->AddNode("node:1");
    }
    Fill();
  }
  ~Overload() {
    for (Client& client : clients_) client.transport = nullptr;
    server_.Stop();
    map_.CloseAll(absl::UnavailableError("over"));
    Settle();
    node_ = nullptr;  // before the server it tells of its end
  }

  // Attends of all rows for `duration`, so many a second in the mean, over all clients.
  Outcome Ask(double per_second, base::Duration duration) {
    outcome_ = Outcome();
    end_ = time_.clock().Now() + duration;
    for (Client& client : clients_) {
      Next(&client, static_cast<double>(std::size(clients_)) / per_second);
    }
    Watch();
    Settle();
    outcome_.most_queued = executor_.most_queued();
    EXPECT_EQ(outcome_.asked, outcome_.good + outcome_.refused + outcome_.other);
    EXPECT_EQ(Metric("sounder_node_admitted_attend_requests"), 0);
    EXPECT_EQ(Metric("sounder_node_message_bytes"), 0);
    return outcome_;
  }
  // What comes through, one after the other on all threads, without deadlines.
  double Capacity() {
    constexpr int kRequests = 400;
    int answered = 0;
    int asked = 0;
    std::function<void()> next = [&] {
      if (asked++ >= kRequests) return;
      clients_[0].data->Attend(0, Request(), std::chrono::seconds(60),
                               [&](const absl::StatusOr<wire::AttendReply>& reply) {
                                 EXPECT_TRUE(reply.ok() && reply->envelope.status.ok());
                                 ++answered;
                                 next();
                               });
    };
    const base::Time begin = time_.clock().Now();
    for (int i = 0; i < 4; ++i) next();
    time_.RunUntil([&] { return answered == kRequests; });
    const base::Duration took = time_.clock().Now() - begin;
    Settle();
    return kRequests / std::chrono::duration<double>(took).count();
  }
  double Metric(const std::string& name) const {
    const std::string text = registry_.Exposition();
    const size_t at = text.find("\n" + name + " ");
    return at == std::string::npos ? 0 : std::stod(text.substr(at + name.size() + 2));
  }

 private:
  struct Client {
    std::unique_ptr<transport::LoopbackTransport> transport;
    std::unique_ptr<wire::DataClient> data;
  };
  wire::AttendRequest Request() {
    wire::AttendRequest request;
    wire::AttendItem& item = request.items.emplace_back();
    item.session = spec_.session;
    item.sequence = 1;
    item.kv_head_count = 2;
    item.group = 2;
    item.query_count = 1;
    item.head_dim = 16;
    item.range = {0, 320};
    item.layout_position = 320;
    item.queries = zeros_.bytes().first(4 * 16 * 4);
    return request;
  }
  // 20 segments of two heads: 40 units, about a millisecond of thread time.
  void Fill() {
    wire::AppendItem item;
    item.session = spec_.session;
    item.sequence = 1;
    item.kv_head_count = 2;
    item.row_count = 320;
    item.head_dim = 16;
    item.dtype = base::DType::kBF16;
    item.keys = item.values = zeros_.bytes().first(2 * 320 * 16 * 2);
    (*map_.Find(spec_.session.id))->Append(item, base::kNever, [](const AppendResult& result) {
      EXPECT_TRUE(result.status.ok()) << result.status;
    });
    Settle();
  }
  void Next(Client* client, double mean_seconds) {
    const double wait = -mean_seconds * std::log(1 - random_.NextUniform());
    const base::Time when = time_.clock().Now() + base::Duration(static_cast<int64_t>(1e9 * wait));
    if (when >= end_) return;
    time_.RunAt(when, [=, this] {
      ++outcome_.asked;
      client->data->Attend(0, Request(), kDeadline,
                           [this, when](const absl::StatusOr<wire::AttendReply>& reply) {
                             Note(reply.ok() ? reply->envelope.status : reply.status(), when);
                           });
      Next(client, mean_seconds);
    });
  }
  void Note(const absl::Status& status, base::Time asked) {
    if (status.ok()) {
      ++outcome_.good;
    } else if (absl::IsResourceExhausted(status)) {
      ++outcome_.refused;
      outcome_.until_refused.push_back(time_.clock().Now() - asked);
    } else {
      EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
      ++outcome_.other;
    }
  }
  void Watch() {
    if (time_.clock().Now() >= end_) return;
    outcome_.most_admitted =
        std::max(outcome_.most_admitted, Metric("sounder_node_admitted_attend_requests"));
    outcome_.most_message_bytes =
        std::max(outcome_.most_message_bytes, Metric("sounder_node_message_bytes"));
    outcome_.most_memory = std::max(outcome_.most_memory, map_.budget().used());
    time_.RunAt(time_.clock().Now() + milliseconds(1), [this] { Watch(); });
  }
  void Settle() {
    time_.RunUntil([] { return false; });
  }

  base::VirtualExecutor time_;
  base::PhiloxStream random_;
  const Limits limits_;
  const memory::AlignedBuffer zeros_ = memory::AlignedBuffer::Zeroed(1 << 16);
  TimedExecutor executor_;
  transport::LoopbackFabric fabric_{&time_, {.latency = kLatency}};
  const wire::SessionSpec spec_ = SessionDriver::Spec(1);
  SessionMap map_{{.memory_bytes = uint64_t{1} << 20}, &executor_};
  metrics::Registry registry_;
  ServerProbe probe_{registry_, map_};
  std::unique_ptr<transport::LoopbackTransport> node_ =
      std::make_unique<transport::LoopbackTransport>(&fabric_, "node:1");
  PutOffTransport transport_{node_.get(), &time_, &executor_.clock()};
  DataServer server_{
      &transport_,
      &map_,
      &executor_,
      kThreads,
      &probe_,
      {},
      {.intake = {.message_bytes = limits_.message_bytes}, .max_attends = limits_.max_attends}};
  Client clients_[4];
  base::Time end_{};
  Outcome outcome_;
};

base::Duration Percentile99(std::vector<base::Duration> values) {
  if (values.empty()) return base::Duration(0);
  const size_t at = values.size() * 99 / 100;
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(at), values.end());
  return values[at];
}

void Print(double factor, const Outcome& outcome) {
  std::printf(
      "load %.0f: asked %d good %d refused %d other %d; refused within %lld us (p99); at most %.0f "
      "admitted, %.0f bytes of messages, %zu on the executor\n",
      factor, outcome.asked, outcome.good, outcome.refused, outcome.other,
      static_cast<long long>(Percentile99(outcome.until_refused).count() / 1000),
      outcome.most_admitted, outcome.most_message_bytes, outcome.most_queued);
}

TEST(OverloadTest, GoodputHoldsRefusalsAreImmediateAndQueuesBounded) {
  for (const uint64_t seed : {1, 2, 3}) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Overload node(seed);
    const double capacity = node.Capacity();
    std::printf("seed %llu: capacity %.0f a second\n", static_cast<unsigned long long>(seed),
                capacity);
    int peak = 0;
    for (const double factor : {1.0, 2.0, 3.0}) {
      const Outcome outcome = node.Ask(factor * capacity, std::chrono::seconds(1));
      Print(factor, outcome);
      peak = std::max(peak, outcome.good);
      EXPECT_GE(outcome.good, 0.9 * peak);
      EXPECT_GE(outcome.good, 0.85 * capacity);
      EXPECT_LE(outcome.other, 0.1 * outcome.asked);
      EXPECT_LE(Percentile99(outcome.until_refused), kDeadline / 10);
      EXPECT_LE(outcome.most_admitted, 64);
      EXPECT_LE(outcome.most_message_bytes, 2 << 20);
      EXPECT_LE(outcome.most_queued, 64u + kThreads * 2) << "plans of the admitted, and runners";
      EXPECT_LE(outcome.most_memory, 1u << 20);
      if (factor > 1.5) {
        EXPECT_GT(outcome.refused, 0.3 * outcome.asked);
      }
    }
    const double refused = node.Metric("sounder_node_refused_requests_total{reason=\"deadline\"}") +
                           node.Metric("sounder_node_refused_requests_total{reason=\"queue\"}");
    EXPECT_GT(refused, 0) << "counted";
  }
}

// With bounds tighter than the deadline they decide, and nothing else changes.
TEST(OverloadTest, BoundsAreReachedAndHold) {
  Overload node(4, {.max_attends = 12, .message_bytes = uint64_t{256} << 10});
  const double capacity = node.Capacity();
  const Outcome outcome = node.Ask(3 * capacity, std::chrono::seconds(1));
  Print(3, outcome);
  EXPECT_GE(outcome.good, 0.9 * capacity);
  EXPECT_LE(outcome.most_admitted, 12);
  EXPECT_GE(outcome.most_admitted, 9) << "four clients leave a fifth free";
  EXPECT_LE(outcome.most_message_bytes, 256 << 10);
  EXPECT_GT(node.Metric("sounder_node_refused_requests_total{reason=\"queue\"}"), 0);
}

}  // namespace
}  // namespace sounder::kv_node
