// A node dies, or stops answering, while a batch is being decoded: its sequences end with an error
// that names it, in time; the others finish with the tokens they would have had; nothing is leaked;
// and the node is usable again once it is back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/base/absl_text.h"
#include "common/wire/control_client.h"
#include "tests/e2e/worker.h"

namespace sounder::e2e {
namespace {

using gpu_worker::LayerMode;
using gpu_worker::Prompt;
using Clock = std::chrono::steady_clock;

constexpr char kModel[] = "tests/golden/llama/gqa_untied";
constexpr base::Duration kDeadline = milliseconds(1500);

// Four sequences, two on each of two nodes, of different lengths. `seed` makes new sessions.
std::vector<Prompt> FourPrompts(uint64_t seed) {
  std::vector<Prompt> prompts;
  for (int i = 0; i < 4; ++i) {
    Prompt& prompt = prompts.emplace_back();
    prompt.id = (i % 2 == 0 ? "a" : "b") + std::to_string(i);
    for (int t = 0; t < 30 + 7 * i; ++t) prompt.tokens.push_back(3 + (i * 31 + t * 17) % 80);
    prompt.forced.emplace();  // its own choices, but no end of sequence
    prompt.max_tokens = 40;
    prompt.session = SessionOn(i % 2, 2, seed + static_cast<uint64_t>(i));
  }
  return prompts;
}

double SecondsBetween(Clock::time_point a, Clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

class NodeDiesTest : public testing::Test {
 protected:
  NodeDiesTest() : model_(kModel), nodes_(StartNodes(2, {"--threads", "1"})) {}

  gpu_worker::GeneratorOptions Options() {
    auto options = SmallOptions(model_, LayerMode::kExact, base::DType::kF32);
    options.batch = 4;
    return options;
  }

  // Runs the four prompts; `fault` happens while the batch is decoded.
  Answers RunWithFault(Client& client, uint64_t seed, const std::function<void()>& fault) {
    bool happened = false;
    return Generate(model_, &client.kv(), Options(), FourPrompts(seed),
                    [&](const gpu_worker::Sequence& sequence) {
                      if (happened || sequence.id != "a0" || sequence.generated() != 12) return;
                      happened = true;
                      fault_at_ = Clock::now();
                      fault();
                    });
  }

  // What a fault of node 1 must look like.
  void ExpectOnlyNodeOneFailed(const Answers& healthy, const Answers& answers) {
    ASSERT_EQ(answers.size(), 4u);
    for (const auto& [id, answer] : answers) {
      if (id[0] == 'a') {
        EXPECT_TRUE(answer.status.ok()) << id << ": " << answer.status;
        EXPECT_EQ(answer.generated, healthy.at(id).generated) << id;
        continue;
      }
      EXPECT_TRUE(absl::IsUnavailable(answer.status) || absl::IsDeadlineExceeded(answer.status))
          << id << ": " << answer.status;
      EXPECT_THAT(base::MessageOf(answer.status),
                  testing::AnyOf(testing::HasSubstr(nodes_[1]->addresses().data),
                                 testing::HasSubstr(nodes_[1]->addresses().control)));
      const double seconds = SecondsBetween(fault_at_, answer.ended);
      EXPECT_LE(seconds, std::chrono::duration<double>(kDeadline).count() + 1) << id;
      std::printf("node dies: %s after %.2f s: %s\n", id.c_str(), seconds,
                  answer.status.ToString().c_str());
    }
  }

  void ExpectAllFinish(const Answers& healthy, const Answers& answers) {
    ASSERT_EQ(answers.size(), 4u);
    for (const auto& [id, answer] : answers) {
      EXPECT_TRUE(answer.status.ok()) << id << ": " << answer.status;
      EXPECT_EQ(answer.generated, healthy.at(id).generated) << id;
    }
  }

  // The client tries a node that is away by itself; until it answers, requests to it fail.
  void ExpectBack(Client& client) {
    EXPECT_TRUE(Eventually([&] { return client->Reachable(1).ok(); }, seconds(10)));
  }

  // All sessions gone and all memory given back.
  void ExpectEmpty(Node& node) {
    wire::ControlClient control(node.control(), seconds(2));
    absl::StatusOr<wire::NodeStatus> status;
    EXPECT_TRUE(Eventually([&] {
      status = control.Status();
      return status.ok() && status->sessions == 0 && status->memory_used == 0;
    })) << (status.ok() ? std::to_string(status->sessions) + " sessions, " +
                              std::to_string(status->memory_used) + " bytes"
                        : status.status().ToString());
  }

  void ExpectNoLeak(const Resources& before) {
    Resources now;
    EXPECT_TRUE(Eventually([&] { return (now = ResourcesOf("self")) == before; }))
        << before.descriptors << " descriptors and " << before.threads << " threads before, "
        << now.descriptors << " and " << now.threads << " now";
  }

  Model model_;
  std::vector<std::unique_ptr<Node>> nodes_;
  Clock::time_point fault_at_;
};

TEST_F(NodeDiesTest, KilledWhileDecoding) {
  Client client(nodes_, "tcp", kDeadline);
  const Answers healthy = RunWithFault(client, 1, [] {});
  const Resources before = ResourcesOf("self");
  const Answers answers = RunWithFault(client, 100, [&] { nodes_[1]->Kill(); });
  ExpectOnlyNodeOneFailed(healthy, answers);
  ExpectEmpty(*nodes_[0]);

  nodes_[1]->Restart();
  ExpectBack(client);
  ExpectAllFinish(healthy, RunWithFault(client, 200, [] {}));
  ExpectEmpty(*nodes_[0]);
  ExpectEmpty(*nodes_[1]);
  ExpectNoLeak(before);
}

// Back before anybody noticed: it answers, but has lost the sessions.
TEST_F(NodeDiesTest, RestartedWhileDecoding) {
  Client client(nodes_, "tcp", kDeadline);
  const Answers healthy = RunWithFault(client, 1, [] {});
  const Answers answers = RunWithFault(client, 100, [&] {
    nodes_[1]->Kill();
    nodes_[1]->Restart();
  });
  ExpectOnlyNodeOneFailed(healthy, answers);
  ExpectEmpty(*nodes_[0]);
  ExpectEmpty(*nodes_[1]);
  ExpectAllFinish(healthy, RunWithFault(client, 200, [] {}));
}

TEST_F(NodeDiesTest, StoppedWhileDecoding) {
  Client client(nodes_, "tcp", kDeadline);
  const Answers healthy = RunWithFault(client, 1, [] {});
  const Resources before = ResourcesOf("self");
  const Answers answers = RunWithFault(client, 100, [&] { nodes_[1]->Stop(); });
  ExpectOnlyNodeOneFailed(healthy, answers);
  ExpectEmpty(*nodes_[0]);

  // What it finds when it goes on does no harm, and the sessions it had are closed.
  nodes_[1]->Continue();
  ExpectBack(client);
  ExpectAllFinish(healthy, RunWithFault(client, 200, [] {}));
  ExpectEmpty(*nodes_[0]);
  ExpectEmpty(*nodes_[1]);
  ExpectNoLeak(before);
}

TEST_F(NodeDiesTest, StoppedThenKilledThenRestarted) {
  Client client(nodes_, "tcp", kDeadline);
  const Answers healthy = RunWithFault(client, 1, [] {});
  const Answers answers = RunWithFault(client, 100, [&] { nodes_[1]->Stop(); });
  ExpectOnlyNodeOneFailed(healthy, answers);
  nodes_[1]->Kill();
  nodes_[1]->Restart();
  ExpectBack(client);
  ExpectAllFinish(healthy, RunWithFault(client, 200, [] {}));
  ExpectEmpty(*nodes_[1]);
}

// A new session on a node that does not answer fails in time too, and holds up nobody for longer.
TEST_F(NodeDiesTest, StoppedBeforeOpen) {
  Client client(nodes_, "tcp", kDeadline);
  const Answers healthy = RunWithFault(client, 1, [] {});
  auto options = Options();
  options.batch = 2;  // a0 and b1, then a2 and b3
  bool happened = false;
  const Answers answers = Generate(model_, &client.kv(), options, FourPrompts(100),
                                   [&](const gpu_worker::Sequence& sequence) {
                                     if (happened || sequence.id != "a0") return;
                                     happened = true;
                                     fault_at_ = Clock::now();
                                     nodes_[1]->Stop();
                                   });
  for (const auto& [id, answer] : answers) {
    if (id[0] == 'a') {
      EXPECT_TRUE(answer.status.ok()) << id << ": " << answer.status;
      EXPECT_EQ(answer.generated, healthy.at(id).generated) << id;
    } else {
      EXPECT_FALSE(answer.status.ok()) << id;
      EXPECT_THAT(base::MessageOf(answer.status),
                  testing::AnyOf(testing::HasSubstr(nodes_[1]->addresses().data),
                                 testing::HasSubstr(nodes_[1]->addresses().control)));
    }
  }
  // One deadline of an attend, one of closing what it was about, one of an open.
  EXPECT_LE(SecondsBetween(fault_at_, answers.at("b3").ended),
            3 * std::chrono::duration<double>(kDeadline).count() + 1);
  nodes_[1]->Continue();
  ExpectBack(client);
  ExpectAllFinish(healthy, RunWithFault(client, 200, [] {}));
  ExpectEmpty(*nodes_[0]);
  ExpectEmpty(*nodes_[1]);
}

// Draining is not dying: new sessions are refused, those that are open end well.
TEST_F(NodeDiesTest, DrainingNodeFinishesWhatItHas) {
  Client client(nodes_, "tcp", kDeadline);
  const Answers healthy = RunWithFault(client, 1, [] {});
  auto options = Options();
  options.batch = 2;
  std::vector<Prompt> prompts = FourPrompts(100);
  prompts[1].max_tokens = 10;  // makes room for a2 while a0 is being decoded
  wire::ControlClient control(nodes_[0]->control(), kDeadline);
  const Answers answers = Generate(model_, &client.kv(), options, std::move(prompts),
                                   [&](const gpu_worker::Sequence& sequence) {
                                     if (sequence.id != "a0" || sequence.generated() != 5) return;
                                     EXPECT_TRUE(control.Drain(true).ok());
                                   });
  EXPECT_TRUE(absl::IsUnavailable(answers.at("a2").status)) << answers.at("a2").status;
  EXPECT_THAT(base::MessageOf(answers.at("a2").status), testing::HasSubstr("draining"));
  for (const char* id : {"a0", "b1", "b3"}) {
    EXPECT_TRUE(answers.at(id).status.ok()) << id << ": " << answers.at(id).status;
  }
  EXPECT_EQ(answers.at("a0").generated, healthy.at("a0").generated);
  ExpectEmpty(*nodes_[0]);
  ExpectEmpty(*nodes_[1]);
}

// Killed with requests in flight: the node is stopped first, so that it holds them.
TEST_F(NodeDiesTest, KilledWithRequestsInFlight) {
  Client client(nodes_, "tcp", kDeadline);
  gpu_worker::RemoteSessionOptions options = Options().session;
  options.dtype = base::DType::kF32;
  options.id = SessionOn(1, 2, 7);
  auto session = client->Open(options);
  ASSERT_TRUE(session.ok()) << session.status();
  const size_t row = options.model.head_dim * sizeof(float);
  const std::vector<std::byte> zeros(16 * row);
  gpu_worker::AppendRows rows;
  rows.row_count = 16;
  rows.rows = [&](uint32_t, uint32_t) { return gpu_worker::AppendRows::Head{zeros, zeros}; };
  ASSERT_TRUE(client->Append(session->get(), rows).ok());
  ASSERT_TRUE(client->WaitAppended(session->get(), 16).ok());

  nodes_[1]->Stop();
  const std::vector<float> query(options.model.query_heads * options.model.head_dim, 1.0f);
  std::vector<gpu_worker::AttendQuery> queries(1);
  queries[0].session = session->get();
  queries[0].queries = query.data();
  queries[0].range = {0, 16};
  queries[0].scale = 1;
  auto pending = client->StartAttend(0, queries);
  const auto killed = Clock::now();
  nodes_[1]->Kill();
  pending->Wait();
  EXPECT_TRUE(absl::IsUnavailable(queries[0].status)) << queries[0].status;
  EXPECT_THAT(base::MessageOf(queries[0].status), testing::HasSubstr(nodes_[1]->addresses().data));
  EXPECT_LT(SecondsBetween(killed, Clock::now()), 1);
  EXPECT_FALSE(client->Close(session->get()).ok());
}

// The worker's own process: exits with 4, names the node, and has answered what could be answered.
TEST_F(NodeDiesTest, WorkerProcessReportsAndEnds) {
  TemporaryFolder folder;
  std::string lines;
  for (int i = 0; i < 6; ++i) {
    nlohmann::json json;
    json["id"] = std::to_string(i);
    json["max_tokens"] = 4000;  // more than it gets to, unless the fault is missed
    for (int t = 0; t < 40; ++t) json["tokens"].push_back(3 + (i * 31 + t * 17) % 80);
    lines += json.dump() + "\n";
  }
  // Cut by head, so that every session has a part on the node that dies.
  Process worker(Binary("sounder_worker"), {"generate",
                                            "--model",
                                            kModel,
                                            "--nodes",
                                            ControlList(nodes_),
                                            "--attention",
                                            "exact",
                                            "--prompts",
                                            folder.Write("prompts.jsonl", lines),
                                            "--output",
                                            folder.Path("answers.jsonl"),
                                            "--window",
                                            "8",
                                            "--sinks",
                                            "2",
                                            "--threads",
                                            "1",
                                            "--ucx-spin",
                                            "5us",
                                            "--deadline",
                                            "1500ms"});
  const std::string& http = nodes_[1]->addresses().http;
  ASSERT_TRUE(Eventually(
      [&] {
        return Metric(HttpGet(http, "/metrics").body, "sounder_node_attend_requests_total")
                   .value_or(0) > 20;
      },
      seconds(20)))
      << worker.Errors();
  const auto killed = Clock::now();
  nodes_[1]->Kill();
  EXPECT_EQ(worker.Wait(seconds(10)), 4) << worker.Errors();
  EXPECT_LT(SecondsBetween(killed, Clock::now()), 2.5);
  EXPECT_THAT(worker.Errors(), testing::HasSubstr("prompts failed"));
  EXPECT_THAT(worker.Errors(), testing::AnyOf(testing::HasSubstr(nodes_[1]->addresses().data),
                                              testing::HasSubstr(nodes_[1]->control())));
  ExpectEmpty(*nodes_[0]);
}

}  // namespace
}  // namespace sounder::e2e
