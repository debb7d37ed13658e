// Errors of attending, of nodes that have too much to do, and of nodes that are silent.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/limits.h"
#include "common/wire/control_client.h"
#include "common/wire/control_server.h"
#include "tests/errors/error_case.h"
#include "tests/errors/world.h"

namespace sounder::tests {
namespace {

using enum absl::StatusCode;
using kv_node::SessionDriver;
using std::chrono::milliseconds;
using std::chrono::seconds;

// An attend to layer 1 of a session of 32 rows, changed like this.
absl::Status AttendItemWith(const wire::SessionSpec& spec, bool sampled,
                            const std::function<void(wire::AttendItem&)>& change) {
  World world;
  const auto session = world.OpenSpec(spec);
  for (const uint32_t layer : {0u, 1u}) {
    (void)world.Send({SessionDriver::Item(*session, layer + 1, layer, 0, 32)});
  }
  wire::AttendItem item = SessionDriver::Query(*session, 2, 1, {0, 32}, sampled);
  change(item);
  return world.Send(item);
}

absl::Status FetchWith(bool tokens, uint32_t layer) {
  World world;
  const auto session = world.OpenSpec(SessionDriver::Spec(1));
  (void)world.Send({SessionDriver::Item(*session, 1, 0, 0, 16)});
  wire::FetchItem item;
  item.session = session->spec().session;
  item.layer = layer;
  item.kv_head_count = tokens ? 0 : 2;
  item.range = {0, 16};
  item.head_dim = 16;
  item.dtype = base::DType::kBF16;
  item.want_tokens = tokens;
  return world.Send(item);
}

absl::Status TooManyWaiters() {
  kv_node::SessionDriver driver;
  const auto session = driver.Open(SessionDriver::Spec(1));
  absl::Status status;
  while (status.ok()) {
    const auto answer = driver.Plan(*session, SessionDriver::Query(*session, 1, 0, {0, 0}));
    if (answer->has_value()) status = (*answer)->status();
  }
  driver.map.CloseAll(absl::UnavailableError("over"));
  return status;
}

absl::Status AttendBlockOf(uint32_t queries) {
  World world;
  const Session session = world.OpenWithRows(4);
  const std::vector<float> vectors(size_t{queries} * 4 * 16, 1.0f);
  return world.Attend(session, 4, [&](gpu_worker::AttendQuery& query) {
    query.query_count = queries;
    query.queries = vectors.data();
  });
}

// A worker's session of 20 rows, and what it is asked for.
absl::Status With20Rows(const std::function<absl::Status(World&, const Session&)>& ask) {
  World world;
  const Session session = world.OpenWithRows(20);
  return ask(world, session);
}

absl::Status ExpiredInQueue() {
  BusyServer server;
  wire::Envelope envelope;
  envelope.deadline_us = 100000;
  server.driver.Attend({SessionDriver::Query(*server.session, 0, 0, {0, 0})}, envelope);
  server.RunFor(milliseconds(200));
  server.executor.GoOn();
  return server.FirstRefusal();
}

// `busy`: others' work alone takes all of its time, whatever it asks for.
absl::Status WithoutTimeLeft(bool busy) {
  BusyServer server;
  const auto attend = [&](base::Duration deadline) {
    wire::Envelope envelope;
    envelope.deadline_us = static_cast<uint32_t>(deadline / std::chrono::microseconds(1));
    server.driver.Attend({SessionDriver::Query(*server.session, 1, 0, {0, 64})}, envelope);
  };
  server.driver.Append({SessionDriver::Item(*server.session, 1, 0, 0, 64)});
  attend(seconds(1));
  server.executor.GoOn();
  for (int i = 0; busy && i < 200; ++i) attend(seconds(1));
  absl::Status status = server.FirstRefusal();
  for (int i = 0; i < 400 && status.ok(); ++i) {
    attend(std::chrono::microseconds(1));
    status = server.FirstRefusal();
  }
  return status;
}

absl::Status FullQueue() {
  BusyServer server({.max_attends = 2});
  for (int i = 0; i < 2; ++i) {
    server.driver.Attend({SessionDriver::Query(*server.session, 0, 0, {0, 0})});
  }
  return server.FirstRefusal();
}

absl::Status NoRoomForMessage() {
  BusyServer server({.intake = {.message_bytes = 50000}});
  server.driver.Append({SessionDriver::Item(*server.session, 1, 0, 0, 400)});
  return server.FirstRefusal();
}

absl::Status ManyPartialOutputs() {
  BusyServer server;
  server.driver.Append({SessionDriver::Item(*server.session, 1, 0, 0, 16 * 260)});
  server.executor.GoOn();
  (void)server.driver.transport.Take();
  wire::AttendItem item = SessionDriver::Query(*server.session, 1, 0, {0, 16 * 260});
  item.query_count = base::kMaxQueryBlock;
  server.driver.Attend({item});
  server.executor.GoOn();
  return server.FirstRefusal();
}

absl::Status ManyUnanswered() {
  base::VirtualExecutor executor(1);
  transport::LoopbackFabric fabric(&executor);
  wire::DataNode node(&fabric, "node0:7401");
  node.SetAnswer([](const transport::Message&) { return std::vector<transport::Message>(); });
  auto transport = std::make_unique<transport::LoopbackTransport>(&fabric, "worker:0");
  wire::DataClient client(transport.get(), &executor, {.max_pending = 2});
  (void)transport->Start(&client);
  const auto index = client.AddNode("node0:7401");
  absl::Status last;
  for (int i = 0; i < 3; ++i) {
    client.Attend(index, wire::AttendOf(1), seconds(1), [&last](const auto& reply) {
      if (absl::IsResourceExhausted(reply.status())) last = reply.status();
    });
  }
  executor.RunUntil([&last] { return !last.ok(); });
  transport = nullptr;
  return last;
}

LocalClusterOptions Watching() {
  LocalClusterOptions options;
  options.heartbeats = true;
  return options;
}

// A node that stands still, and what a worker is told that asks now or `later`.
absl::Status OfFrozen(const LocalClusterOptions& options, base::Duration later) {
  World world(options);
  const Session session = world.OpenWithRows(8);
  (void)world->WaitAppended(session.get(), 8);
  world.cluster().Freeze(0);
  world.RunFor(later);
  return world.Attend(session, 8);
}

// An attend in flight when the node is found to be silent by another one, or dies.
absl::Status InFlight(bool dies) {
  World world;
  const Session session = world.OpenWithRows(8);
  (void)world->WaitAppended(session.get(), 8);
  world.cluster().Freeze(0);
  const std::vector<float> vectors(4 * 16, 1.0f);
  std::vector<gpu_worker::AttendQuery> first{ExactQuery(session.get(), vectors, {0, 8})};
  auto pending = world->StartAttend(0, first);
  world.RunFor(milliseconds(100));
  std::vector<gpu_worker::AttendQuery> second{ExactQuery(session.get(), vectors, {0, 8})};
  auto other = world->StartAttend(0, second);
  if (dies) {
    world.RunFor(milliseconds(100));
    world.cluster().Kill(0);
  }
  pending->Wait();
  other->Wait();
  return second[0].status;
}

absl::Status ControlOfFrozen(bool again) {
  World world;
  world.cluster().Freeze(0);
  const absl::Status first = world->Open(World::Options(1)).status();
  if (!again) return first;
  World other;
  const Session session = other.Open();
  other.cluster().Freeze(0);
  (void)other->Open(World::Options(2));
  return other->Close(session.get());
}

absl::Status ControlOverTcpHangs() {
  wire::FakeService service(wire::FakeService::Mode::kHold);
  const auto server = wire::ControlServer::Start("127.0.0.1:0", &service);
  wire::ControlClient client((*server)->address(), milliseconds(50));
  const absl::Status status = client.Status().status();
  service.Release();
  return status;
}

}  // namespace

ErrorGroup AttendErrors() {
  return {
      "Attending and reading back",
      "",
      {
          {kFailedPrecondition,
           {{"positions [<n>, <n>) were asked for, but position <n> is not held; held are [<n>, "
             "<n>)",
             [] {
               return AttendItemWith(SessionDriver::Spec(1), false, [](wire::AttendItem& item) {
                 item.range = {0, 40};
               });
             }},
            {"token ids of [<n>, <n>) were asked for, but position <n> has none",
             [] { return FetchWith(/*tokens=*/true, 0); }}},
           "The node has not all that was asked for: appended elsewhere, truncated, or appended "
           "without token ids.",
           "Ask for what was appended and acknowledged."},
          {kOutOfRange,
           {{"positions [<n>, <n>) were asked for; session <session> ends at position <n>",
             [] {
               return With20Rows([](World& world, const Session& session) {
                 return world->Fetch(session.get(), 0, {0, 21}).status();
               });
             }}},
           "Rows beyond the session's end were to be read back.",
           "Ask for less."},
          {kFailedPrecondition,
           {{"session <session> has <index>, the request wants '<attention>'",
             [] {
               return AttendItemWith(SessionDriver::Spec(1), true, [](wire::AttendItem& item) {
                 item.attention = wire::AttentionKind::kSketch;
               });
             }},
            {"layer <n> of session <session> has no index; ask for exact",
             [] {
               return AttendItemWith(SessionDriver::Spec(1), true,
                                     [](wire::AttendItem& item) { item.layer = 0; });
             }},
            {"session <session> keeps a copy of its rows in 'int8' for sampling, the request wants "
             "rows as appended",
             [] {
               return AttendItemWith(
                   SessionDriver::SketchSpec(1), true,
                   [](wire::AttendItem& item) { item.row_format = wire::RowFormat::kAsAppended; });
             }},
            {"row format 'int8': session <session> was not opened with it and keeps rows as "
             "appended only",
             [] {
               return AttendItemWith(SessionDriver::Spec(1), false, [](wire::AttendItem& item) {
                 item.row_format = wire::RowFormat::kInt8;
               });
             }}},
           "How a session samples is fixed when it is opened; the request wants another way.",
           "Ask as the session was opened, or exactly."},
          {kInvalidArgument,
           {{"signatures of <n> words; the session has <index>",
             [] {
               return AttendItemWith(SessionDriver::Spec(1), true,
                                     [](wire::AttendItem& item) { item.signature_words = 2; });
             }},
            {"queries of layer <n>, head dim <n>, groups of <n>; the session has <n> layers, head "
             "dim <n>, groups of <n>",
             [] {
               return AttendItemWith(SessionDriver::Spec(1), false,
                                     [](wire::AttendItem& item) { item.layer = 5; });
             }},
            {"rows of layer <n>, head dim <n>, <dtype> were asked for; the session has <n> layers, "
             "head dim <n>, <dtype>",
             [] { return FetchWith(/*tokens=*/false, 5); }}},
           "The request does not fit the session it names.",
           "A client of yours mixes up sessions or models; `sounder_worker` does not."},
          {kInvalidArgument,
           {{"a block of <n> queries takes <n> bytes; at most <n> fit into a message",
             [] { return AttendBlockOf(1u << 20); }}},
           "One query block is larger than a message may be.",
           "Attend with smaller blocks (`--prefill-tokens`)."},
          {kDeadlineExceeded,
           {{"session <session> waited too long for rows in flight, being indexed or being read",
             [] {
               return AttendItemWith(SessionDriver::Spec(1), false,
                                     [](wire::AttendItem& item) { item.sequence = 9; });
             }}},
           "Rows that the request counts on did not arrive, or were not indexed or read back from "
           "a disk, within the deadline.",
           "Try again; if it lasts, the node is behind (`sounder_node_index_backlog_rows`): raise "
           "`--deadline` or the node's `--threads`."},
          {kResourceExhausted,
           {{"<n> requests wait for session <session> already", [] { return TooManyWaiters(); }}},
           "Thousands of requests for one session wait for rows that do not come.",
           "Wait for answers before asking on."},
      }};
}

ErrorGroup LoadErrors() {
  return {
      "Nodes with more to do than they can",
      "Refusals come at once and say when to come again; the client library does, within the "
      "request's deadline. What is\nseen is what no deadline allowed. "
      "`sounder_node_refused_requests_total` counts them by reason.",
      {
          {kResourceExhausted,
           {{"the attend would not be done in its <n> us: <n> us of work for <n> threads lie "
             "before its own <n> us",
             [] { return WithoutTimeLeft(/*busy=*/false); }},
            {"the attend would not be done in its <n> us: <n> us of work for <n> threads lie "
             "before it",
             [] { return WithoutTimeLeft(/*busy=*/true); }}},
           "The node has more work than can be done before the deadline.",
           "Fewer workers, more nodes or `--threads`, smaller `--rows`, a longer `--deadline`."},
          {kResourceExhausted,
           {{"the node has taken on <n> attends, and as many of this connection as its share "
             "allows (--max-attends)",
             [] { return FullQueue(); }}},
           "More requests are under way than `--max-attends`.",
           "As above; raise `--max-attends` if requests are small."},
          {kDeadlineExceeded,
           {{"the attend waited <n> us for its turn on the node, too long for its deadline",
             [] { return ExpiredInQueue(); }}},
           "Work before it took longer than the node had expected.",
           "As above."},
          {kResourceExhausted,
           {{"a request of <n> bytes with its answer; the node holds <n> bytes of messages, <n> "
             "of this connection (answers it has not taken included), at most <n> in all and for "
             "one as much as is left free (--message-memory)",
             [] { return NoRoomForMessage(); }}},
           "Requests and answers held in memory have reached their bound, or this connection its "
           "share of it.",
           "Take answers faster, ask for less at once, or raise `--message-memory`."},
          {kResourceExhausted,
           {{"partial outputs of <n> bytes, with <n> of <n> in use by the request; ask for fewer "
             "queries or positions at once",
             [] { return ManyPartialOutputs(); }}},
           "A block of many queries over many segments needs too much memory at once.",
           "Attend with smaller blocks (`--prefill-tokens`)."},
          {kResourceExhausted,
           {{"node <node>: <n> requests wait for their answers already",
             [] { return ManyUnanswered(); }}},
           "The worker itself has thousands of requests in flight.",
           "Wait for answers before asking on."},
      }};
}

ErrorGroup SilenceErrors() {
  return {
      "Nodes that do not answer",
      "",
      {
          {kDeadlineExceeded,
           {{"node <node> did not answer within <deadline>",
             [] { return OfFrozen({}, base::Duration()); }},
            {"node <node> did not answer a control call within <n> ms",
             [] { return ControlOfFrozen(/*again=*/false); }},
            {"node <node> did not answer a control call within <n> ms",
             [] { return ControlOverTcpHangs(); }}},
           "The node stands still (stopped, swapping, out of CPU), the network loses everything, "
           "or `--deadline` is too short.",
           "Look at the node; raise `--deadline` if it is merely slow."},
          {kUnavailable,
           {{"node <node> is away, since <time>: <reason>",
             [] { return OfFrozen(Watching(), seconds(30)); }},
            {"node <node>: the node went silent", [] { return InFlight(/*dies=*/false); }},
            {"node <node>: it said nothing for <time>",
             [] {
               LocalClusterOptions options = Watching();
               options.client.deadline = seconds(60);
               return OfFrozen(options, base::Duration());
             }},
            {"node <node> did not answer a moment ago",
             [] { return ControlOfFrozen(/*again=*/true); }}},
           "The node has said nothing for a heartbeat or a deadline, and is not waited for again "
           "until it answers.",
           "Look at the node. The worker tries it by itself and goes on when it is back."},
          {kUnavailable,
           {{"node <node>: <reason>", [] { return InFlight(/*dies=*/true); }}},
           "The connection broke: the node ended, or the network did.",
           "Restart the node. Its durable sessions are there again, and go on when they are "
           "adopted; "
           "others are lost, and computed again by whoever needs them."},
      }};
}

}  // namespace sounder::tests
