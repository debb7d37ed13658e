// Errors of truncating, forking, adopting and closing.
#include <memory>
#include <string>
#include <vector>

#include "tests/errors/error_case.h"
#include "tests/errors/world.h"

namespace sounder::tests {
namespace {

using enum absl::StatusCode;
using kv_node::SessionDriver;

// A session of the node, and what the control plane is asked for.
absl::Status WithSpec(
    const std::function<absl::Status(World&, const std::shared_ptr<kv_node::Session>&)>& ask) {
  World world;
  const auto session = world.OpenSpec(SessionDriver::Spec(1));
  for (const uint32_t layer : {0u, 1u}) {
    (void)world.Send({SessionDriver::Item(*session, layer + 1, layer, 0, 20)});
  }
  return ask(world, session);
}

LocalClusterOptions Nodes(int count) {
  LocalClusterOptions options;
  options.nodes = count;
  return options;
}

// A truncate that one of two nodes does not hear of.
absl::Status TruncateHalf(const std::function<absl::Status(World&, const Session&)>& then) {
  World world(Nodes(2));
  auto options = World::Options();
  options.shard_rows = 16;
  const Session session = world.OpenWithRows(40, options);
  (void)world->WaitAppended(session.get(), 40);
  world.cluster().Freeze(1);
  (void)world->Truncate(session.get(), 4);
  world.cluster().Thaw(1);
  return then(world, session);
}

absl::Status AdoptAfterRestart() {
  World world(Nodes(2));
  auto options = World::Options();
  options.shard_rows = 16;
  const Session session = world.OpenWithRows(40, options);
  (void)world->WaitAppended(session.get(), 40);
  world.cluster().Kill(1);
  world.cluster().Restart(1);
  return world->Adopt(session->id(), 0).status();
}

absl::Status AdoptWithFewerNodes() {
  World world;
  wire::SessionSpec spec = SessionDriver::Spec(1);
  spec.placement = {spec.session.id, 0, 1, 2};
  const auto session = world.OpenSpec(spec);
  return world->Adopt(spec.session.id, 0).status();
}

// A session that another worker has taken over.
absl::Status AfterAdoption(const std::function<absl::Status(World&, const Session&)>& ask) {
  World world;
  const Session session = world.OpenWithRows(8);
  (void)world->WaitAppended(session.get(), 8);
  (void)world->Adopt(session->id(), 0);
  return ask(world, session);
}

absl::Status LostByRestart() {
  World world;
  const Session session = world.OpenWithRows(8);
  (void)world->WaitAppended(session.get(), 8);
  world.cluster().Kill(0);
  world.cluster().Restart(0);
  (void)world.Attend(session, 8);  // finds that the connection is gone
  return world.Attend(session, 8);
}

}  // namespace

ErrorGroup BranchErrors() {
  const auto fork_of = [](const std::shared_ptr<kv_node::Session>& session, base::Position position,
                          base::SessionId child, uint64_t sequence = 2) {
    return wire::ForkCall{{session->spec().session, sequence}, position, {child, 0}, 0};
  };
  return {
      "Truncating, forking, adopting, closing",
      "",
      {
          {kNotFound,
           {{"session <session> is not open on this node",
             [] {
               World world;
               return world.control().Describe({{{9, 9}, 0}, 0, false}).status();
             }},
            {"no node has session <session>",
             [] {
               World world;
               return world->Adopt({9, 9}, 0).status();
             }}},
           "It was closed, its `--ttl` has passed, its node was restarted, or it is another "
           "tenant's.",
           "`sounderctl status --sessions` lists what there is."},
          {kUnavailable,
           {{"node <node> lost the session (was it restarted?); it must be opened and filled anew: "
             "session <session> is not open on this node",
             [] { return LostByRestart(); }},
            {"node <node> lost its part of session <session> (was it restarted?); it must be "
             "opened "
             "and filled anew",
             [] { return AdoptAfterRestart(); }}},
           "A node of the session has ended since and holds nothing any more.",
           "Compute the session again; `chat` does so by itself."},
          {kOutOfRange,
           {{"session <session> ends at position <n>; position <n> lies beyond",
             [] {
               World world;
               const Session session = world.OpenWithRows(20);
               return world->Fork(session.get(), 21).status();
             }}},
           "There is no such row to cut or fork at.",
           "Give a position of 0 to the session's end."},
          {kInvalidArgument,
           {{"position <n>, expected 0 to <n>",
             [] {
               return WithSpec([](World& world, const auto& session) {
                 return world.control().Truncate({session->spec().session, 3}, -1);
               });
             }},
            {"position <n>, expected 0 to <n>",
             [fork_of] {
               return WithSpec([&](World& world, const auto& session) {
                 return world.control().Fork(fork_of(session, -1, {5, 5}));
               });
             }},
            {"the child's id is empty",
             [fork_of] {
               return WithSpec([&](World& world, const auto& session) {
                 return world.control().Fork(fork_of(session, 4, {}));
               });
             }}},
           "The call is not one that the client library makes.",
           "Give what the message expects."},
          {kAlreadyExists,
           {{"session <session> exists, and is not the fork of session <session> at position <n> "
             "after operation <n>, but one of <session>",
             [fork_of] {
               return WithSpec([&](World& world, const auto& session) {
                 (void)world.control().Fork(fork_of(session, 4, {5, 5}));
                 return world.control().Fork(fork_of(session, 8, {5, 5}));
               });
             }},
            {"session <session> exists at epoch <n>, the fork is of epoch <n>",
             [fork_of] {
               return WithSpec([&](World& world, const auto& session) {
                 wire::ForkCall call = fork_of(session, 4, {5, 5});
                 (void)world.control().Fork(call);
                 call.child.epoch = 1;
                 return world.control().Fork(call);
               });
             }}},
           "The id given for the fork is in use.",
           "Leave the id empty: a random one is taken."},
          {kFailedPrecondition,
           {{"session <session> was truncated to position <n> by operation <n>; the request, of "
             "positions before <n>, was made when <n> operations had been issued",
             [] {
               return WithSpec([](World& world, const auto& session) {
                 (void)world.control().Truncate({session->spec().session, 3}, 8);
                 return world.Send(SessionDriver::Query(*session, 2, 1, {0, 20}));
               });
             }}},
           "The request came late: what it asks for has been rolled back since.",
           "Ask again for what there is now."},
          {kFailedPrecondition,
           {{"session <session>: its truncation to position <n> has not reached every node; "
             "truncate it again",
             [] {
               return TruncateHalf(
                   [](World& world, const Session& session) { return world.Attend(session, 4); });
             }},
            {"session <session>: its truncation to position <n> is not finished, position <n> was "
             "asked for",
             [] {
               return TruncateHalf([](World& world, const Session& session) {
                 return world->Truncate(session.get(), 8);
               });
             }}},
           "A node did not answer while the session was rolled back: some have done it, some may "
           "not.",
           "Truncate to the same position again until it succeeds."},
          {kFailedPrecondition,
           {{"session <session> is at epoch <n>, the request at epoch <n>: another worker has "
             "adopted "
             "it",
             [] {
               return AfterAdoption(
                   [](World& world, const Session& session) { return world.Attend(session, 8); });
             }}},
           "Another worker has adopted the session: this one is shut out.",
           "End the old worker, or adopt the session back."},
          {kFailedPrecondition,
           {{"session <session> is at epoch <n> of another holder, the adoption at epoch <n>",
             [] {
               return AfterAdoption([](World& world, const Session& session) {
                 return world.control()
                     .Adopt({{session->id(), session->ref().epoch + 1}, 0, 5})
                     .status();
               });
             }}},
           "Two workers adopt the session at once; the other was first.",
           "Let one of them have it."},
          {kFailedPrecondition,
           {{"node <node> holds kv heads [<n>, +<n>) of session <session>, placed on <n> nodes; "
             "with these <n> nodes in this order it would hold [<n>, +<n>) (--nodes)",
             [] { return AdoptWithFewerNodes(); }}},
           "The session was opened with other `--nodes`, or in another order.",
           "Adopt it with the same nodes in the same order."},
      }};
}

}  // namespace sounder::tests
