// What the worker's client does with the nodes' credit and their refusals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <memory>

#include "common/base/virtual_executor.h"
#include "common/policy/append_credit.h"
#include "common/wire/codec.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/test_session.h"

namespace sounder::gpu_worker {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using tests::LocalClusterOptions;

constexpr uint64_t kMiB = uint64_t{1} << 20;

TEST(RemoteSessionTest, CreditIsPerNodeAndNeverStopsTheFirst) {
  base::VirtualExecutor executor(1);
  const tests::Shape shape;
  const auto placement = policy::Placement::Create({.num_nodes = 2}, 1, 16, {1, 1});
  RemoteSession session(tests::SessionOptions(shape, 1, 16), *placement, nullptr, 2, &executor,
                        100);
  const auto may = [&](int node, uint64_t bytes) {
    return session.WaitForCredit(node, bytes, milliseconds(10));
  };
  EXPECT_TRUE(may(0, 1000)) << "nothing is in flight";
  const uint64_t first = session.NextSequence(0, 0, 60);
  EXPECT_TRUE(may(0, 40));
  EXPECT_FALSE(may(0, 41));
  EXPECT_TRUE(may(1, 100)) << "another node's";
  const uint64_t second = session.NextSequence(0, 10, 40);
  EXPECT_FALSE(may(0, 1));
  session.OnAppended(0, first, 60, 50, absl::OkStatus());  // shrinks to 50, 40 are in flight
  EXPECT_EQ(session.Credit(0), 50u);
  EXPECT_TRUE(may(0, 10));
  EXPECT_FALSE(may(0, 11));
  session.OnAppended(0, second, 40, 0, absl::OkStatus());  // as before
  EXPECT_EQ(session.Credit(0), 50u);
  session.NextSequence(0, 20, 40);
  // Grows while somebody waits.
  executor.RunAt(executor.clock().Now() + milliseconds(5),
                 [&] { session.OnAppended(0, second, 0, 500, absl::OkStatus()); });
  EXPECT_TRUE(may(0, 400));
}

class FlowTest : public testing::Test {
 protected:
  void Start(const LocalClusterOptions& options) {
    cluster_ = std::make_unique<tests::LocalCluster>(options, &executor_);
  }
  std::shared_ptr<RemoteSession> Open(const RemoteSessionOptions& options) {
    const auto session = cluster_->client().Open(options);
    EXPECT_TRUE(session.ok()) << session.status();
    return *session;
  }
  // Exact attention to all rows, against the reference.
  void ExpectAllThere(RemoteSession* session, const tests::TestRows& rows) {
    const std::vector<float> queries = tests::GaussianQueries(rows.shape(), 1, 3);
    std::vector<AttendQuery> query{tests::ExactQuery(session, queries, {0, rows.positions()})};
    cluster_->client().StartAttend(0, query)->Wait();
    ASSERT_TRUE(query[0].status.ok()) << query[0].status;
    EXPECT_LT(tests::Distance(query[0], tests::ReferenceOf(rows, 0, queries, {0, rows.positions()},
                                                           query[0].scale)),
              1e-4);
  }

  base::VirtualExecutor executor_{7};
  std::unique_ptr<tests::LocalCluster> cluster_;
};

// A node whose memory fills up grants less and less; what is sent in one round trip is what is in
// flight.
TEST_F(FlowTest, NoMoreIsInFlightThanTheNodeGrants) {
  constexpr auto kRoundTrip = milliseconds(20);
  LocalClusterOptions options;
  options.network.latency = kRoundTrip / 2;
  options.sessions.memory_bytes = 12 * kMiB;
  options.client.append_message_bytes = 256 << 10;
  std::deque<std::pair<base::Time, uint64_t>> sent;
  uint64_t in_flight = 0;
  uint64_t most = 0;
  options.client_tap = [&](const transport::Message& message) {
    if (wire::DecodeEnvelope(message)->kind != wire::MessageKind::kAppend) return true;
    const base::Time now = executor_.clock().Now();
    for (; !sent.empty() && sent.front().first <= now - kRoundTrip; sent.pop_front()) {
      in_flight -= sent.front().second;
    }
    sent.emplace_back(now, message.payload.size());
    in_flight += message.payload.size();
    most = std::max(most, in_flight);
    return true;
  };
  Start(options);
  const tests::Shape shape{1, 8, 1, 128, base::DType::kF32};
  const tests::TestRows rows = tests::TestRows::Gaussian(shape, 1000, 1);  // 7.8 MiB
  const auto session = Open(tests::SessionOptions(shape, 1, 64));
  EXPECT_EQ(session->Credit(0), policy::kFirstAppendCredit);
  const absl::Status status =
      cluster_->client().Append(session.get(), rows.Range({0, 1000}, false));
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_TRUE(cluster_->client().WaitAppended(session.get(), 1000).ok());
  EXPECT_LE(most, 5 * kMiB) << "a part of 64 MiB of the worker's own window";
  EXPECT_GE(most, 3 * kMiB);
  EXPECT_LE(session->Credit(0), 5 * kMiB / 2) << "shrinks with the free memory";
  ExpectAllThere(session.get(), rows);
}

// The node has room for two messages: the others are refused, and come again until they are taken.
TEST_F(FlowTest, RefusedAppendsComeAgainAndNothingIsLostOrTwice) {
  LocalClusterOptions options;
  options.network.latency = milliseconds(1);
  options.server.intake.message_bytes = 40000;
  options.client.append_message_bytes = 8000;
  Start(options);
  const tests::Shape shape{1, 2, 2, 16, base::DType::kF32};
  const tests::TestRows rows = tests::TestRows::Gaussian(shape, 400, 1);
  const auto session = Open(tests::SessionOptions(shape, 1, 16));
  ASSERT_TRUE(cluster_->client().Append(session.get(), rows.Range({0, 400}, false)).ok());
  const absl::Status status = cluster_->client().WaitAppended(session.get(), 400);
  ASSERT_TRUE(status.ok()) << status;
  const wire::DataClientCounters counters = cluster_->client().counters();
  std::printf("%llu refusals, %llu retries of %llu requests\n",
              static_cast<unsigned long long>(counters.refusals),
              static_cast<unsigned long long>(counters.retries),
              static_cast<unsigned long long>(counters.requests));
  EXPECT_GT(counters.retries, 0u);
  ExpectAllThere(session.get(), rows);
}

TEST_F(FlowTest, WhatTheNodeCanNeverTakeFailsTheSessionAtOnce) {
  LocalClusterOptions options;
  options.server.intake.message_bytes = 6000;
  Start(options);
  const tests::Shape shape{1, 2, 2, 16, base::DType::kF32};
  const tests::TestRows rows = tests::TestRows::Gaussian(shape, 400, 1);
  const auto session = Open(tests::SessionOptions(shape, 1, 16));
  const base::Time begin = executor_.clock().Now();
  cluster_->client().Append(session.get(), rows.Range({0, 400}, false)).IgnoreError();
  const absl::Status status = cluster_->client().WaitAppended(session.get(), 400);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(status.ToString(), HasSubstr("node node0:7401: a request of"));
  EXPECT_THAT(status.ToString(), HasSubstr("--message-memory"));
  EXPECT_LT(executor_.clock().Now() - begin, milliseconds(100));
}

}  // namespace
}  // namespace sounder::gpu_worker
