// A node's two planes: messages that are no requests, and what the control plane answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/virtual_executor.h"
#include "common/wire/codec.h"
#include "kv_node/server/node_service.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/test_session.h"

namespace sounder::tests {
namespace {

using ::testing::HasSubstr;

// Somebody with a transport and no manners.
class Stranger final : public transport::TransportEvents {
 public:
  Stranger(transport::LoopbackFabric* fabric) : transport_(fabric, "stranger:0") {
    EXPECT_TRUE(transport_.Start(this).ok());
  }
  void OnAccept(transport::ConnectionId, const std::string&) override {}
  void OnMessage(transport::ConnectionId, transport::Message message) override {
    answers.push_back(std::move(message));
  }
  void OnClosed(transport::ConnectionId, absl::Status) override { ++closed; }
  void Send(const std::string& address, transport::Message message) {
    transport_.Send(*transport_.Connect(address), std::move(message), transport::SendMode::kEager,
                    nullptr);
  }

  std::vector<transport::Message> answers;
  int closed = 0;

 private:
  transport::LoopbackTransport transport_;
};

class NodeTest : public testing::Test {
 protected:
  void Settle() { executor_.RunFor(std::chrono::milliseconds(10)); }

  static constexpr Shape kShape{1, 2, 2, 16, base::DType::kF32};
  base::VirtualExecutor executor_{1};
  LocalCluster cluster_{{}, &executor_};
};

TEST_F(NodeTest, StrangersAreShownTheDoor) {
  Stranger stranger(&cluster_.fabric());
  transport::Message garbage;
  garbage.header.assign(40, std::byte{0x5a});
  stranger.Send(cluster_.Address(0), std::move(garbage));
  stranger.Send(cluster_.Address(0), transport::Message{});
  Settle();
  EXPECT_EQ(stranger.closed, 2);
  EXPECT_TRUE(stranger.answers.empty());
  EXPECT_THAT(cluster_.Metrics(0), HasSubstr("sounder_node_refused_messages_total 2"));
}

TEST_F(NodeTest, APeerOfAnotherVersionIsToldBothVersions) {
  Stranger stranger(&cluster_.fabric());
  wire::Envelope ping;
  ping.kind = wire::MessageKind::kPing;
  transport::Message forged = wire::EncodeBare(ping);
  forged.header[16] = std::byte{7};  // behind Cap'n Proto's segment table and root pointer
  stranger.Send(cluster_.Address(0), std::move(forged));
  Settle();
  EXPECT_EQ(stranger.closed, 1);
  ASSERT_EQ(stranger.answers.size(), 1u);
  const auto answer = wire::DecodeEnvelope(stranger.answers[0]);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(answer->status.ToString(), HasSubstr("the peer speaks version 7"));
  EXPECT_THAT(answer->status.ToString(), HasSubstr("this side speaks version 3"));
}

TEST_F(NodeTest, RequestsWithADamagedPayloadAreAnsweredWithWhatIsWrong) {
  Stranger stranger(&cluster_.fabric());
  wire::AttendRequest attend;
  attend.envelope.kind = wire::MessageKind::kAttend;
  attend.envelope.ticket = 77;
  wire::AttendItem& item = attend.items.emplace_back();
  item.kv_head_count = item.group = item.query_count = 1;
  item.head_dim = 8;
  const std::vector<float> query(8, 1.0f);
  item.queries = std::as_bytes(std::span(query));
  transport::Message damaged = wire::Encode(attend);
  damaged.payload.data()[damaged.payload.size() - 1] ^= std::byte{1};
  stranger.Send(cluster_.Address(0), std::move(damaged));
  wire::AppendRequest append;
  append.envelope.kind = wire::MessageKind::kAppend;
  append.envelope.ticket = 78;
  append.items.emplace_back().kv_head_count = 1;
  append.items[0].head_dim = 9;  // no multiple of 8
  stranger.Send(cluster_.Address(0), wire::Encode(append));
  Settle();
  ASSERT_EQ(stranger.answers.size(), 2u);
  for (const transport::Message& answer : stranger.answers) {
    const auto envelope = wire::DecodeEnvelope(answer);
    ASSERT_TRUE(envelope.ok()) << envelope.status();
    const bool attends = envelope->ticket == 77;
    EXPECT_EQ(envelope->kind,
              attends ? wire::MessageKind::kAttendReply : wire::MessageKind::kAppendReply);
    EXPECT_EQ(envelope->status.code(),
              attends ? absl::StatusCode::kDataLoss : absl::StatusCode::kInvalidArgument)
        << envelope->status;
  }
}

// The answer is larger than the question where queries are of 16 bits.
TEST_F(NodeTest, QuestionsWhoseAnswerFitsNoMessageAreRefused) {
  Stranger stranger(&cluster_.fabric());
  wire::AttendRequest attend;
  attend.envelope.kind = wire::MessageKind::kAttend;
  wire::AttendItem& item = attend.items.emplace_back();
  item.kv_head_count = 47;
  item.group = 32;
  item.query_count = 4096;
  item.head_dim = 8;
  item.query_dtype = base::DType::kBF16;
  item.want_error_terms = true;
  const size_t rows = size_t{47} * 32 * 4096;
  const memory::AlignedBuffer queries = memory::AlignedBuffer::Zeroed(rows * 8 * 2);
  item.queries = queries.bytes();
  stranger.Send(cluster_.Address(0), wire::Encode(attend));
  Settle();
  ASSERT_EQ(stranger.answers.size(), 1u);
  const auto envelope = wire::DecodeEnvelope(stranger.answers[0]);
  ASSERT_TRUE(envelope.ok()) << envelope.status();
  EXPECT_EQ(envelope->status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(envelope->status.ToString(), HasSubstr("at once"));
}

TEST_F(NodeTest, PingsAndEmptyRequests) {
  Stranger stranger(&cluster_.fabric());
  wire::Envelope ping;
  ping.kind = wire::MessageKind::kPing;
  ping.ticket = 5;
  stranger.Send(cluster_.Address(0), wire::EncodeBare(ping));
  wire::AttendRequest attend;
  attend.envelope.kind = wire::MessageKind::kAttend;
  stranger.Send(cluster_.Address(0), wire::Encode(attend));
  wire::AppendRequest append;
  append.envelope.kind = wire::MessageKind::kAppend;
  stranger.Send(cluster_.Address(0), wire::Encode(append));
  ping.kind = wire::MessageKind::kPong;  // an answer to no question
  stranger.Send(cluster_.Address(0), wire::EncodeBare(ping));
  Settle();
  EXPECT_EQ(stranger.answers.size(), 3u);
  for (const transport::Message& answer : stranger.answers) {
    const auto envelope = wire::DecodeEnvelope(answer);
    ASSERT_TRUE(envelope.ok()) << envelope.status();
    EXPECT_TRUE(envelope->status.ok()) << envelope->status;
  }
}

TEST_F(NodeTest, ControlPlane) {
  const auto control = cluster_.Control(0);
  const TestRows rows = TestRows::Gaussian(kShape, 40, 1);
  const auto session = *cluster_.client().Open(SessionOptions(kShape, 1, 16));
  const std::vector<int32_t> tokens(40, 3);
  gpu_worker::AppendRows append = rows.Range({0, 40}, false);
  append.tokens = tokens;
  ASSERT_TRUE(cluster_.client().Append(session.get(), append).ok());
  ASSERT_TRUE(cluster_.client().WaitAppended(session.get(), 40).ok());

  const auto info = control->Describe({{session->id(), 0}, 0, false});
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->first_position, 0);
  EXPECT_EQ(info->end_position, 40);
  EXPECT_EQ(info->rows, 80u);
  EXPECT_EQ(info->segments, 4u);
  EXPECT_EQ(info->tokens, 40u);
  EXPECT_EQ(info->spec.model, IdentityOf(kShape));
  EXPECT_EQ(control->Describe({{{4, 4}, 0}, 0, false}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(control->List()->size(), 1u);

  const auto status = control->Status();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->sessions, 1u);
  EXPECT_EQ(status->memory_used, cluster_.MemoryUsed());
  EXPECT_GT(status->row_bytes, 80u * 2 * 16 * 4);
  EXPECT_EQ(status->protocol_version, wire::kProtocolVersion);
  const std::string metrics = cluster_.Metrics(0);
  EXPECT_THAT(metrics, HasSubstr("sounder_node_open_sessions 1"));
  EXPECT_THAT(metrics, HasSubstr("sounder_node_appended_rows_total 80"));
  EXPECT_THAT(metrics, HasSubstr("sounder_node_open_connections 1"));

  EXPECT_TRUE(control->Pin({session->id(), 5, true}).ok());
  for (const absl::Status& without :
       {control->Spill(session->id()), control->Load(session->id())}) {
    EXPECT_EQ(without.code(), absl::StatusCode::kFailedPrecondition) << without;
    EXPECT_THAT(without.ToString(), HasSubstr("it has no --store"));
  }
}

TEST_F(NodeTest, WithoutADataPlaneItIsStarting) {
  kv_node::NodeService service(&cluster_.sessions(0), &executor_, std::chrono::seconds(1),
                               [] { return wire::NodeStatus(); });
  absl::Status status;
  service.Status([&](const absl::StatusOr<wire::NodeStatus>& answer) { status = answer.status(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
}

TEST_F(NodeTest, ANodeThatShutsDownTakesNeitherSessionsNorForks) {
  const auto parent = *cluster_.client().Open(SessionOptions(kShape, 1, 16));
  kv_node::NodeService service(&cluster_.sessions(0), &executor_, std::chrono::seconds(1),
                               [] { return wire::NodeStatus(); });
  service.ShutDown();
  absl::Status opened;
  service.Open({},
               [&](const absl::StatusOr<wire::OpenResult>& result) { opened = result.status(); });
  absl::Status forked;
  service.Fork({{parent->ref(), 0, 0}, 0, {5, 5}, 0},
               [&](absl::Status status) { forked = status; });
  for (const absl::Status& refused : {opened, forked}) {
    EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable) << refused;
    EXPECT_THAT(refused.ToString(), HasSubstr("shutting down"));
  }
  EXPECT_EQ(cluster_.Sessions(), 1u);
}

TEST_F(NodeTest, ADrainingNodeKeepsItsSessionsAndTakesNoOthers) {
  const auto control = cluster_.Control(0);
  const TestRows rows = TestRows::Gaussian(kShape, 20, 1);
  const auto session = *cluster_.client().Open(SessionOptions(kShape, 1, 16));
  ASSERT_TRUE(control->Drain(true).ok());
  const absl::Status refused = cluster_.client().Open(SessionOptions(kShape, 2, 16)).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(refused.ToString(), HasSubstr("draining"));
  EXPECT_TRUE(cluster_.client().Append(session.get(), rows.Range({0, 20}, false)).ok());
  EXPECT_TRUE(cluster_.client().WaitAppended(session.get(), 20).ok());
  EXPECT_TRUE(control->Status()->draining);
  ASSERT_TRUE(control->Drain(false).ok());
  EXPECT_TRUE(cluster_.client().Open(SessionOptions(kShape, 2, 16)).ok());
}

}  // namespace
}  // namespace sounder::tests
