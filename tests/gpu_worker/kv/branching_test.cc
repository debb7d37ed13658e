// Sessions that a worker rolls back, forks, reads back and takes over, in virtual time: all or
// nothing over several nodes, and again where an answer was lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/absl_text.h"
#include "common/base/virtual_executor.h"
#include "common/wire/codec.h"
#include "tests/cluster/branch_model.h"
#include "tests/cluster/local_cluster.h"

namespace sounder::tests {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::Not;

std::string Epochs(uint64_t held, uint64_t asked) {
  return "is at epoch " + std::to_string(held) + ", the request at epoch " + std::to_string(asked);
}

class BranchingTest : public testing::Test {
 protected:
  void Start(int nodes) {
    LocalClusterOptions options;
    options.nodes = nodes;
    options.control_deadline = milliseconds(300);
    options.close_deadline = milliseconds(200);
    options.client.deadline = milliseconds(300);
    options.client_tap = [this](const transport::Message& message) {
      const auto envelope = wire::DecodeEnvelope(message);
      if (envelope.ok() && envelope->kind == wire::MessageKind::kAppend) ++appends_;
      if (envelope.ok() && envelope->kind == wire::MessageKind::kFetch && before_fetch_) {
        std::exchange(before_fetch_, nullptr)();
      }
      return !envelope.ok() || envelope->kind != wire::MessageKind::kAppend ||
             appends_ <= delivered_appends_;
    };
    cluster_ = std::make_unique<LocalCluster>(options, &executor_);
  }
  gpu_worker::KvClient& client() { return cluster_->client(); }
  // Two kv heads on two nodes and shards of 32 positions, or all on one node.
  gpu_worker::RemoteSessionOptions Options(uint64_t number, int64_t shard_rows = 32,
                                           int head_shards = 2) {
    gpu_worker::RemoteSessionOptions options = SessionOptions(rows_.shape(), number, 16);
    options.shard_rows = shard_rows;
    options.head_shards = head_shards;
    return options;
  }
  std::shared_ptr<gpu_worker::RemoteSession> Open(const gpu_worker::RemoteSessionOptions& options) {
    auto session = client().Open(options);
    EXPECT_TRUE(session.ok()) << session.status();
    return *std::move(session);
  }
  void Append(gpu_worker::RemoteSession* session, int64_t count, int version,
              BranchContent* content) {
    const absl::Status status =
        AppendVersion(client(), session, rows_, version, count, false, content);
    EXPECT_TRUE(status.ok()) << status;
  }
  std::string Fault(gpu_worker::RemoteSession* session, const BranchContent& content) {
    return BranchFault(client(), session, rows_, content, nullptr, random_);
  }
  absl::Status AttendStatus(gpu_worker::RemoteSession* session, base::PositionRange range) {
    const std::vector<float> queries = GaussianQueries(rows_.shape(), 1, 3);
    std::vector<gpu_worker::AttendQuery> query{ExactQuery(session, queries, range)};
    client().StartAttend(0, query)->Wait();
    return query[0].status;
  }

  base::VirtualExecutor executor_{1};
  base::PhiloxStream random_{1, 1};
  const RowVersions rows_{{2, 2, 2, 16, base::DType::kF32}, 120, 4, 1};
  int appends_ = 0;
  int delivered_appends_ = 1 << 30;
  std::function<void()> before_fetch_;
  std::unique_ptr<LocalCluster> cluster_;
};

TEST_F(BranchingTest, TruncateForkAndFetchOverNodes) {
  Start(3);
  BranchContent content;
  const auto session = Open(Options(1));
  Append(session.get(), 80, 0, &content);
  ASSERT_TRUE(client().Truncate(session.get(), 41).ok());
  content.Truncate(41);
  EXPECT_EQ(session->end(), 41);
  EXPECT_EQ(Fault(session.get(), content), "");
  const auto child = client().Fork(session.get(), 30, {9, 9});
  ASSERT_TRUE(child.ok()) << child.status();
  BranchContent of_child = content;
  of_child.Truncate(30);
  Append(session.get(), 30, 1, &content);
  Append(child->get(), 50, 2, &of_child);
  EXPECT_EQ(Fault(session.get(), content), "");
  EXPECT_EQ(Fault(child->get(), of_child), "");
  EXPECT_EQ((*child)->id(), (base::SessionId{9, 9}));
  EXPECT_EQ((*child)->end(), 80);

  // Beyond the end, where a node alone would not know.
  const absl::Status beyond = client().Truncate(session.get(), 72);
  EXPECT_EQ(beyond.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(beyond.ToString(), HasSubstr("ends at position 71; position 72"));
  EXPECT_EQ(client().Fork(session.get(), 72).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(client().Truncate(session.get(), -1).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(client().Fetch(session.get(), 0, {70, 72}).status().code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Fault(session.get(), content), "");
  Append(session.get(), 5, 3, &content);
  EXPECT_EQ(Fault(session.get(), content), "");
  EXPECT_TRUE(client().Close(session.get()).ok());
  EXPECT_EQ(Fault(child->get(), of_child), "");
  EXPECT_TRUE(client().Close(child->get()).ok());
  EXPECT_EQ(cluster_->MemoryUsed(), 0u);
}

TEST_F(BranchingTest, ATruncateThatDidNotReachANodeIsFinishedLater) {
  Start(2);
  BranchContent content;
  const auto session = Open(Options(1));
  Append(session.get(), 70, 0, &content);
  ASSERT_TRUE(client().WaitAppended(session.get(), 70).ok());
  int calls = 0;
  cluster_->SetControlFate([&calls] {
    return ++calls == 1 ? CallFate::kAnswerLost : CallFate::kLost;  // done there, not done there
  });
  const base::Time start = executor_.clock().Now();
  const absl::Status late = client().Truncate(session.get(), 37);
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded) << late;
  EXPECT_THAT(late.ToString(), HasSubstr(cluster_->Address(0)));
  EXPECT_LE(executor_.clock().Now() - start, milliseconds(601));
  cluster_->SetControlFate(nullptr);
  // Until then it can do nothing else.
  for (const absl::Status& refused :
       {session->status(), AttendStatus(session.get(), {0, 10}),
        client().Append(session.get(), rows_.Of(1).Range({37, 40}, false)),
        client().Fork(session.get(), 10).status(),
        client().Fetch(session.get(), 0, {0, 10}).status()}) {
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(refused.ToString(), HasSubstr("truncation to position 37 has not reached"));
  }
  EXPECT_THAT(client().Truncate(session.get(), 36).ToString(),
              HasSubstr("truncation to position 37 is not finished, position 36"));
  ASSERT_TRUE(client().Truncate(session.get(), 37).ok());
  content.Truncate(37);
  Append(session.get(), 20, 1, &content);
  EXPECT_EQ(Fault(session.get(), content), "");
  EXPECT_TRUE(client().Close(session.get()).ok());
}

// A node does not wait for the truncate, which will not come.
TEST_F(BranchingTest, ATruncateThatIsNotFinishedDelaysNoClose) {
  Start(2);
  BranchContent content;
  const auto session = Open(Options(1));
  Append(session.get(), 70, 0, &content);
  ASSERT_TRUE(client().WaitAppended(session.get(), 70).ok());
  cluster_->SetControlFate([] { return CallFate::kLost; });
  ASSERT_FALSE(client().Truncate(session.get(), 37).ok());
  cluster_->SetControlFate(nullptr);
  executor_.RunFor(milliseconds(300));  // a node that was silent is asked again
  const base::Time start = executor_.clock().Now();
  EXPECT_TRUE(client().Close(session.get()).ok());
  EXPECT_LE(executor_.clock().Now() - start, milliseconds(10));
  EXPECT_EQ(cluster_->Sessions(), 0u);
}

TEST_F(BranchingTest, AForkIsOnAllNodesOrNone) {
  Start(2);
  BranchContent content;
  const auto session = Open(Options(1));
  Append(session.get(), 70, 0, &content);
  ASSERT_TRUE(client().WaitAppended(session.get(), 70).ok());
  ASSERT_TRUE(cluster_->Control(1)->Drain(true).ok());
  const absl::Status draining = client().Fork(session.get(), 40, {9, 9}).status();
  EXPECT_EQ(draining.code(), absl::StatusCode::kUnavailable) << draining;
  EXPECT_THAT(draining.ToString(), HasSubstr(cluster_->Address(1)));
  EXPECT_EQ(cluster_->Sessions(), 2u) << "the parent's two parts";
  ASSERT_TRUE(cluster_->Control(1)->Drain(false).ok());
  // A node that does it, but whose answer is lost, keeps it until it is heard of again; what is
  // made meanwhile takes its place. (The second call closes what the node that drained may have.)
  int calls = 0;
  cluster_->SetControlFate(
      [&calls] { return ++calls == 3 ? CallFate::kAnswerLost : CallFate::kDelivered; });
  const absl::Status lost = client().Fork(session.get(), 40, {9, 9}).status();
  EXPECT_EQ(lost.code(), absl::StatusCode::kDeadlineExceeded) << lost;
  EXPECT_EQ(cluster_->Sessions(), 3u);
  cluster_->SetControlFate(nullptr);
  const auto again = client().Fork(session.get(), 40, {9, 9});
  ASSERT_TRUE(again.ok()) << again.status();
  for (const auto& node : client().NodeStatuses()) EXPECT_TRUE(node.ok());
  EXPECT_EQ(cluster_->Sessions(), 4u);
  content.Truncate(40);
  EXPECT_EQ(Fault(again->get(), content), "");
  calls = 0;
  cluster_->SetControlFate(
      [&calls] { return ++calls == 2 ? CallFate::kAnswerLost : CallFate::kDelivered; });
  EXPECT_FALSE(client().Fork(session.get(), 40, {9, 10}).ok());
  cluster_->SetControlFate(nullptr);
  EXPECT_EQ(cluster_->Sessions(), 5u);
  for (const auto& node : client().NodeStatuses()) EXPECT_TRUE(node.ok());
  EXPECT_EQ(cluster_->Sessions(), 4u);
  // Somebody else's session of that id stays what it is.
  for (const base::Position position : {40, 39}) {
    const absl::Status taken = client().Fork(session.get(), position, (*again)->id()).status();
    EXPECT_EQ(taken.code(), absl::StatusCode::kAlreadyExists) << taken;
  }
  EXPECT_EQ(Fault(again->get(), content), "");
}

// The node goes on with a fork that nobody waits for any more: it is not in the way of another one.
TEST_F(BranchingTest, AForkThatIsMadeLateGoesBeforeItsIdIsUsed) {
  Start(1);
  BranchContent content;
  const auto session = Open(Options(1, 0, 1));
  Append(session.get(), 40, 0, &content);
  ASSERT_TRUE(client().WaitAppended(session.get(), 40).ok());
  cluster_->SetControlFate([] { return CallFate::kLost; });
  EXPECT_FALSE(client().Fork(session.get(), 20, {9, 9}).ok());
  cluster_->SetControlFate(nullptr);
  executor_.RunFor(milliseconds(300));  // a node that was silent is asked again
  // It is not there when it is closed for the first time.
  for (const auto& node : client().NodeStatuses()) EXPECT_TRUE(node.ok());
  // Made now, at the epoch of that attempt: the one after the session's.
  wire::ForkCall late;
  late.op = {session->ref(), session->IssuedSequence(0), 0};
  late.position = 20;
  late.child = {{9, 9}, session->ref().epoch + 1};
  ASSERT_TRUE(cluster_->Control(0)->Fork(late).ok());
  const auto again = client().Fork(session.get(), 30, {9, 9});
  ASSERT_TRUE(again.ok()) << again.status();
  content.Truncate(30);
  EXPECT_EQ(Fault(again->get(), content), "");
  EXPECT_EQ(cluster_->Sessions(), 2u);
}

// An open that failed is closed when its node is heard of again, but not once it was opened anew.
TEST_F(BranchingTest, ASessionOpenedAnewIsNotClosedAsALeftOver) {
  Start(1);
  cluster_->SetControlFate([] { return CallFate::kAnswerLost; });
  EXPECT_FALSE(client().Open(Options(1, 0, 1)).ok());
  cluster_->SetControlFate(nullptr);
  EXPECT_EQ(cluster_->Sessions(), 1u);
  BranchContent content;
  const auto session = Open(Options(1, 0, 1));
  Append(session.get(), 20, 0, &content);
  EXPECT_EQ(Fault(session.get(), content), "");
}

// What is on its way of the session that an id belonged to is not taken for the next one's.
TEST_F(BranchingTest, AnIdThatIsUsedAgainBeginsAtAnotherEpoch) {
  Start(3);
  BranchContent content;
  const auto session = Open(Options(1));
  Append(session.get(), 20, 0, &content);
  ASSERT_TRUE(client().WaitAppended(session.get(), 20).ok());
  ASSERT_TRUE(client().Close(session.get()).ok());
  const auto again = Open(Options(1));
  EXPECT_GT(again->ref().epoch, session->ref().epoch);
  BranchContent lost = content;
  absl::Status stale = AppendVersion(client(), session.get(), rows_, 1, 20, false, &lost);
  stale.Update(client().WaitAppended(session.get(), 40));
  EXPECT_THAT(stale.ToString(), HasSubstr(Epochs(again->ref().epoch, session->ref().epoch)));
  BranchContent other;
  Append(again.get(), 30, 2, &other);
  EXPECT_EQ(Fault(again.get(), other), "");
  // A fork of that id likewise.
  ASSERT_TRUE(client().Close(again.get()).ok());
  const auto parent = Open(Options(2));
  BranchContent parents;
  Append(parent.get(), 40, 3, &parents);
  const auto fork = client().Fork(parent.get(), 30, again->id());
  ASSERT_TRUE(fork.ok()) << fork.status();
  stale = AppendVersion(client(), again.get(), rows_, 1, 10, false, &other);
  stale.Update(client().WaitAppended(again.get(), 40));
  EXPECT_THAT(stale.ToString(), HasSubstr(Epochs((*fork)->ref().epoch, again->ref().epoch)));
  parents.Truncate(30);
  EXPECT_EQ(Fault(fork->get(), parents), "");
  // One of that id that is there is not taken for the one that is opened.
  const absl::Status there = client().Open(Options(2)).status();
  EXPECT_EQ(there.code(), absl::StatusCode::kAlreadyExists) << there;
  EXPECT_THAT(there.ToString(), HasSubstr("epoch"));
}

// The worker ends with appends on the way: one node has them, another not, or some layers only.
TEST_F(BranchingTest, ASecondWorkerContinuesFromWhatAllNodesHave) {
  Start(3);
  BranchContent content;
  const auto session = Open(Options(1));
  Append(session.get(), 70, 0, &content);
  ASSERT_TRUE(client().WaitAppended(session.get(), 70).ok());
  delivered_appends_ = appends_ + 1;  // to one of the two nodes
  BranchContent lost = content;
  (void)AppendVersion(client(), session.get(), rows_, 1, 20, false, &lost);
  EXPECT_FALSE(client().WaitAppended(session.get(), 90).ok());
  delivered_appends_ = 1 << 30;

  const auto adopted = client().Adopt(session->id(), 0);
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  gpu_worker::RemoteSession* const mine = adopted->session.get();
  EXPECT_EQ(mine->end(), 70);
  EXPECT_EQ(mine->ref().epoch, session->ref().epoch + 1);
  ASSERT_EQ(adopted->tokens.size(), 70u);
  EXPECT_EQ(adopted->tokens[69], RowVersions::Token(69, 0));
  EXPECT_EQ(Fault(mine, content), "");
  Append(mine, 30, 2, &content);
  EXPECT_EQ(Fault(mine, content), "");
  // The old worker can do nothing any more.
  const absl::Status stale = client().Close(session.get());
  EXPECT_EQ(stale.code(), absl::StatusCode::kFailedPrecondition) << stale;
  EXPECT_THAT(stale.ToString(), HasSubstr(Epochs(mine->ref().epoch, session->ref().epoch)));
  EXPECT_EQ(Fault(mine, content), "");
  const auto third = client().Adopt(session->id(), 0);
  ASSERT_TRUE(third.ok());
  for (const absl::Status& refused :
       {AttendStatus(mine, {0, 20}), client().Fetch(mine, 0, {0, 20}).status(),
        client().Fork(mine, 20).status(), client().Truncate(mine, 10)}) {
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
    const uint64_t epoch = third->session->ref().epoch;
    EXPECT_THAT(refused.ToString(), HasSubstr(Epochs(epoch, mine->ref().epoch)));
    EXPECT_THAT(refused.ToString(), HasSubstr("node"));
  }
  EXPECT_EQ(Fault(third->session.get(), content), "");
  EXPECT_TRUE(client().Close(third->session.get()).ok());
  EXPECT_EQ(cluster_->MemoryUsed(), 0u);
}

// A fork lies where its parent does, whatever its own id would place.
TEST_F(BranchingTest, AForkIsAdoptedWhereItIs) {
  Start(3);
  for (uint64_t number = 1; number <= 4; ++number) {
    BranchContent content;
    const auto session = Open(Options(number, 16, 2));
    Append(session.get(), 60, 0, &content);
    const auto child = client().Fork(session.get(), 45, {number, 77});
    ASSERT_TRUE(child.ok());
    content.Truncate(45);
    Append(child->get(), 10, 1, &content);
    ASSERT_TRUE(client().WaitAppended(child->get(), 55).ok());
    const auto adopted = client().Adopt({number, 77}, 0);
    ASSERT_TRUE(adopted.ok()) << adopted.status();
    EXPECT_EQ(adopted->session->end(), 55);
    Append(adopted->session.get(), 10, 2, &content);
    EXPECT_EQ(Fault(adopted->session.get(), content), "");
  }
}

TEST_F(BranchingTest, AdoptionsThatCannotBe) {
  Start(2);
  BranchContent content;
  gpu_worker::RemoteSessionOptions options = Options(1);
  options.tenant = 4;
  const auto session = Open(options);
  Append(session.get(), 40, 0, &content);
  ASSERT_TRUE(client().WaitAppended(session.get(), 40).ok());
  EXPECT_EQ(client().Adopt({8, 8}, 4).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(client().Adopt(session->id(), 5).status().code(), absl::StatusCode::kNotFound);
  // Its answer is lost; adopted again it is nobody else's.
  int calls = 0;
  cluster_->SetControlFate(
      [&calls] { return ++calls == 4 ? CallFate::kAnswerLost : CallFate::kDelivered; });
  const absl::Status lost = client().Adopt(session->id(), 4).status();
  EXPECT_EQ(lost.code(), absl::StatusCode::kDeadlineExceeded) << lost;
  EXPECT_THAT(lost.ToString(), HasSubstr("node"));
  cluster_->SetControlFate(nullptr);
  const auto adopted = client().Adopt(session->id(), 4);
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  EXPECT_EQ(adopted->session->ref().epoch, session->ref().epoch + 2);
  EXPECT_EQ(Fault(adopted->session.get(), content), "");
  cluster_->Kill(1);
  EXPECT_EQ(client().Adopt(session->id(), 4).status().code(), absl::StatusCode::kUnavailable);
  cluster_->Restart(1);
  const absl::Status gone = client().Adopt(session->id(), 4).status();
  EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(gone.ToString(),
              HasSubstr("node " + cluster_->Address(1) + " lost its part of session"));
}

TEST_F(BranchingTest, AnotherListOfNodesIsRefused) {
  Start(2);
  gpu_worker::RemoteSessionOptions options = Options(1, 0, 1);
  const auto session = Open(options);
  const std::vector<int> nodes = session->placement().Nodes();
  ASSERT_EQ(nodes.size(), 1u);
  const auto info = cluster_->Control(nodes[0])->Describe({{options.id, 0}, 0, false});
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->spec.placement.nodes, 2u);
  EXPECT_EQ(info->spec.placement.id, options.id);
  wire::SessionSpec other = info->spec;
  other.session.id = {5, 5};
  other.placement.nodes = 3;
  ASSERT_TRUE(cluster_->Control(nodes[0])->Open(other).ok());
  const absl::Status refused = client().Adopt({5, 5}, 0).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_THAT(refused.ToString(), HasSubstr("placed on 3 nodes; with these 2 nodes"));
}

TEST_F(BranchingTest, ASessionWithoutSomeTokensIsAdoptedWithoutAny) {
  Start(2);
  BranchContent content;
  const auto session = Open(Options(1));
  Append(session.get(), 20, 0, &content);
  ASSERT_TRUE(client().Append(session.get(), rows_.Of(0).Range({20, 40}, false)).ok());
  ASSERT_TRUE(client().WaitAppended(session.get(), 40).ok());
  const auto adopted = client().Adopt(session->id(), 0);
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  EXPECT_EQ(adopted->session->end(), 40);
  EXPECT_TRUE(adopted->tokens.empty());
  EXPECT_TRUE(AttendStatus(adopted->session.get(), {0, 40}).ok());
}

// An adoption that another one overtakes has failed: it is not one without token ids.
TEST_F(BranchingTest, AnAdoptionThatIsOvertakenWhileItReadsTokenIdsFails) {
  Start(1);
  BranchContent content;
  const auto session = Open(Options(1, 0, 1));
  Append(session.get(), 20, 0, &content);
  ASSERT_TRUE(client().WaitAppended(session.get(), 20).ok());
  before_fetch_ = [&] {
    const uint64_t later = session->ref().epoch + 7;
    EXPECT_TRUE(cluster_->sessions(0).Adopt({{session->id(), later}, 0, 1}).ok());
  };
  const absl::Status overtaken = client().Adopt(session->id(), 0).status();
  EXPECT_EQ(overtaken.code(), absl::StatusCode::kFailedPrecondition) << overtaken;
  EXPECT_THAT(overtaken.ToString(),
              HasSubstr(Epochs(session->ref().epoch + 7, session->ref().epoch + 1)));
}

// Ids beyond what all nodes have do not count.
TEST_F(BranchingTest, IdsOfRowsThatAreCutOffMakeUpForNone) {
  Start(2);
  BranchContent content;
  const auto session = Open(Options(1));
  ASSERT_TRUE(client().Append(session.get(), rows_.Of(0).Range({0, 4}, false)).ok());
  ASSERT_TRUE(client().WaitAppended(session.get(), 4).ok());
  delivered_appends_ = appends_ + 1;  // to the node of the first head, not to the other
  gpu_worker::AppendRows more = rows_.Of(0).Range({4, 32}, false);
  const std::vector<int32_t> tokens(28, 7);
  more.tokens = tokens;
  (void)client().Append(session.get(), more);
  EXPECT_FALSE(client().WaitAppended(session.get(), 32).ok());
  delivered_appends_ = 1 << 30;
  const auto adopted = client().Adopt(session->id(), 0);
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  EXPECT_EQ(adopted->session->end(), 4);
  EXPECT_TRUE(adopted->tokens.empty());
}

TEST_F(BranchingTest, ASessionThatWasLeftEndsByItsTtl) {
  Start(1);
  gpu_worker::RemoteSessionOptions options = Options(1, 0, 1);
  options.ttl_seconds = 3;
  const auto session = Open(options);
  client().Leave(session.get());
  for (int second = 0; second < 4; ++second) {
    executor_.RunFor(std::chrono::seconds(1));
    client().KeepAlive();
  }
  cluster_->sessions(0).CloseExpired();
  EXPECT_EQ(cluster_->Sessions(), 0u);
}

// A session lives as long as its writer, not as one that was fenced.
TEST_F(BranchingTest, TheStaleWriterDoesNotKeepASessionAlive) {
  Start(1);
  gpu_worker::RemoteSessionOptions options = Options(1, 0, 1);
  options.ttl_seconds = 3;
  const auto session = Open(options);
  auto adopted = client().Adopt(options.id, 0);
  ASSERT_TRUE(adopted.ok());
  const auto pass = [&](int seconds, bool alive) {
    for (int second = 0; second < seconds; ++second) {
      executor_.RunFor(std::chrono::seconds(1));
      if (alive) client().KeepAlive();
    }
    cluster_->sessions(0).CloseExpired();
    return cluster_->Sessions();
  };
  EXPECT_EQ(pass(7, true), 1u);
  adopted->session.reset();  // whose worker has gone; the stale one is kept by `session`
  EXPECT_EQ(pass(2, true), 1u);
  EXPECT_EQ(pass(2, true), 0u);
}

}  // namespace
}  // namespace sounder::tests
