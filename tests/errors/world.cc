#include "tests/errors/world.h"

#include <optional>
#include <utility>

#include "common/base/check.h"
#include "common/wire/control_client.h"
#include "common/wire/control_server.h"
#include "common/wire/local_control.h"

namespace sounder::tests {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Shape kShape{.layers = 2, .kv_heads = 2, .group = 2, .dim = 16};

const TestRows& Rows() {
  static const TestRows rows = TestRows::Gaussian(kShape, 256, 1);
  return rows;
}

void RunOn(base::VirtualExecutor& executor, base::Duration duration) { executor.RunFor(duration); }

absl::Status StatusOf(const wire::AttendReply& reply) {
  if (!reply.envelope.status.ok()) return reply.envelope.status;
  for (const auto& item : reply.items) {
    if (!item.status.ok()) return item.status;
  }
  return absl::OkStatus();
}
absl::Status StatusOf(const wire::AppendReply& reply) {
  if (!reply.envelope.status.ok()) return reply.envelope.status;
  for (const auto& item : reply.items) {
    if (!item.status.ok()) return item.status;
  }
  return absl::OkStatus();
}
absl::Status StatusOf(const wire::FetchReply& reply) {
  if (!reply.envelope.status.ok()) return reply.envelope.status;
  for (const auto& item : reply.items) {
    if (!item.status.ok()) return item.status;
  }
  return absl::OkStatus();
}

}  // namespace

World::World(LocalClusterOptions options) {
  cluster_ = std::make_unique<LocalCluster>(std::move(options), &executor_);
  control_ = cluster_->Control(0);
  peer_transport_ = std::make_unique<transport::LoopbackTransport>(&cluster_->fabric(), "peer:0");
  peer_ = std::make_unique<wire::DataClient>(peer_transport_.get(), &executor_,
                                             wire::DataClientOptions{.retry = false});
  CHECK(peer_transport_->Start(peer_.get()).ok());
  node_ = peer_->AddNode(cluster_->Address(0));
}

World::~World() { peer_transport_ = nullptr; }

void World::RunFor(base::Duration duration) { RunOn(executor_, duration); }

gpu_worker::RemoteSessionOptions World::Options(uint64_t number) {
  return SessionOptions(kShape, number, /*seal_rows=*/16);
}

Session World::Open(const gpu_worker::RemoteSessionOptions& options) {
  auto session = cluster().client().Open(options);
  CHECK(session.ok()) << session.status().ToString();
  return *std::move(session);
}

absl::Status World::Append(const Session& session, int64_t rows) {
  const base::PositionRange range{session->end(), session->end() + rows};
  gpu_worker::AppendRows append = Rows().Range(range, /*seal_after=*/false);
  const std::vector<int32_t> tokens(static_cast<size_t>(rows), 7);
  append.tokens = tokens;
  return cluster().client().Append(session.get(), append);
}

Session World::OpenWithRows(int64_t rows, const gpu_worker::RemoteSessionOptions& options) {
  Session session = Open(options);
  const absl::Status appended = Append(session, rows);
  CHECK(appended.ok()) << appended.ToString();
  return session;
}

absl::Status World::Attend(const Session& session, base::Position end,
                           const std::function<void(gpu_worker::AttendQuery&)>& change) {
  const std::vector<float> vectors = GaussianQueries(kShape, 1, 2);
  std::vector<gpu_worker::AttendQuery> queries{ExactQuery(session.get(), vectors, {0, end})};
  if (change != nullptr) change(queries[0]);
  cluster().client().StartAttend(0, queries)->Wait();
  return queries[0].status;
}

std::shared_ptr<kv_node::Session> World::OpenSpec(const wire::SessionSpec& spec) {
  const auto opened = control().Open(spec);
  CHECK(opened.ok()) << opened.status().ToString();
  return *cluster().sessions(0).Find(spec.session.id);
}

template <typename Reply>
absl::Status World::Ask(const std::function<void(wire::DataClient::Callback<Reply>)>& ask) {
  std::optional<absl::Status> end;
  ask([&end](const absl::StatusOr<Reply>& reply) {
    end = reply.ok() ? StatusOf(*reply) : reply.status();
  });
  executor_.RunUntil([&end] { return end.has_value(); });
  CHECK(end.has_value());
  return *end;
}

absl::Status World::Send(wire::AttendItem item) {
  wire::Fill(&item, /*hints=*/false, &tensors_);
  wire::AttendRequest request;
  request.items.push_back(item);
  return Ask<wire::AttendReply>(
      [&](auto done) { peer_->Attend(node_, std::move(request), seconds(5), std::move(done)); });
}

absl::Status World::Send(const std::vector<wire::AppendItem>& items) {
  wire::AppendRequest request;
  for (wire::AppendItem item : items) {
    const bool tokens = !item.tokens.empty();
    const std::span<const int32_t> given = item.tokens;
    wire::Fill(&item, tokens, &tensors_);
    if (tokens) item.tokens = given;
    request.items.push_back(item);
  }
  return Ask<wire::AppendReply>(
      [&](auto done) { peer_->Append(node_, std::move(request), seconds(5), std::move(done)); });
}

absl::Status World::Send(const wire::FetchItem& item) {
  wire::FetchRequest request;
  request.items.push_back(item);
  return Ask<wire::FetchReply>(
      [&](auto done) { peer_->Fetch(node_, std::move(request), seconds(5), std::move(done)); });
}

BusyServer::BusyServer(const kv_node::DataServerOptions& options)
    : driver(&executor, {}, options), session(driver.Open(kv_node::SessionDriver::Spec(1))) {}

BusyServer::~BusyServer() {
  driver.map.CloseAll(absl::UnavailableError("over"));
  executor.GoOn();
  session = nullptr;
}

void BusyServer::RunFor(base::Duration duration) { RunOn(time, duration); }

absl::Status BusyServer::FirstRefusal() {
  for (transport::Message& message : driver.transport.Take()) {
    const absl::StatusOr<wire::Envelope> envelope = wire::DecodeEnvelope(message);
    CHECK(envelope.ok()) << envelope.status().ToString();
    if (!envelope->status.ok()) return envelope->status;
    if (envelope->kind != wire::MessageKind::kAttendReply) continue;
    const absl::Status status = StatusOf(*wire::DecodeAttendReply(std::move(message)));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

namespace {

// A worker whose only node answers the data plane as told, and the control plane like a node.
struct Liar {
  explicit Liar(const wire::DataNode::Answer& answer)
      : fabric(&executor), node(&fabric, "node0:7401"), transport(&fabric, "worker:0") {
    node.SetAnswer(answer);
    service.node.data_address = "node0:7401";
    service.node.protocol_version = wire::kProtocolVersion;
    std::vector<std::unique_ptr<wire::ControlChannel>> channels;
    channels.push_back(std::make_unique<wire::LocalControl>(
        "node0:7400", [this] { return &service; }, &executor, seconds(1)));
    auto created =
        gpu_worker::KvClient::Create({.liveness = {}}, std::move(channels), &transport, &executor);
    CHECK(created.ok()) << created.status().ToString();
    client = *std::move(created);
    auto opened = client->Open(SessionOptions(Shape{}, 1, 16));
    CHECK(opened.ok()) << opened.status().ToString();
    session = *std::move(opened);
    rows = std::make_unique<TestRows>(TestRows::Gaussian(Shape{}, 1, 1));
    appended = client->Append(session.get(), rows->Range({0, 1}, false));
  }

  base::VirtualExecutor executor{1};
  transport::LoopbackFabric fabric;
  wire::DataNode node;
  wire::FakeService service;
  std::unique_ptr<gpu_worker::KvClient> client;
  transport::LoopbackTransport transport;  // goes before the client
  std::unique_ptr<TestRows> rows;
  absl::Status appended;
  Session session;
};

// Appends are answered rightly unless they are what it is about.
wire::DataNode::Answer OnlyTo(wire::MessageKind kind, const wire::DataNode::Answer& answer) {
  return [kind, answer](const transport::Message& message) {
    const auto envelope = wire::DecodeEnvelope(message);
    const bool meant = envelope.ok() && envelope->kind == kind;
    return meant ? answer(message) : wire::RightAnswer(message);
  };
}

}  // namespace

absl::Status WhenAttendIsAnswered(const wire::DataNode::Answer& answer) {
  Liar liar(OnlyTo(wire::MessageKind::kAttend, answer));
  const std::vector<float> vectors(8, 1.0f);
  std::vector<gpu_worker::AttendQuery> queries{ExactQuery(liar.session.get(), vectors, {0, 1})};
  liar.client->StartAttend(0, queries)->Wait();
  return queries[0].status;
}

absl::Status WhenAppendIsAnswered(const wire::DataNode::Answer& answer) {
  Liar liar(OnlyTo(wire::MessageKind::kAppend, answer));
  return liar.client->WaitAppended(liar.session.get(), 1);
}

absl::Status WhenFetchIsAnswered(const wire::DataNode::Answer& answer) {
  Liar liar(OnlyTo(wire::MessageKind::kFetch, answer));
  return liar.client->Fetch(liar.session.get(), 0, {0, 1}).status();
}

absl::Status WhenAnswerHas(const std::function<void(wire::AttendReplyItem&)>& change) {
  return WhenAttendIsAnswered([&change](const transport::Message& message) {
    wire::Tensors tensors(1);
    wire::AttendReply reply;
    reply.envelope = *wire::DecodeEnvelope(message);
    reply.envelope.kind = wire::MessageKind::kAttendReply;
    wire::AttendReplyItem item = wire::SmallReply(&tensors);
    change(item);
    const std::span<const float> masses = item.head_mass;
    wire::Fill(&item, /*error_terms=*/!masses.empty(), &tensors);
    if (!masses.empty()) item.head_mass = masses;
    reply.items.push_back(item);
    std::vector<transport::Message> answers;
    answers.push_back(wire::Encode(reply));
    return answers;
  });
}

transport::Message WithShape(transport::Message message,
                             const std::function<void(wire::PayloadShape&)>& change) {
  wire::PayloadShape shape;
  const absl::StatusOr<wire::Envelope> envelope = wire::DecodeHeader(message.header, &shape);
  CHECK(envelope.ok()) << envelope.status().ToString();
  change(shape);
  message.header = wire::EncodeHeader(*envelope, shape);
  return message;
}

absl::Status WhenAppendArrivesAs(
    const std::function<transport::Message(transport::Message)>& change) {
  base::VirtualExecutor executor(1);
  kv_node::ServerDriver driver(&executor);
  wire::Tensors tensors(1);
  wire::AppendRequest request;
  request.envelope.kind = wire::MessageKind::kAppend;
  request.items.push_back(wire::SmallAppend(&tensors));
  driver.server.OnMessage(1, change(wire::Encode(request)));
  std::vector<transport::Message> answers = driver.transport.Take();
  CHECK(answers.size() == 1) << answers.size() << " answers";
  const absl::StatusOr<wire::Envelope> envelope = wire::DecodeEnvelope(answers[0]);
  CHECK(envelope.ok()) << envelope.status().ToString();
  return envelope->status;
}

absl::Status OpenOverTcp(const std::function<void(wire::SessionSpec&)>& change) {
  wire::FakeService service;
  const auto server = wire::ControlServer::Start("127.0.0.1:0", &service);
  CHECK(server.ok()) << server.status().ToString();
  wire::ControlClient client((*server)->address(), seconds(30));
  wire::SessionSpec spec = kv_node::SessionDriver::Spec(1);
  change(spec);
  return client.Open(spec).status();
}

absl::Status DescribeOverTcp(const std::function<void(wire::SessionInfo&)>& change) {
  wire::FakeService service;
  service.info.spec = kv_node::SessionDriver::Spec(1);
  change(service.info);
  const auto server = wire::ControlServer::Start("127.0.0.1:0", &service);
  CHECK(server.ok()) << server.status().ToString();
  wire::ControlClient client((*server)->address(), seconds(30));
  return client.Describe({}).status();
}

}  // namespace sounder::tests
