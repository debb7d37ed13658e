// Sessions spread over nodes, as their worker sees them: appends in messages, windows, errors.
#include "gpu_worker/kv/kv_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "common/base/virtual_executor.h"
#include "common/wire/codec.h"
#include "common/wire/local_control.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/test_session.h"

namespace sounder::tests {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

class KvClientTest : public testing::Test {
 protected:
  void Start(LocalClusterOptions options) {
    cluster_ = std::make_unique<LocalCluster>(std::move(options), &executor_);
  }
  std::shared_ptr<gpu_worker::RemoteSession> Open(const gpu_worker::RemoteSessionOptions& options) {
    auto session = cluster_->client().Open(options);
    EXPECT_TRUE(session.ok()) << session.status();
    return *std::move(session);
  }
  gpu_worker::AttendQuery Ask(gpu_worker::RemoteSession* session, base::PositionRange range) {
    const std::vector<float> queries = GaussianQueries(kShape, 1, 4);
    std::vector<gpu_worker::AttendQuery> query{ExactQuery(session, queries, range)};
    cluster_->client().StartAttend(0, query)->Wait();
    query[0].queries = nullptr;
    return query[0];
  }
  double DistanceOf(const gpu_worker::AttendQuery& query, const TestRows& rows) {
    const std::vector<float> queries = GaussianQueries(kShape, 1, 4);
    return Distance(query, ReferenceOf(rows, 0, queries, query.range, query.scale));
  }

  static constexpr Shape kShape{2, 3, 2, 16, base::DType::kF32};
  base::VirtualExecutor executor_{1};
  const TestRows rows_ = TestRows::Gaussian(kShape, 200, 8);
  std::unique_ptr<LocalCluster> cluster_;
};

TEST_F(KvClientTest, AppendsAreCutIntoMessages) {
  LocalClusterOptions options;
  options.nodes = 3;
  // A row of two layers, three heads, keys and values is 768 bytes: ten rows to a message.
  options.client.append_message_bytes = 7700;
  Start(options);
  gpu_worker::RemoteSessionOptions session_options = SessionOptions(kShape, 1, 16);
  session_options.shard_rows = 32;
  const auto session = Open(session_options);
  ASSERT_TRUE(cluster_->client().Append(session.get(), rows_.Range({0, 90}, true)).ok());
  ASSERT_TRUE(cluster_->client().WaitAppended(session.get(), 90).ok());
  // Shards of 32, 32 and 26 rows in messages of ten at most.
  EXPECT_EQ(cluster_->client().counters().requests, 4u + 4u + 3u);
  uint64_t issued = 0;
  for (int node = 0; node < 3; ++node) issued += session->IssuedSequence(node);
  EXPECT_EQ(issued, 2 * 11u) << "one operation a layer";
  const gpu_worker::AttendQuery query = Ask(session.get(), {3, 90});
  ASSERT_TRUE(query.status.ok()) << query.status;
  EXPECT_LT(DistanceOf(query, rows_), 1e-5);
  EXPECT_EQ(query.rows_visible, 6u * 87);
  EXPECT_EQ(query.rows_exact, 6u * 87);
  EXPECT_EQ(query.rows_loaded, 3u * 87);
}

TEST_F(KvClientTest, AMessageLargerThanAskedForIsOneRow) {
  LocalClusterOptions options;
  options.client.append_message_bytes = 10;
  Start(options);
  const auto session = Open(SessionOptions(kShape, 1, 16));
  ASSERT_TRUE(cluster_->client().Append(session.get(), rows_.Range({0, 7}, false)).ok());
  ASSERT_TRUE(cluster_->client().WaitAppended(session.get(), 7).ok());
  EXPECT_EQ(cluster_->client().counters().requests, 7u);
}

TEST_F(KvClientTest, AppendsInFlightAreBounded) {
  LocalClusterOptions options;
  options.client.append_message_bytes = 768;
  options.client.append_window_bytes = 3 * 768;
  options.client.deadline = milliseconds(500);
  options.network.latency = milliseconds(10);
  Start(options);
  const auto session = Open(SessionOptions(kShape, 1, 16));
  const base::Time start = executor_.clock().Now();
  ASSERT_TRUE(cluster_->client().Append(session.get(), rows_.Range({0, 30}, false)).ok());
  // Three messages a round trip, and the last three on their way.
  EXPECT_GE(executor_.clock().Now() - start, milliseconds(9 * 20));
  EXPECT_LE(executor_.clock().Now() - start, milliseconds(10 * 20 + 30));

  cluster_->Freeze(0);
  const absl::Status stuck = cluster_->client().Append(session.get(), rows_.Range({30, 60}, false));
  EXPECT_FALSE(stuck.ok());
  EXPECT_THAT(stuck.ToString(), HasSubstr(cluster_->Address(0)));
  EXPECT_LE(session->IssuedSequence(0), 2 * 34u) << "goes on sending though nobody listens";
  cluster_->Thaw(0);
}

TEST_F(KvClientTest, AFailedAppendFailsTheSession) {
  LocalClusterOptions options;
  options.sessions.memory_bytes = 60000;
  options.client.append_message_bytes = 768;
  options.client.append_window_bytes = 768 * 4;
  Start(options);
  const auto session = Open(SessionOptions(kShape, 1, 16));
  const auto other = Open(SessionOptions(kShape, 2, 16));
  ASSERT_TRUE(cluster_->client().Append(other.get(), rows_.Range({0, 20}, false)).ok());
  const absl::Status full = cluster_->client().Append(session.get(), rows_.Range({0, 200}, false));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted) << full;
  EXPECT_THAT(full.ToString(), HasSubstr("node node0:7401: the node's memory is full"));
  EXPECT_LT(session->IssuedSequence(0), 2 * 100u) << "goes on sending though it has failed";
  EXPECT_EQ(cluster_->client().WaitAppended(session.get(), 1).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Ask(session.get(), {0, 5}).status.code(), absl::StatusCode::kResourceExhausted);
  const gpu_worker::AttendQuery query = Ask(other.get(), {0, 20});
  ASSERT_TRUE(query.status.ok()) << query.status;
  EXPECT_LT(DistanceOf(query, rows_), 1e-5) << "another session is unharmed";
  EXPECT_TRUE(cluster_->client().Close(session.get()).ok());
  EXPECT_TRUE(cluster_->client().Close(other.get()).ok());
  EXPECT_EQ(cluster_->MemoryUsed(), 0u);
}

TEST_F(KvClientTest, ALostAppendDoesNotMakeTheNodeLookDead) {
  LocalClusterOptions options;
  options.client.deadline = options.control_deadline = options.close_deadline =
      std::chrono::seconds(2);
  bool lose = false;
  options.client_tap = [&](const transport::Message& message) {
    const auto envelope = wire::DecodeEnvelope(message);
    return !(lose && envelope.ok() && envelope->kind == wire::MessageKind::kAppend);
  };
  Start(options);
  const auto session = Open(SessionOptions(kShape, 1, 16));
  const auto other = Open(SessionOptions(kShape, 2, 16));
  ASSERT_TRUE(cluster_->client().Append(other.get(), rows_.Range({0, 20}, false)).ok());
  lose = true;
  ASSERT_TRUE(cluster_->client().Append(session.get(), rows_.Range({0, 20}, false)).ok());
  lose = false;
  // Not known to be lost yet: the append's own deadline is waited for, and nothing else.
  const base::Time start = executor_.clock().Now();
  const absl::Status closed = cluster_->client().Close(session.get());
  EXPECT_TRUE(closed.ok()) << closed;
  EXPECT_LE(executor_.clock().Now() - start, milliseconds(2010));
  EXPECT_FALSE(session->status().ok());
  const absl::Status second = cluster_->client().Close(other.get());
  EXPECT_TRUE(second.ok()) << second;
  EXPECT_EQ(cluster_->MemoryUsed(), 0u);
}

TEST_F(KvClientTest, ASessionThatIsGoneIsClosed) {
  LocalClusterOptions options;
  options.nodes = 2;
  Start(options);
  gpu_worker::RemoteSessionOptions session_options = SessionOptions(kShape, 1, 16);
  session_options.head_shards = 2;
  const auto session = Open(session_options);
  ASSERT_TRUE(cluster_->Control(0)->Close({session->ref(), 0}).ok());
  const absl::Status closed = cluster_->client().Close(session.get());
  EXPECT_TRUE(closed.ok()) << closed;
  EXPECT_EQ(cluster_->Sessions(), 0u);
}

TEST_F(KvClientTest, WaitingForAcknowledgementsNamesTheNode) {
  LocalClusterOptions options;
  options.client.deadline = milliseconds(300);
  Start(options);
  const auto session = Open(SessionOptions(kShape, 1, 16));
  cluster_->Freeze(0);
  ASSERT_TRUE(cluster_->client().Append(session.get(), rows_.Range({0, 5}, false)).ok());
  EXPECT_TRUE(cluster_->client().WaitAppended(session.get(), 0).ok()) << "nothing is asked for";
  const base::Time start = executor_.clock().Now();
  const absl::Status late = cluster_->client().WaitAppended(session.get(), 5);
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded) << late;
  EXPECT_THAT(late.ToString(), HasSubstr("node0:7401"));
  EXPECT_LE(executor_.clock().Now() - start, milliseconds(300));
  cluster_->Thaw(0);
}

TEST_F(KvClientTest, ARefusedOpenTouchesNoSessionOfOthers) {
  LocalClusterOptions options;
  options.nodes = 2;
  Start(options);
  gpu_worker::RemoteSessionOptions mine = SessionOptions(kShape, 1, 16);
  mine.head_shards = 2;
  const auto session = Open(mine);
  ASSERT_TRUE(cluster_->client().Append(session.get(), rows_.Range({0, 20}, false)).ok());
  gpu_worker::RemoteSessionOptions other = mine;
  other.model.weights_digest = "another";
  const absl::Status refused = cluster_->client().Open(other).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_THAT(refused.ToString(),
              HasSubstr("weights digest '0123456789abcdef', the request 'another'"));
  EXPECT_EQ(cluster_->Sessions(), 2u) << "one on each node";
  EXPECT_TRUE(Ask(session.get(), {0, 20}).status.ok());
}

TEST_F(KvClientTest, AnOpenThatFailsHalfWayLeavesNothing) {
  LocalClusterOptions options;
  options.nodes = 3;
  options.control_deadline = milliseconds(200);
  Start(options);
  gpu_worker::RemoteSessionOptions session = SessionOptions(kShape, 1, 16);
  session.head_shards = 3;
  cluster_->Freeze(2);
  const absl::Status status = cluster_->client().Open(session).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(status.ToString(), HasSubstr(cluster_->Address(2)));
  cluster_->Thaw(2);  // now it does what it was asked to
  for (const auto& node : cluster_->client().NodeStatuses()) EXPECT_TRUE(node.ok());
  EXPECT_EQ(cluster_->Sessions(), 0u);
}

TEST_F(KvClientTest, RowCountsAreOfOneAnswer) {
  Start({});
  const auto session = Open(SessionOptions(kShape, 1, 16));
  ASSERT_TRUE(cluster_->client().Append(session.get(), rows_.Range({0, 20}, false)).ok());
  const std::vector<float> queries = GaussianQueries(kShape, 1, 4);
  std::vector<gpu_worker::AttendQuery> query{ExactQuery(session.get(), queries, {0, 20})};
  for (int i = 0; i < 2; ++i) {
    cluster_->client().StartAttend(0, query)->Wait();
    EXPECT_EQ(query[0].rows_visible, 6u * 20);
  }
}

TEST_F(KvClientTest, MoreItemsThanAMessageHolds) {
  LocalClusterOptions options;
  options.nodes = 2;
  Start(options);
  gpu_worker::RemoteSessionOptions session_options = SessionOptions(kShape, 1, 16);
  session_options.shard_rows = 16;  // [0, 40) is three items, two of them on one node
  const auto session = Open(session_options);
  ASSERT_TRUE(cluster_->client().Append(session.get(), rows_.Range({0, 40}, false)).ok());
  ASSERT_TRUE(cluster_->client().WaitAppended(session.get(), 40).ok());
  const uint64_t before = cluster_->client().counters().requests;
  const std::vector<float> queries = GaussianQueries(kShape, 1, 4);
  constexpr size_t kQueries = base::kMaxItems / 2 + 1;
  std::vector<gpu_worker::AttendQuery> many(kQueries, ExactQuery(session.get(), queries, {0, 40}));
  cluster_->client().StartAttend(0, many)->Wait();
  EXPECT_EQ(cluster_->client().counters().requests - before, 2u + 1u);
  const Reference reference = ReferenceOf(rows_, 0, queries, {0, 40}, many[0].scale);
  for (const gpu_worker::AttendQuery& query : many) {
    ASSERT_TRUE(query.status.ok()) << query.status;
    ASSERT_LT(Distance(query, reference), 1e-5);
    ASSERT_EQ(query.rows_visible, 6u * 40);
  }
}

TEST_F(KvClientTest, MoreBytesThanAMessageHolds) {
  LocalClusterOptions options;
  options.client.attend_message_bytes = 2000;  // an item takes 512, and 6 x 17 floats in its answer
  Start(options);
  const auto session = Open(SessionOptions(kShape, 1, 16));
  ASSERT_TRUE(cluster_->client().Append(session.get(), rows_.Range({0, 40}, false)).ok());
  ASSERT_TRUE(cluster_->client().WaitAppended(session.get(), 40).ok());
  const uint64_t before = cluster_->client().counters().requests;
  const std::vector<float> queries = GaussianQueries(kShape, 1, 4);
  std::vector<gpu_worker::AttendQuery> five(5, ExactQuery(session.get(), queries, {0, 40}));
  cluster_->client().StartAttend(0, five)->Wait();
  EXPECT_EQ(cluster_->client().counters().requests - before, 3u) << "two to a message";
  for (const gpu_worker::AttendQuery& query : five) {
    ASSERT_TRUE(query.status.ok()) << query.status;
    EXPECT_LT(DistanceOf(query, rows_), 1e-5);
  }
}

TEST_F(KvClientTest, AQueryThatFitsInNoMessageIsRefused) {
  Start({});
  constexpr Shape kLarge{1, 1, base::kMaxGroup, base::kMaxHeadDim, base::DType::kBF16};
  const auto session = Open(SessionOptions(kLarge, 1, 16));
  const std::vector<float> queries(kLarge.query_heads() * kLarge.dim);
  gpu_worker::AttendQuery query = ExactQuery(session.get(), queries, {0, 4});
  query.query_count = base::kMaxQueryBlock;  // its answer alone is 257 MiB
  std::vector<gpu_worker::AttendQuery> one{query};
  cluster_->client().StartAttend(0, one)->Wait();
  EXPECT_EQ(one[0].status.code(), absl::StatusCode::kInvalidArgument) << one[0].status;
  EXPECT_THAT(one[0].status.ToString(), HasSubstr("4096 queries"));
}

TEST_F(KvClientTest, RowsMayLieApart) {
  LocalClusterOptions options;
  options.client.append_message_bytes = 7700;  // ten rows
  Start(options);
  const auto session = Open(SessionOptions(kShape, 1, 16));
  // As engines keep them: the heads of a position beside each other.
  constexpr size_t kRow = kShape.dim * sizeof(float);
  constexpr size_t kPosition = kShape.kv_heads * kRow;
  std::vector<std::byte> interleaved(size_t{2} * kShape.layers * 90 * kPosition);
  const auto place = [&](bool values, uint32_t layer, uint32_t head) {
    return interleaved.data() + (values * kShape.layers + layer) * 90 * kPosition + head * kRow;
  };
  for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
    for (uint32_t head = 0; head < kShape.kv_heads; ++head) {
      for (int64_t row = 0; row < 90; ++row) {
        std::memcpy(place(false, layer, head) + row * kPosition,
                    rows_.Keys(layer, head).data + row * kRow, kRow);
        std::memcpy(place(true, layer, head) + row * kPosition,
                    rows_.Values(layer, head).data + row * kRow, kRow);
      }
    }
  }
  gpu_worker::AppendRows append;
  append.row_count = 90;
  append.rows = [&](uint32_t layer, uint32_t head) {
    const size_t bytes = 89 * kPosition + kRow;
    return gpu_worker::AppendRows::Head{
        {place(false, layer, head), bytes}, {place(true, layer, head), bytes}, kPosition};
  };
  ASSERT_TRUE(cluster_->client().Append(session.get(), append).ok());
  const gpu_worker::AttendQuery query = Ask(session.get(), {3, 90});
  ASSERT_TRUE(query.status.ok()) << query.status;
  EXPECT_LT(DistanceOf(query, rows_), 1e-5);
}

TEST_F(KvClientTest, TellsWhenAnAttendIsAnswered) {
  LocalClusterOptions options;
  options.nodes = 2;
  options.client.deadline = milliseconds(300);
  Start(options);
  gpu_worker::RemoteSessionOptions session_options = SessionOptions(kShape, 1, 16);
  session_options.shard_rows = 16;
  const auto session = Open(session_options);
  ASSERT_TRUE(cluster_->client().Append(session.get(), rows_.Range({0, 40}, false)).ok());
  const std::vector<float> queries = GaussianQueries(kShape, 1, 4);
  // Without a row to attend to, with rows, and with a node that does not answer.
  for (const bool frozen : {false, true}) {
    if (frozen) cluster_->Freeze(0);
    for (const base::Position end : {0, 40}) {
      std::vector<gpu_worker::AttendQuery> query{ExactQuery(session.get(), queries, {0, end})};
      int told = 0;
      std::unique_ptr<gpu_worker::KvClient::PendingAttend> pending;
      pending = cluster_->client().StartAttend(0, query, [&] {
        ++told;
        EXPECT_TRUE(pending->Answered());
        pending->Wait();
        EXPECT_EQ(query[0].status.ok(), !frozen || end == 0) << query[0].status;
      });
      EXPECT_EQ(told, 0) << "called inside StartAttend";
      EXPECT_EQ(pending->Answered(), end == 0);
      EXPECT_TRUE(executor_.RunUntil([&] { return told > 0; }));
      if (!frozen && end > 0) {
        EXPECT_LT(DistanceOf(query[0], rows_), 1e-5);
      }
      pending.reset();
      EXPECT_EQ(told, 1);
    }
  }
  cluster_->Thaw(0);
  // Whoever gives up its answer still hears of its end, before the destructor returns.
  std::vector<gpu_worker::AttendQuery> query{ExactQuery(session.get(), queries, {0, 40})};
  bool told = false;
  cluster_->client().StartAttend(0, query, [&] { told = true; }).reset();
  EXPECT_TRUE(told);
}

TEST_F(KvClientTest, OneNodeUnderTwoNamesIsRefused) {
  Start({});
  transport::LoopbackFabric fabric(&executor_);
  transport::LoopbackTransport transport(&fabric);
  std::vector<std::unique_ptr<wire::ControlChannel>> nodes;
  nodes.push_back(cluster_->Control(0));
  nodes.push_back(cluster_->Control(0));
  const absl::Status status =
      gpu_worker::KvClient::Create({}, std::move(nodes), &transport, &executor_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(status.ToString(), HasSubstr("node0:7401 are one"));
}

TEST_F(KvClientTest, AnotherProtocolVersionIsRefused) {
  class OldNode final : public wire::ControlService {
   public:
    void Status(wire::Reply<wire::NodeStatus> reply) override {
      wire::NodeStatus status;
      status.protocol_version = 77;
      reply(status);
    }
    void Open(const wire::SessionSpec&, wire::Reply<wire::OpenResult>) override {}
    void Close(const wire::SessionOp&, wire::StatusReply) override {}
    void Fork(const wire::ForkCall&, wire::StatusReply) override {}
    void Truncate(const wire::SessionOp&, base::Position, wire::StatusReply) override {}
    void Adopt(const wire::AdoptCall&, wire::Reply<wire::SessionInfo>) override {}
    void Describe(const wire::DescribeCall&, wire::Reply<wire::SessionInfo>) override {}
    void List(wire::Reply<std::vector<wire::SessionInfo>>) override {}
    void Pin(const wire::PinCall&, wire::StatusReply) override {}
    void Spill(const base::SessionId&, wire::StatusReply) override {}
    void Load(const base::SessionId&, wire::StatusReply) override {}
    void Drain(bool, wire::StatusReply) override {}
  } old;
  transport::LoopbackFabric fabric(&executor_);
  transport::LoopbackTransport transport(&fabric);
  std::vector<std::unique_ptr<wire::ControlChannel>> nodes;
  nodes.push_back(std::make_unique<wire::LocalControl>(
      "old:7400", [&old] { return &old; }, &executor_, milliseconds(100)));
  const absl::Status status =
      gpu_worker::KvClient::Create({}, std::move(nodes), &transport, &executor_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.ToString(), HasSubstr("node old:7400 speaks version 77, this worker"));
  EXPECT_EQ(gpu_worker::KvClient::Create({}, {}, &transport, &executor_).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sounder::tests
