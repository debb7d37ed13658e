// Errors of starting, opening and appending.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/wire/control_client.h"
#include "common/wire/control_server.h"
#include "common/wire/local_control.h"
#include "kv_node/server/node_service.h"
#include "tests/errors/error_case.h"
#include "tests/errors/world.h"

namespace sounder::tests {
namespace {

using enum absl::StatusCode;
using kv_node::SessionDriver;
using std::chrono::milliseconds;
using std::chrono::seconds;

// A worker that starts with nodes which say this of themselves.
absl::Status StartWith(const std::vector<wire::NodeStatus>& nodes) {
  base::VirtualExecutor executor(1);
  transport::LoopbackFabric fabric(&executor);
  transport::LoopbackTransport transport(&fabric, "worker:0");
  std::vector<std::unique_ptr<wire::FakeService>> services;
  std::vector<std::unique_ptr<wire::ControlChannel>> channels;
  for (size_t i = 0; i < nodes.size(); ++i) {
    services.push_back(std::make_unique<wire::FakeService>());
    services.back()->node = nodes[i];
    channels.push_back(std::make_unique<wire::LocalControl>(
        "host" + std::to_string(i) + ":7400", [service = services.back().get()] { return service; },
        &executor, seconds(1)));
  }
  return gpu_worker::KvClient::Create({}, std::move(channels), &transport, &executor).status();
}

wire::NodeStatus NodeAt(const std::string& data, uint32_t version = wire::kProtocolVersion) {
  wire::NodeStatus node;
  node.data_address = data;
  node.protocol_version = version;
  return node;
}

// What a node answers that has no data plane yet, or is about to end.
absl::Status AskService(bool ending) {
  base::VirtualExecutor executor(1);
  kv_node::SessionMap sessions({}, &executor);
  kv_node::NodeService service(&sessions, &executor, seconds(1), [] { return wire::NodeStatus(); });
  absl::Status status;
  if (ending) {
    service.ShutDown();
    service.Open(SessionDriver::Spec(1), [&](const auto& result) { status = result.status(); });
  } else {
    service.Status([&](const auto& result) { status = result.status(); });
  }
  return status;
}

absl::Status WhileDraining(bool fork) {
  World world;
  const Session session = world.OpenWithRows(4);
  (void)world.control().Drain(true);
  if (fork) return world->Fork(session.get(), 4).status();
  return world->Open(World::Options(2)).status();
}

absl::Status OpenSecond(const std::function<void(gpu_worker::RemoteSessionOptions&)>& change) {
  World world;
  const Session session = world.Open();
  gpu_worker::RemoteSessionOptions options = World::Options();
  change(options);
  return world->Open(options).status();
}

absl::Status OpenWith(const std::function<void(gpu_worker::RemoteSessionOptions&)>& change) {
  World world;
  gpu_worker::RemoteSessionOptions options = World::Options();
  change(options);
  return world->Open(options).status();
}

absl::Status OpenAt(const kv_node::SessionMapOptions& sessions, int count) {
  LocalClusterOptions options;
  options.sessions = sessions;
  World world(options);
  for (int i = 1; i < count; ++i) (void)world->Open(World::Options(static_cast<uint64_t>(i)));
  return world->Open(World::Options(static_cast<uint64_t>(count))).status();
}

absl::Status OpenSpecWith(const std::function<void(wire::SessionSpec&)>& change) {
  World world;
  wire::SessionSpec spec = SessionDriver::Spec(1);
  change(spec);
  return world.control().Open(spec).status();
}

// 16 rows of layer 0 are there; then an append changed like this.
absl::Status AppendWith(const std::function<void(wire::AppendItem&)>& change) {
  World world;
  const auto session = world.OpenSpec(SessionDriver::Spec(1));
  (void)world.Send({SessionDriver::Item(*session, 1, 0, 0, 16)});
  wire::AppendItem item = SessionDriver::Item(*session, 2, 0, 16, 4);
  change(item);
  return world.Send({item});
}

// Two appends of four rows each, with token ids, of different layers.
absl::Status AppendTokens(base::Position first_position, int32_t token) {
  World world;
  const auto session = world.OpenSpec(SessionDriver::Spec(1));
  const std::vector<int32_t> first(4, 7);
  const std::vector<int32_t> others(4, token);
  wire::AppendItem item = SessionDriver::Item(*session, 1, 0, first_position, 4);
  item.tokens = first;
  (void)world.Send({item});
  item = SessionDriver::Item(*session, 2, 1, 0, 4);
  item.tokens = others;
  return world.Send({item});
}

absl::Status TooManyEarly() {
  kv_node::SessionDriver driver;
  const auto session = driver.Open(SessionDriver::Spec(1));
  absl::Status status;
  for (uint64_t sequence = 2; status.ok(); ++sequence) {
    const auto answer = driver.Send(*session, SessionDriver::Item(*session, sequence, 0, 0, 1));
    if (answer->has_value()) status = (*answer)->status;
  }
  driver.map.CloseAll(absl::UnavailableError("over"));
  return status;
}

absl::Status AnotherOfThatNumber() {
  World world;
  const auto session = world.OpenSpec(SessionDriver::Spec(1));
  session->Append(SessionDriver::Item(*session, 2, 0, 0, 0), base::Time::max(),
                  [](const kv_node::AppendResult&) {});
  return world.control().Truncate({session->spec().session, 2}, 0);
}

// The node hears nothing of appends, or is heard of no more.
absl::Status AppendUnheard(bool whole_window) {
  LocalClusterOptions options;
  options.client.deadline = seconds(1);
  options.client.append_window_bytes = whole_window ? 1024 : int64_t{64} << 20;
  options.client_tap = [whole_window](const transport::Message& message) {
    const auto envelope = wire::DecodeEnvelope(message);
    return whole_window || envelope->kind != wire::MessageKind::kAppend;
  };
  World world(options);
  const Session session = world.Open();
  if (!whole_window) {
    (void)world.Append(session, 4);
    return world->WaitAppended(session.get(), 4);
  }
  world.cluster().Freeze(0);
  absl::Status status;
  for (int i = 0; i < 8 && status.ok(); ++i) status = world.Append(session, 16);
  return status;
}

// A session as a restart finds it, and its writer, who has not noticed.
absl::Status AppendAfterRestart() {
  kv_node::MemoryBudget budget(uint64_t{1} << 20);
  kv_node::SessionDriver driver;
  const auto session = driver.Open(kv_node::SessionDriver::Spec(1));
  kv_node::RecordedRows rows(&budget);
  rows.streams = kv_node::Session::MakeStreams(session->spec(), session->sampler(), &budget);
  const absl::Status restored = session->StartFrom(std::move(rows));
  if (!restored.ok()) return restored;
  const auto answer = driver.Send(*session, driver.Item(*session, 1, 0, 0, 1));
  return answer->has_value() ? (*answer)->status : absl::UnknownError("no answer");
}

}  // namespace

ErrorGroup StartErrors() {
  return {
      "Starting and connecting",
      "",
      {
          {kInvalidArgument,
           {{"no nodes were named (--nodes)", [] { return StartWith({}); }}},
           "The worker was given no node.",
           "Name the control addresses of all nodes: `--nodes a:7400,b:7400`."},
          {kInvalidArgument,
           {{"nodes <node> and <node> are one: both have the data address <address>; a node can be "
             "named once (--nodes)",
             [] {
               return StartWith({NodeAt("a:7401"), NodeAt("a:7401")});
             }}},
           "Two names in `--nodes` lead to the same node.",
           "Remove one of them."},
          {kFailedPrecondition,
           {{"protocol version mismatch: node <node> speaks version <n>, this worker speaks "
             "version <n>",
             [] { return StartWith({NodeAt("a:7401", 2)}); }},
            {"protocol version mismatch: the worker speaks version <n>, this node speaks version "
             "<n>",
             [] { return OpenOverTcp([](wire::SessionSpec& s) { s.protocol_version = 2; }); }}},
           "Worker and node are of different releases.",
           "Install the same release on both sides."},
          {kUnavailable,
           {{"cannot listen on control address <address>: <reason>",
             [] {
               wire::FakeService service;
               const auto first = wire::ControlServer::Start("127.0.0.1:0", &service);
               return wire::ControlServer::Start((*first)->address(), &service).status();
             }}},
           "The address is not of this machine, or its port is taken, often by a node that still "
           "runs.",
           "End the other program, or give another `--control`."},
          {kUnavailable,
           {{"node <node> (control): <reason>",
             [] { return wire::ControlClient("127.0.0.1:1", seconds(5)).Status().status(); }}},
           "Nothing listens at that address, the node's name is unknown, or the connection broke.",
           "Look whether the node runs, and whether `--nodes` has its control port (7400)."},
          {kUnavailable,
           {{"the node is starting: it has no data plane yet", [] { return AskService(false); }}},
           "The node answers on its control port while the rest of it still starts.",
           "Try again in a second; `/readyz` says when."},
          {kUnavailable,
           {{"the node is draining and takes no new sessions", [] { return WhileDraining(false); }},
            {"the node is draining and takes no new sessions", [] { return WhileDraining(true); }}},
           "An operator has told the node to take no new sessions, forks included.",
           "Use other nodes, or end the draining (call `drain` of the control plane)."},
          {kUnavailable,
           {{"the node is shutting down", [] { return AskService(true); }}},
           "The node was told to end (SIGTERM) and refuses what is new.",
           "Use other nodes. When it has ended its sessions are gone, but for durable ones, which "
           "it "
           "has again when it starts (whoever adopts them goes on)."},
          {kFailedPrecondition,
           {{"<call>: this node keeps sessions in memory only (it has no --store)",
             [] {
               World world;
               return world.control().Spill({1, 1});
             }},
            {"<call>: this node keeps sessions in memory only (it has no --store)",
             [] {
               World world;
               return world.control().Load({1, 1});
             }}},
           "Segments can only be moved on a node that has a disk to move them to.",
           "Start the node with `--store FOLDER`."},
      }};
}

ErrorGroup OpenErrors() {
  return {
      "Opening a session",
      "",
      {
          {kAlreadyExists,
           {{"session <session> is another tenant's",
             [] { return OpenSecond([](auto& options) { options.tenant = 7; }); }},
            {"session <session> is another tenant's",
             [] {
               World world;
               auto options = World::Options(2);
               options.tenant = 7;
               const Session child = world.Open(options);
               const Session parent = world.OpenWithRows(4);
               return world->Fork(parent.get(), 4, child->id()).status();
             }}},
           "The id is in use by somebody else.",
           "Leave the id empty: a random one is taken."},
          {kFailedPrecondition,
           {{"session <session> belongs to another model than the request: <difference>",
             [] {
               return OpenSecond([](auto& options) { options.model.weights_digest = "other"; });
             }}},
           "The session was opened by a worker with other weights, shapes, RoPE or adapter.",
           "Use the model that the message names, or another session id."},
          {kAlreadyExists,
           {{"session <session> is open with other options: <difference>",
             [] { return OpenSecond([](auto& options) { options.seal_rows = 32; }); }}},
           "The session is open already; what differs may be its epoch alone, which no two of an "
           "id "
           "have in common.",
           "Close it first, adopt it (`chat --adopt`, `Adopt`), or take another id."},
          {kResourceExhausted,
           {{"the node holds <n> sessions, its most (--max-sessions)",
             [] { return OpenAt({.max_sessions = 2}, 3); }}},
           "There are as many sessions as the node may have.",
           "Close sessions, give them a `--ttl`, or raise the node's `--max-sessions`."},
          {kResourceExhausted,
           {{"the node's memory is full: <n> more bytes wanted, <n> of <n> in use (--memory)",
             [] { return OpenAt({.memory_bytes = 64}, 1); }}},
           "Rows and indexes of all sessions have reached the node's cap: `--memory`, with a disk "
           "less `--row-cache-percent` of it. Appends and forks meet it as well.",
           "Close sessions, raise `--memory`, add nodes, or give the node a disk (`--store`), to "
           "which rows then go. If it has one, see there."},
          {kFailedPrecondition,
           {{"durability 'disk': this node keeps sessions in memory only (it has no --store)",
             [] {
               return OpenSpecWith(
                   [](wire::SessionSpec& s) { s.durability = wire::Durability::kDisk; });
             }}},
           "The session asks to survive the node's end.",
           "Start the node with `--store FOLDER`, or open the session without."},
          {kInvalidArgument,
           {{"row format 'int8': only sessions with sketches keep rows in eight bits",
             [] {
               return OpenWith([](auto& options) { options.row_format = wire::RowFormat::kInt8; });
             }}},
           "`--row-format int8` without `--attention sketch`.",
           "Use sketches, or rows as appended."},
          {kInvalidArgument,
           {{"head shards <n>, expected 1 to the model's <n> kv heads",
             [] { return OpenWith([](auto& options) { options.head_shards = 3; }); }},
            {"seal rows <n>, expected 1 or more",
             [] { return OpenWith([](auto& options) { options.seal_rows = 0; }); }},
            {"shard rows <n>, expected 0 or a multiple of seal rows <n>",
             [] { return OpenWith([](auto& options) { options.shard_rows = 17; }); }}},
           "The session cannot be cut like that over nodes.",
           "Give what the message expects."},
          {kInvalidArgument,
           {{"the session id is empty",
             [] { return OpenOverTcp([](wire::SessionSpec& s) { s.session.id = {}; }); }},
            {"<field> of <n> bytes, at most <n> are allowed",
             [] {
               return OpenOverTcp(
                   [](wire::SessionSpec& s) { s.model.name = std::string(300, 'x'); });
             }},
            {"model of <n> layers and <n> kv heads, expected 1 to <n> and 1 to <n>",
             [] { return OpenOverTcp([](wire::SessionSpec& s) { s.model.layers = 0; }); }},
            {"head dim <n>, expected a multiple of 8 up to <n>",
             [] { return OpenOverTcp([](wire::SessionSpec& s) { s.model.head_dim = 12; }); }},
            {"<n> query heads over <n> kv heads, expected 1 to <n> for each",
             [] { return OpenOverTcp([](wire::SessionSpec& s) { s.model.query_heads = 3; }); }},
            {"kv heads [<n>, +<n>) of a model with <n>, expected one or more of them",
             [] { return OpenOverTcp([](wire::SessionSpec& s) { s.kv_head_count = 3; }); }},
            {"seal rows <n>, at most <n> are allowed",
             [] { return OpenOverTcp([](wire::SessionSpec& s) { s.seal_rows = 1u << 20; }); }},
            {"<n> tables of <n> bits, <n> collisions make a candidate; expected up to <n> tables, "
             "1 to <n> bits, 1 to min(tables, 255) collisions",
             [] { return OpenOverTcp([](wire::SessionSpec& s) { s.lsh.min_collisions = 0; }); }},
            {"sketches of <n> bits, expected 0 (none), 64, 128 or 256",
             [] {
               return OpenOverTcp([](wire::SessionSpec& s) {
                 s.lsh = {};
                 s.sketch.bits = 100;
               });
             }},
            {"sketches of <n> bits and <n> LSH tables; a session has one kind of index",
             [] { return OpenOverTcp([](wire::SessionSpec& s) { s.sketch.bits = 64; }); }},
            {"shards of <n> positions, expected 0 (none) to <n>",
             [] { return OpenOverTcp([](wire::SessionSpec& s) { s.placement.shard_rows = -1; }); }},
            {"indexed layer <n> of a model with <n> layers",
             [] { return OpenOverTcp([](wire::SessionSpec& s) { s.indexed_layers = {2}; }); }},
            {"<n> indexed layers, at most <n> are allowed",
             [] {
               return OpenOverTcp([](wire::SessionSpec& s) { s.indexed_layers.assign(1025, 0); });
             }},
            {"unknown projection <n> or durability <n>, expected 0 or 1",
             [] {
               return OpenOverTcp(
                   [](wire::SessionSpec& s) { s.durability = static_cast<wire::Durability>(2); });
             }}},
           "The session's description is out of the bounds of the protocol.",
           "Give what the message expects. `sounder_worker` never asks for it: it is a client of "
           "yours."},
      }};
}

ErrorGroup AppendErrors() {
  return {
      "Appending",
      "A refused append fails its session at the client: rows are missing on a node. `Adopt` goes "
      "on from what all nodes have.",
      {
          {kFailedPrecondition,
           {{"session <session> was restored up to position <n> when the node restarted: adopt it "
             "to go on",
             [] { return AppendAfterRestart(); }}},
           "The node was started again and found the session on its disk; its writer may know of "
           "rows that are lost.",
           "Adopt it (`chat --adopt`, `\"adopt\"` in a prompt line), and append from its end on."},
          {kAlreadyExists,
           {{"position <n> was appended before; the next one is <n>",
             [] { return AppendWith([](wire::AppendItem& i) { i.first_position = 8; }); }},
            {"position <n> has the token id <n>, it cannot get <n>",
             [] { return AppendTokens(0, 8); }}},
           "Rows or token ids are there already, other ones than these.",
           "Append at the session's end; `Truncate` first to replace rows."},
          {kInvalidArgument,
           {{"session <session>: rows from position <n>, expected <n>, where it ends",
             [] {
               World world;
               const Session session = world.OpenWithRows(4);
               gpu_worker::AppendRows rows;
               rows.row_count = 1;
               return world->Append(session.get(), rows);
             }}},
           "`Append` was given rows that do not begin where the session ends. The session is as it "
           "was.",
           "Append at the session's end (`end()`); `Truncate` first to replace rows."},
          {kFailedPrecondition,
           {{"rows at position <n> would leave a gap: the next position is <n>",
             [] { return AppendWith([](wire::AppendItem& i) { i.first_position = 20; }); }},
            {"position <n> got no token id before those up to position <n> came, it cannot get one "
             "now",
             [] { return AppendTokens(16, 7); }}},
           "Rows or token ids in between are missing.",
           "Append at the session's end."},
          {kInvalidArgument,
           {{"rows of layer <n>, head dim <n>, <dtype>; the session has <n> layers, head dim <n>, "
             "<dtype>",
             [] { return AppendWith([](wire::AppendItem& i) { i.layer = 5; }); }},
            {"<what> of kv heads [<n>, <n>); this node holds [<n>, <n>)",
             [] { return AppendWith([](wire::AppendItem& i) { i.kv_head_begin = 1; }); }},
            {"sequence numbers start at 1",
             [] { return AppendWith([](wire::AppendItem& i) { i.sequence = 0; }); }},
            {"operation <n> of session <session> waits already, and is another one",
             [] { return AnotherOfThatNumber(); }}},
           "The append does not fit the session it names.",
           "A client of yours mixes up sessions; the client library cannot send it."},
          {kDeadlineExceeded,
           {{"operation <n> of session <session> did not arrive",
             [] { return AppendWith([](wire::AppendItem& i) { i.sequence = 9; }); }}},
           "A later operation of the session came, an earlier one did not within the deadline: it "
           "was lost on the way.",
           "Send it again: appends are applied once. The client library does so."},
          {kResourceExhausted,
           {{"operation <n> of session <session>: <n> operations wait for operation <n> already, "
             "the most",
             [] { return TooManyEarly(); }}},
           "Thousands of operations wait for one that does not come.",
           "Send the missing one first."},
          {kDeadlineExceeded,
           {{"rows before position <n> were not acknowledged in time",
             [] { return AppendUnheard(/*whole_window=*/false); }},
            {"node <node> does not keep up with appends: it took none for <n> ms",
             [] { return AppendUnheard(/*whole_window=*/true); }}},
           "The node is slower than the prompt that is written to it (it builds indexes), or "
           "silent.",
           "Look at the node's `sounder_node_index_backlog_rows`; raise `--deadline`; use more "
           "nodes."},
      }};
}

}  // namespace sounder::tests
