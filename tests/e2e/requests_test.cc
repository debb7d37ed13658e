// Requests a node must refuse, over the real wire: each with a message that names what is wrong,
// and without harm to anybody else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <future>
#include <limits>

#include "common/base/absl_text.h"
#include "common/base/thread_executor.h"
#include "common/wire/codec.h"
#include "common/wire/control_client.h"
#include "common/wire/control_server.h"
#include "common/wire/data_client.h"
#include "tests/e2e/worker.h"

namespace sounder::e2e {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr uint32_t kDim = 16;
constexpr uint32_t kRows = 8;

wire::SessionSpec Spec(uint64_t id) {
  wire::SessionSpec spec;
  spec.session.id = {1, id};
  spec.model = {"tiny", "abc123", 1, 1, 2, kDim, "", ""};
  spec.dtype = base::DType::kF32;
  spec.seal_rows = 16;
  spec.min_indexed_rows = 16;
  spec.kv_head_count = 1;
  return spec;
}

// A worker's requests without the worker's care: any header may be sent.
class RequestsTest : public testing::Test {
 protected:
  explicit RequestsTest(const Arguments& options = {"--threads", "1"})
      : node_(options), control_(node_.control(), seconds(2)), data_(&transport_, &executor_) {
    EXPECT_TRUE(transport_.Start(&data_).ok());
    index_ = data_.AddNode(node_.addresses().data);
  }

  // Rows of ones. `dim` is what the item claims and carries.
  absl::Status Append(uint64_t id, uint64_t sequence, base::Position first, uint32_t rows = kRows,
                      uint32_t dim = kDim) {
    const std::vector<float> ones(size_t{rows} * dim, 1.0f);
    wire::AppendRequest request;
    wire::AppendItem& item = request.items.emplace_back();
    item.session.id = {1, id};
    item.sequence = sequence;
    item.kv_head_count = 1;
    item.first_position = first;
    item.row_count = rows;
    item.head_dim = dim;
    item.keys = std::as_bytes(std::span(ones));
    item.values = item.keys;
    std::promise<absl::Status> done;
    data_.Append(index_, std::move(request), seconds(5),
                 [&](absl::StatusOr<wire::AppendReply> reply) {
                   done.set_value(!reply.ok()                    ? reply.status()
                                  : !reply->envelope.status.ok() ? reply->envelope.status
                                                                 : reply->items.at(0).status);
                 });
    return done.get_future().get();
  }

  absl::Status Attend(uint64_t id, base::PositionRange range, uint32_t dim = kDim,
                      uint32_t group = 2,
                      const std::function<void(wire::AttendItem&)>& change = nullptr) {
    const std::vector<float> ones(size_t{group} * dim, 1.0f);
    wire::AttendRequest request;
    wire::AttendItem& item = request.items.emplace_back();
    item.session.id = {1, id};
    item.kv_head_count = 1;
    item.group = group;
    item.query_count = 1;
    item.head_dim = dim;
    item.range = range;
    item.layout_position = range.end;
    item.scale = 1;
    item.queries = std::as_bytes(std::span(ones));
    if (change != nullptr) change(item);
    std::promise<absl::Status> done;
    data_.Attend(index_, std::move(request), seconds(5),
                 [&](absl::StatusOr<wire::AttendReply> reply) {
                   done.set_value(!reply.ok()                    ? reply.status()
                                  : !reply->envelope.status.ok() ? reply->envelope.status
                                                                 : reply->items.at(0).status);
                 });
    return done.get_future().get();
  }

  absl::Status Close(uint64_t id, uint64_t sequence = 0) {
    return control_.Close({.session = {.id = {1, id}}, .sequence = sequence});
  }

  // The node still does its work.
  void ExpectServes(uint64_t id) {
    ASSERT_TRUE(control_.Open(Spec(id)).ok());
    EXPECT_TRUE(Append(id, 1, 0).ok());
    EXPECT_TRUE(Attend(id, {0, kRows}).ok());
    EXPECT_TRUE(Close(id, 1).ok());
  }

  Node node_;
  wire::ControlClient control_;
  base::ThreadExecutor executor_{1, "test"};
  wire::DataClient data_;
  transport::UcxTransport transport_{ShortSpin("tcp")};
  wire::DataClient::NodeIndex index_ = 0;
};

#define EXPECT_REFUSED(expression, error_code, matcher)                 \
  do {                                                                  \
    const absl::Status refused = (expression);                          \
    EXPECT_EQ(refused.code(), absl::StatusCode::error_code) << refused; \
    EXPECT_THAT(base::MessageOf(refused), matcher);                     \
    std::printf("errors: %s\n", refused.ToString().c_str());            \
  } while (false)

TEST_F(RequestsTest, UnknownSession) {
  const std::string id = base::SessionId{1, 77}.ToString();
  EXPECT_REFUSED(Append(77, 1, 0), kNotFound, HasSubstr(id));
  EXPECT_REFUSED(Attend(77, {0, 4}), kNotFound, HasSubstr(id));
  EXPECT_REFUSED(Close(77), kNotFound, AllOf(HasSubstr(id), HasSubstr(node_.control())));
  EXPECT_REFUSED(control_.Describe({{{1, 77}, 0}, 0, false}).status(), kNotFound, HasSubstr(id));
  ExpectServes(1);
  EXPECT_REFUSED(Attend(1, {0, 4}), kNotFound, HasSubstr(base::SessionId{1, 1}.ToString()));
}

TEST_F(RequestsTest, WrongShape) {
  ASSERT_TRUE(control_.Open(Spec(1)).ok());
  EXPECT_REFUSED(Append(1, 1, 0, kRows, 24), kInvalidArgument,
                 AllOf(HasSubstr("head dim 24"), HasSubstr("head dim 16")));
  EXPECT_TRUE(Append(1, 1, 0).ok());  // the refused one took no place in the order
  EXPECT_REFUSED(Attend(1, {0, kRows}, 8), kInvalidArgument,
                 AllOf(HasSubstr("head dim 8"), HasSubstr("head dim 16")));
  EXPECT_REFUSED(Attend(1, {0, kRows}, kDim, 4), kInvalidArgument,
                 AllOf(HasSubstr("groups of 4"), HasSubstr("groups of 2")));
  EXPECT_REFUSED(Append(1, 2, kRows + 3), kFailedPrecondition,
                 AllOf(HasSubstr("11"), HasSubstr("8")));
  EXPECT_TRUE(Append(1, 2, kRows).ok());
  EXPECT_TRUE(Attend(1, {0, 2 * kRows}).ok());
}

// A session has one kind of index, and rows in eight bits only if it was opened with them.
TEST_F(RequestsTest, IndexesAndRowFormatsThatAreNotThere) {
  wire::SessionSpec sketched = Spec(1);
  sketched.sketch = {64, 1};
  sketched.indexed_layers = {0};
  wire::SessionSpec both = sketched;
  both.lsh = {4, 8, 2, wire::Projection::kHadamard, 1};
  EXPECT_REFUSED(control_.Open(both).status(), kInvalidArgument, HasSubstr("one kind of index"));
  wire::SessionSpec int8 = Spec(1);
  int8.row_format = wire::RowFormat::kInt8;
  EXPECT_REFUSED(control_.Open(int8).status(), kInvalidArgument, HasSubstr("'int8'"));
  ASSERT_TRUE(control_.Open(sketched).ok());
  ASSERT_TRUE(Append(1, 1, 0, 2 * kRows).ok());
  const auto attend = [&](const std::function<void(wire::AttendItem&)>& change) {
    return Attend(1, {0, 2 * kRows}, kDim, 2, [&](wire::AttendItem& item) {
      item.attention = wire::AttentionKind::kSketch;
      change(item);
    });
  };
  EXPECT_TRUE(attend([](wire::AttendItem&) {}).ok());
  EXPECT_REFUSED(attend([](auto& item) { item.row_format = wire::RowFormat::kInt8; }),
                 kFailedPrecondition, HasSubstr("was not opened with it"));
  EXPECT_REFUSED(attend([](auto& item) { item.attention = wire::AttentionKind::kLshTables; }),
                 kFailedPrecondition, HasSubstr("sketches of 64 bits"));
  const std::vector<float> wrong = {0, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_REFUSED(attend([&](auto& item) { item.lse_hints = wrong; }), kInvalidArgument,
                 HasSubstr("lse hint"));
  const std::vector<wire::HeadHint> share = {{0, 1.5f}};
  EXPECT_REFUSED(attend([&](auto& item) { item.head_hints = share; }), kInvalidArgument,
                 HasSubstr("uniform fraction 1.5"));
  EXPECT_TRUE(attend([](wire::AttendItem&) {}).ok());
}

TEST_F(RequestsTest, AnotherModelsSession) {
  ASSERT_TRUE(control_.Open(Spec(1)).ok());
  ASSERT_TRUE(control_.Open(Spec(1)).ok());  // the same again is the same session
  wire::SessionSpec other = Spec(1);
  other.model.weights_digest = "def456";
  EXPECT_REFUSED(control_.Open(other).status(), kFailedPrecondition,
                 AllOf(HasSubstr("abc123"), HasSubstr("def456")));
  ExpectServes(2);
}

TEST_F(RequestsTest, AnotherProtocolVersionOnTheControlPlane) {
  wire::SessionSpec spec = Spec(1);
  spec.protocol_version = 9;
  EXPECT_REFUSED(control_.Open(spec).status(), kFailedPrecondition,
                 AllOf(HasSubstr("version 9"), HasSubstr("version 3")));
  ExpectServes(2);
}

// Sends raw messages and keeps what comes back.
class RawPeer final : public transport::TransportEvents {
 public:
  void OnAccept(transport::ConnectionId, const std::string&) override {}
  void OnMessage(transport::ConnectionId, transport::Message message) override {
    std::lock_guard lock(mutex_);
    messages_.push_back(std::move(message));
  }
  void OnClosed(transport::ConnectionId, absl::Status) override { closed_ = true; }
  bool closed() const { return closed_; }
  std::vector<transport::Message> Take() {
    std::lock_guard lock(mutex_);
    return std::move(messages_);
  }

 private:
  std::mutex mutex_;
  std::vector<transport::Message> messages_;
  std::atomic<bool> closed_{false};
};

// Not a RequestsTest: a process has one UCX engine at a time.
TEST(RawRequestsTest, AnotherProtocolVersionOnTheDataPlane) {
  Node node;
  RawPeer peer;
  transport::UcxTransport transport(ShortSpin("tcp"));
  ASSERT_TRUE(transport.Start(&peer).ok());
  auto connection = transport.Connect(node.addresses().data);
  ASSERT_TRUE(connection.ok());
  wire::Envelope ping;
  ping.kind = wire::MessageKind::kPing;
  ping.ticket = 5;
  transport::Message message = wire::EncodeBare(ping);
  // The header is a flat message: segment table and root pointer, 8 bytes each, then the fields.
  constexpr size_t kVersionOffset = 16;
  uint16_t version = 0;
  std::memcpy(&version, message.header.data() + kVersionOffset, sizeof version);
  ASSERT_EQ(version, wire::kProtocolVersion);
  version = 9;
  std::memcpy(message.header.data() + kVersionOffset, &version, sizeof version);
  transport.Send(*connection, std::move(message), transport::SendMode::kEager, nullptr);
  EXPECT_TRUE(Eventually([&] { return peer.closed(); }));
  EXPECT_THAT(node.process().Errors(), AllOf(HasSubstr("version 9"), HasSubstr("version 3")));
  const std::string metrics = HttpGet(node.addresses().http, "/metrics").body;
  EXPECT_EQ(Metric(metrics, "sounder_node_refused_messages_total"), 1);
}

// A node of another version, as a worker sees it.
class OtherVersion final : public wire::ControlService {
 public:
  void Open(const wire::SessionSpec&, wire::Reply<wire::OpenResult> reply) override {
    reply(Error());
  }
  void Close(const wire::SessionOp&, wire::StatusReply reply) override { reply(Error()); }
  void Fork(const wire::ForkCall&, wire::StatusReply reply) override { reply(Error()); }
  void Truncate(const wire::SessionOp&, base::Position, wire::StatusReply reply) override {
    reply(Error());
  }
  void Adopt(const wire::AdoptCall&, wire::Reply<wire::SessionInfo> reply) override {
    reply(Error());
  }
  void Describe(const wire::DescribeCall&, wire::Reply<wire::SessionInfo> reply) override {
    reply(Error());
  }
  void List(wire::Reply<std::vector<wire::SessionInfo>> reply) override { reply(Error()); }
  void Pin(const wire::PinCall&, wire::StatusReply reply) override { reply(Error()); }
  void Spill(const base::SessionId&, wire::StatusReply reply) override { reply(Error()); }
  void Load(const base::SessionId&, wire::StatusReply reply) override { reply(Error()); }
  void Drain(bool, wire::StatusReply reply) override { reply(Error()); }
  void Status(wire::Reply<wire::NodeStatus> reply) override {
    wire::NodeStatus status;
    status.version = "9.0.0";
    status.protocol_version = 9;
    status.data_address = "127.0.0.1:1";
    reply(status);
  }

 private:
  static absl::Status Error() { return absl::UnimplementedError("not asked for"); }
};

TEST(RawRequestsTest, WorkerRefusesNodeOfAnotherVersion) {
  OtherVersion service;
  auto server = wire::ControlServer::Start("127.0.0.1:0", &service);
  ASSERT_TRUE(server.ok()) << server.status();
  TemporaryFolder folder;
  const Ran ran =
      RunProgram("sounder_worker", {"generate", "--model", "tests/golden/llama/gqa_untied",
                                    "--attention", "exact", "--nodes", (*server)->address(),
                                    "--prompts", folder.Write("p.jsonl", "{\"tokens\": [3]}\n")});
  EXPECT_NE(ran.exit, 0);
  EXPECT_THAT(ran.errors, AllOf(HasSubstr((*server)->address()), HasSubstr("version 9"),
                                HasSubstr("version 3")));
}

TEST_F(RequestsTest, DrainingNodeKeepsWhatItHas) {
  ASSERT_TRUE(control_.Open(Spec(1)).ok());
  ASSERT_TRUE(Append(1, 1, 0).ok());
  ASSERT_TRUE(control_.Drain(true).ok());
  EXPECT_REFUSED(control_.Open(Spec(2)).status(), kUnavailable,
                 AllOf(HasSubstr("draining"), HasSubstr(node_.control())));
  EXPECT_EQ(HttpGet(node_.addresses().http, "/readyz").status, 503);
  EXPECT_EQ(HttpGet(node_.addresses().http, "/healthz").status, 200);
  EXPECT_TRUE(Append(1, 2, kRows).ok());
  EXPECT_TRUE(Attend(1, {0, 2 * kRows}).ok());
  ASSERT_TRUE(control_.Drain(false).ok());
  EXPECT_EQ(HttpGet(node_.addresses().http, "/readyz").status, 200);
  ExpectServes(2);
}

TEST_F(RequestsTest, WhatNeedsAStoreIsRefusedWithout) {
  ASSERT_TRUE(control_.Open(Spec(1)).ok());
  EXPECT_REFUSED(control_.Spill({1, 1}), kFailedPrecondition, HasSubstr("spill"));
  wire::SessionSpec durable = Spec(3);
  durable.durability = wire::Durability::kDisk;
  EXPECT_REFUSED(control_.Open(durable).status(), kFailedPrecondition, HasSubstr("disk"));
}

class FewSessionsTest : public RequestsTest {
 protected:
  FewSessionsTest() : RequestsTest({"--threads", "1", "--max-sessions", "2"}) {}
};

TEST_F(FewSessionsTest, RefusesOneMore) {
  ASSERT_TRUE(control_.Open(Spec(1)).ok());
  ASSERT_TRUE(control_.Open(Spec(2)).ok());
  EXPECT_REFUSED(control_.Open(Spec(3)).status(), kResourceExhausted,
                 AllOf(HasSubstr("2 sessions"), HasSubstr("--max-sessions")));
  EXPECT_TRUE(Close(1).ok());
  EXPECT_TRUE(control_.Open(Spec(3)).ok());
}

class FullNodeTest : public RequestsTest {
 protected:
  FullNodeTest() : RequestsTest({"--threads", "1", "--memory", "1MiB"}) {}
};

TEST_F(FullNodeTest, RefusesAndKeepsServingOthers) {
  ASSERT_TRUE(control_.Open(Spec(1)).ok());
  ASSERT_TRUE(control_.Open(Spec(2)).ok());
  ASSERT_TRUE(Append(1, 1, 0).ok());
  uint64_t sequence = 0;
  absl::Status status;
  constexpr uint32_t kMany = 512;  // 64 KiB of keys and values
  while (status.ok() && sequence < 64) {
    status = Append(2, sequence + 1, static_cast<base::Position>(sequence * kMany), kMany);
    if (status.ok()) ++sequence;
  }
  EXPECT_REFUSED(status, kResourceExhausted,
                 AllOf(HasSubstr("1048576"), HasSubstr("--memory"), HasSubstr("more bytes")));
  EXPECT_GT(sequence, 2u);
  // What was there can be attended to, and room that is given back can be used.
  EXPECT_TRUE(Attend(1, {0, kRows}).ok());
  EXPECT_TRUE(Attend(2, {0, static_cast<base::Position>(sequence * kMany)}).ok());
  EXPECT_TRUE(Close(2, sequence).ok());
  EXPECT_TRUE(Append(1, 2, kRows, kMany).ok());
  EXPECT_TRUE(Close(1, 2).ok());
  EXPECT_TRUE(Eventually([&] {
    const auto node = control_.Status();
    return node.ok() && node->memory_used == 0;
  }));
}

TEST(FullNodeWorkerTest, ExitsWithUnavailable) {
  const Node node({"--threads", "1", "--memory", "1MiB"});
  TemporaryFolder folder;
  std::string tokens = "3";
  for (int i = 0; i < 3000; ++i) tokens += ", " + std::to_string(3 + i % 80);
  const std::string prompts =
      folder.Write("p.jsonl",
                   "{\"id\": \"small\", \"tokens\": [3, 4], \"max_tokens\": 1}\n"
                   "{\"id\": \"large\", \"tokens\": [" +
                       tokens + "]}\n");
  const Ran ran =
      RunProgram("sounder_worker", {"generate", "--model", "tests/golden/llama/gqa_untied",
                                    "--attention", "exact", "--dtype", "f32", "--nodes",
                                    node.control(), "--prompts", prompts, "--threads", "1"});
  EXPECT_EQ(ran.exit, 4) << ran.errors;
  EXPECT_THAT(ran.errors, AllOf(HasSubstr("1048576"), HasSubstr("--memory")));
  EXPECT_THAT(ran.output, AllOf(HasSubstr("\"id\":\"small\""), HasSubstr("RESOURCE_EXHAUSTED")));
}

// What strays to a port, the node goes on. (UCX 1.13 stops at an assertion when bytes on the data
// port lie about their length: common/transport/DESIGN.md. So that port sees only what probes
// send.)
TEST_F(RequestsTest, Garbage) {
  const std::vector<std::string> probes = {
      "",
      "x",
      "GET / HTTP/1.1\r\n\r\n hello, this is not for you\n",
      "SSH-2.0-OpenSSH_9.2p1\r\n",
      "\x16\x03\x01\x02" + std::string(500, '\x01'),
      std::string(1 << 20, 'A'),
  };
  std::vector<std::string> hostile = probes;
  hostile.push_back(std::string(1 << 16, '\0'));
  hostile.push_back(std::string(4096, '\xff'));
  std::string binary;
  for (int i = 0; i < 5000; ++i) binary += static_cast<char>((i * 7919 + i / 13) & 0xff);
  hostile.push_back(binary);
  const NodeAddresses& ports = node_.addresses();
  for (const std::string& bytes : probes) Exchange(ports.data, bytes, milliseconds(30));
  for (const std::string& port : {ports.control, ports.http}) {
    for (const std::string& bytes : hostile) Exchange(port, bytes, milliseconds(30));
  }
  EXPECT_EQ(HttpGet(ports.http, "/healthz").status, 200);
  EXPECT_TRUE(node_.process().running());
  ExpectServes(1);
}

}  // namespace
}  // namespace sounder::e2e
