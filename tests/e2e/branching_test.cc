// Sessions that branch, over real processes: rolled back and forked on nodes, shown by sounderctl,
// and taken over from a worker that was killed.
#include "tests/e2e/branching.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <nlohmann/json.hpp>
#include <string>

#include "tests/e2e/worker.h"

namespace sounder::e2e {
namespace {

using testing::HasSubstr;

class BranchingTest : public testing::Test {
 protected:
  std::string Fault(Client& client, gpu_worker::RemoteSession* session,
                    const tests::BranchContent& content) {
    gpu_worker::RemoteSessionOptions options = BranchOptions();
    options.id = {2, ++scratches_};
    const auto scratch = tests::BuildFromScratch(client.kv(), options, rows_, content);
    std::string fault =
        tests::BranchFault(client.kv(), session, rows_, content, scratch.get(), random_);
    EXPECT_TRUE(client->Close(scratch.get()).ok());
    return fault;
  }
  void Append(Client& client, gpu_worker::RemoteSession* session, int version, int64_t count,
              tests::BranchContent* content) {
    const absl::Status status =
        tests::AppendVersion(client.kv(), session, rows_, version, count, false, content);
    EXPECT_TRUE(status.ok()) << status;
  }
  // Bytes accounted on all nodes, once what was closed has been freed.
  double MemoryUsed() {
    double used = 0;
    for (const auto& node : nodes_) {
      const std::string metrics = HttpGet(node->addresses().http, "/metrics").body;
      used += Metric(metrics, "sounder_node_memory_used_bytes").value_or(1e30);
    }
    return used;
  }

  const tests::RowVersions rows_ = BranchRows();
  base::PhiloxStream random_{1, 1};
  uint64_t scratches_ = 0;
  std::vector<std::unique_ptr<Node>> nodes_ = StartNodes(2, {"--ucx-tls", "tcp", "--threads", "1"});
};

TEST_F(BranchingTest, ForkAndTruncate) {
  Client client(nodes_, "tcp", seconds(10));
  tests::BranchContent content;
  auto parent = client->Open(BranchOptions());
  ASSERT_TRUE(parent.ok()) << parent.status();
  Append(client, parent->get(), 0, 700, &content);
  ASSERT_TRUE(client->WaitAppended(parent->get(), 700).ok());
  const double before = MemoryUsed();
  std::vector<std::shared_ptr<gpu_worker::RemoteSession>> children;
  for (int i = 0; i < 4; ++i) {
    auto child = client->Fork(parent->get(), 651);
    ASSERT_TRUE(child.ok()) << child.status();
    children.push_back(*child);
  }
  const double added = MemoryUsed() - before;
  std::printf("4 forks of a session of 700 short rows: %.0f bytes beside %.0f\n", added, before);
  EXPECT_LT(added, before / 10);

  const Ran status = RunProgram("sounderctl", {"status", "--nodes", ControlList(nodes_),
                                               "--sessions", "--json", "--ucx-tls", "tcp"});
  ASSERT_EQ(status.exit, 0) << status.errors;
  const nlohmann::json views = nlohmann::json::parse(status.output);
  int forks = 0;
  for (const auto& session : views[0].at("session_list")) {
    if (!session.contains("parent")) continue;
    EXPECT_EQ(session.at("parent"), (*parent)->id().ToString());
    EXPECT_EQ(session.at("fork_position"), 651);
    EXPECT_GT(session.at("shared_bytes"), 0);
    ++forks;
  }
  EXPECT_EQ(forks, 4);

  tests::BranchContent of_child = content;
  of_child.Truncate(651);
  ASSERT_TRUE(client->Truncate(parent->get(), 333).ok());
  content.Truncate(333);
  Append(client, parent->get(), 1, 50, &content);
  Append(client, children[0].get(), 2, 50, &of_child);
  EXPECT_EQ(Fault(client, parent->get(), content), "");
  EXPECT_EQ(Fault(client, children[0].get(), of_child), "");
  EXPECT_TRUE(client->Close(parent->get()).ok());
  EXPECT_EQ(Fault(client, children[0].get(), of_child), "");
  for (const auto& child : children) EXPECT_TRUE(client->Close(child.get()).ok());
  EXPECT_TRUE(Eventually([&] { return MemoryUsed() == 0; }));
}

TEST_F(BranchingTest, AnotherWorkerContinuesAfterAKill) {
  Process writer(Binary("branching_writer"), {nodes_[0]->control(), nodes_[1]->control()});
  ASSERT_TRUE(writer.WaitForLine("acknowledged 150", seconds(20)).has_value()) << writer.Errors();
  writer.Signal(SIGKILL);
  ASSERT_EQ(writer.Wait(seconds(5)), -SIGKILL);
  // All it had said before it ended.
  base::Position acknowledged = 0;
  const std::string said = writer.Output();
  for (size_t at = said.find("acknowledged "); at != std::string::npos;
       at = said.find("acknowledged ", at + 1)) {
    acknowledged = std::stol(said.substr(at + 13));
  }
  ASSERT_GE(acknowledged, 150);

  Client client(nodes_, "tcp", seconds(10));
  EXPECT_EQ(client->Adopt(BranchOptions().id, 4).status().code(), absl::StatusCode::kNotFound)
      << "another tenant";
  const auto adopted = client->Adopt(BranchOptions().id, BranchOptions().tenant);
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  gpu_worker::RemoteSession* const session = adopted->session.get();
  std::printf("adopted at position %ld, %ld were acknowledged\n", static_cast<long>(session->end()),
              static_cast<long>(acknowledged));
  EXPECT_GE(session->end(), acknowledged);
  EXPECT_TRUE(session->end() % kBranchStep == 0 || session->end() % 32 == 0)
      << "steps are whole, or cut where a shard ends";
  ASSERT_EQ(adopted->tokens.size(), static_cast<size_t>(session->end()));
  tests::BranchContent content;
  content.Append(session->end(), 0, false);
  EXPECT_EQ(Fault(client, session, content), "");
  Append(client, session, 1, 40, &content);
  ASSERT_TRUE(client->Truncate(session, content.end() - 13).ok());
  content.Truncate(content.end() - 13);
  Append(client, session, 2, 40, &content);
  EXPECT_EQ(Fault(client, session, content), "");
  EXPECT_TRUE(client->Close(session).ok());
  EXPECT_TRUE(Eventually([&] { return MemoryUsed() == 0; }));
}

}  // namespace
}  // namespace sounder::e2e
