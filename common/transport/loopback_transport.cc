#include "common/transport/loopback_transport.h"

#include <algorithm>
#include <deque>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/base/strand.h"
#include "common/transport/address.h"
#include "common/transport/message_limits.h"

namespace sounder::transport {

// A machine. `events` and the running of entries are guarded by `delivery`, all else by the
// fabric's mutex. Lock order: delivery, then the fabric's mutex.
struct LoopbackNode {
  LoopbackNode(base::Executor* executor, std::string own_name)
      : strand(executor), name(std::move(own_name)) {}

  struct Entry {  // run by this node only, so it may point to it
    base::Work work = nullptr;
    bool is_message = false;  // the dead hear no more messages
  };

  base::Strand strand;
  std::string name;
  std::mutex delivery;
  TransportEvents* events = nullptr;
  std::deque<Entry> queue;
  std::vector<std::string> listening;
  std::unordered_map<ConnectionId, std::shared_ptr<LoopbackLink>> links;
  ConnectionId next_connection = 1;
  bool dead = false;
  bool frozen = false;
};

// A connection. Side 0 made it, side 1 accepted it. Guarded by the fabric's mutex.
struct LoopbackLink {
  struct Parcel {
    Message message = {};
    SendDone done = nullptr;
    bool is_goodbye = false;
  };
  struct Side {
    std::shared_ptr<LoopbackNode> node;  // null once this side is closed, or not there yet
    ConnectionId id = 0;
    std::string peer;
    std::deque<Parcel> outbound;  // sent by this side, not yet arrived
    size_t arrived = 0;           // leading parcels of `outbound` whose time has come
    base::Time line_free_at{};    // when the last bit of `outbound` leaves this side
  };

  // Which side the connection `id` of `node` is (a machine may connect to itself).
  int SideOf(const LoopbackNode& node, ConnectionId id) const {
    return sides[0].node.get() == &node && sides[0].id == id ? 0 : 1;
  }

  Side sides[2];
  std::string target;
  bool open = false;  // side 1 has accepted
  base::TimerId connect_timer = 0;
};

struct LoopbackFabric::State : std::enable_shared_from_this<LoopbackFabric::State> {
  using Link = LoopbackLink;
  using LinkPtr = std::shared_ptr<LoopbackLink>;
  using NodePtr = std::shared_ptr<LoopbackNode>;

  State(base::Executor* own_executor, LoopbackOptions own_options)
      : executor(own_executor), options(own_options) {}

  base::Executor* const executor;
  const LoopbackOptions options;
  std::mutex mutex;
  std::map<std::string, NodePtr> listeners;  // guarded by mutex
  std::vector<LinkPtr> knocking;  // guarded by mutex; requests that a frozen machine keeps
  uint32_t next_port = 40000;     // guarded by mutex

  // All of these are called with the mutex held.
  void Post(const NodePtr& node, LoopbackNode::Entry entry);
  void Connect(const NodePtr& node, ConnectionId id, const std::string& target);
  void Wake(const NodePtr& node);
  void Knock(const LinkPtr& link);
  void Ship(const LinkPtr& link, int from, Link::Parcel parcel);
  void Pump(const LinkPtr& link, int from);
  void EndSide(Link& link, int which, const absl::Status& sends, absl::Status reason);
  void Close(LoopbackNode& node, ConnectionId id);
  void After(base::Duration delay, base::Work work);
  NodePtr Find(const std::string& address);
  void Thaw(const NodePtr& node);

  // Called without it: runs the first entry of the node's queue.
  void RunOne(LoopbackNode& node);
};

// ---- the fabric -------------------------------------------------------------------------------

void LoopbackFabric::State::Post(const NodePtr& node, LoopbackNode::Entry entry) {
  node->queue.push_back(std::move(entry));
  Wake(node);
}

void LoopbackFabric::State::Wake(const NodePtr& node) {
  // Weak, or a strand whose executor ends first would keep its own node alive for ever.
  node->strand.Run([self = shared_from_this(), weak = std::weak_ptr(node)] {
    if (const NodePtr locked = weak.lock()) self->RunOne(*locked);
  });
}

void LoopbackFabric::State::RunOne(LoopbackNode& node) {
  const std::lock_guard delivering(node.delivery);
  base::Work work;
  {
    const std::lock_guard lock(mutex);
    if (node.queue.empty() || node.dead || node.frozen) return;
    work = std::move(node.queue.front().work);
    node.queue.pop_front();
  }
  work();
}

// `work` is called with the mutex held, at once if there is no delay.
void LoopbackFabric::State::After(base::Duration delay, base::Work work) {
  if (delay <= base::Duration(0)) return work();
  executor->RunAt(executor->clock().Now() + delay,
                  [self = shared_from_this(), work = std::move(work)] {
                    const std::lock_guard lock(self->mutex);
                    work();
                  });
}

LoopbackFabric::State::NodePtr LoopbackFabric::State::Find(const std::string& address) {
  const auto found = listeners.find(address);
  return found == listeners.end() ? nullptr : found->second;
}

// Tells side 0's request for a connection to the machine that listens at the target.
void LoopbackFabric::State::Knock(const LinkPtr& link) {
  Link::Side& maker = link->sides[0];
  if (maker.node == nullptr) return;  // it has given up
  const NodePtr node = Find(link->target);
  if (node == nullptr) {
    const absl::Status reason = absl::UnavailableError(
        absl::StrCat("connecting to ", link->target, ": nobody listens there"));
    return EndSide(*link, 0, reason, reason);
  }
  if (node->frozen || maker.node->frozen) return knocking.push_back(link);
  link->open = true;
  executor->Cancel(link->connect_timer);
  Link::Side& side = link->sides[1];
  side.node = node;
  side.id = node->next_connection++;
  side.peer = maker.node->name;
  node->links.emplace(side.id, link);
  Post(node,
       {[node = node.get(), id = side.id, peer = side.peer] { node->events->OnAccept(id, peer); }});
  Pump(link, 0);
}

// Puts a parcel on the line; it arrives after the bytes before it, its own bytes and the latency.
void LoopbackFabric::State::Ship(const LinkPtr& link, int from, Link::Parcel parcel) {
  Link::Side& side = link->sides[from];
  const base::Time now = executor->clock().Now();
  const double bytes =
      static_cast<double>(parcel.message.payload.size() + parcel.message.header.size());
  const double seconds = options.bytes_per_second > 0 ? bytes / options.bytes_per_second : 0;
  side.line_free_at =
      std::max(side.line_free_at, now) +
      std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(seconds));
  side.outbound.push_back(std::move(parcel));
  // Timers of one time run in any order, so a timer only says how many parcels have arrived.
  After(side.line_free_at - now + options.latency, [this, link, from] {
    ++link->sides[from].arrived;
    Pump(link, from);
  });
}

// Hands over what has arrived.
void LoopbackFabric::State::Pump(const LinkPtr& link, int from) {
  Link::Side& side = link->sides[from];
  Link::Side& other = link->sides[1 - from];
  while (link->open && side.arrived > 0 && !side.outbound.empty()) {
    if (other.node == nullptr) {
      side.outbound.clear();  // EndSide has ended their sends
      return;
    }
    if (other.node->frozen || (side.node != nullptr && side.node->frozen)) return;
    Link::Parcel parcel = std::move(side.outbound.front());
    side.outbound.pop_front();
    --side.arrived;
    if (parcel.done != nullptr) {
      Post(side.node, {[done = std::move(parcel.done)] { done(absl::OkStatus()); }});
    }
    if (parcel.is_goodbye) {
      return EndSide(*link, 1 - from, absl::UnavailableError("the peer closed the connection"),
                     absl::OkStatus());
    }
    Post(other.node, {[node = other.node.get(), id = other.id,
                       message = std::make_shared<Message>(std::move(parcel.message))] {
                        node->events->OnMessage(id, std::move(*message));
                      },
                      true});
  }
}

// Closes one side: its sends in flight end with `sends` (their messages may still arrive), then
// OnClosed(reason).
void LoopbackFabric::State::EndSide(Link& link, int which, const absl::Status& sends,
                                    absl::Status reason) {
  Link::Side& side = link.sides[which];
  const NodePtr node = std::exchange(side.node, nullptr);
  if (node == nullptr) return;
  node->links.erase(side.id);
  for (Link::Parcel& parcel : side.outbound) {
    if (parcel.done == nullptr) continue;
    Post(node, {[done = std::exchange(parcel.done, nullptr), sends] { done(sends); }});
  }
  Post(node, {[node = node.get(), id = side.id, reason] { node->events->OnClosed(id, reason); }});
}

void LoopbackFabric::State::Close(LoopbackNode& node, ConnectionId id) {
  const auto found = node.links.find(id);
  if (found == node.links.end()) return;
  const LinkPtr link = found->second;
  const int which = link->SideOf(node, id);
  EndSide(*link, which,
          absl::CancelledError("the connection was closed before the message was sent"),
          absl::OkStatus());
  executor->Cancel(link->connect_timer);
  if (link->open) Ship(link, which, {.is_goodbye = true});
}

void LoopbackFabric::State::Thaw(const NodePtr& node) {
  node->frozen = false;
  for (size_t i = 0; i < node->queue.size(); ++i) Wake(node);
  for (const LinkPtr& link : std::exchange(knocking, {})) Knock(link);
  const auto links = node->links;  // pumping may end some of them
  for (const auto& [id, link] : links) {
    Pump(link, 0);
    Pump(link, 1);
  }
}

void LoopbackFabric::State::Connect(const NodePtr& node, ConnectionId id,
                                    const std::string& target) {
  const auto link = std::make_shared<LoopbackLink>();
  link->target = target;
  link->sides[0].node = node;
  link->sides[0].id = id;
  link->sides[0].peer = target;
  node->links.emplace(id, link);
  link->connect_timer = executor->RunAt(
      executor->clock().Now() + options.connect_timeout, [self = shared_from_this(), link] {
        const std::lock_guard lock(self->mutex);
        if (link->open) return;
        const absl::Status reason = absl::DeadlineExceededError(absl::StrCat(
            "no answer from ", link->target, " within ",
            std::chrono::duration<double>(self->options.connect_timeout).count(), " s"));
        self->EndSide(*link, 0, reason, reason);
      });
  After(options.latency, [this, link] { Knock(link); });
}

LoopbackFabric::LoopbackFabric(base::Executor* executor, LoopbackOptions options)
    : state_(std::make_shared<State>(executor, options)) {}

LoopbackFabric::~LoopbackFabric() = default;

void LoopbackFabric::Kill(const std::string& address) {
  const std::lock_guard lock(state_->mutex);
  const auto node = state_->Find(address);
  if (node == nullptr) return;
  node->dead = true;
  for (const std::string& each : node->listening) state_->listeners.erase(each);
  node->listening.clear();
  const absl::Status reason = absl::UnavailableError(absl::StrCat(address, " was killed"));
  const auto links = node->links;
  for (const auto& [id, link] : links) {
    const int which = link->SideOf(*node, id);
    link->sides[which].outbound.clear();
    state_->EndSide(*link, which, reason, reason);
    state_->After(state_->options.latency, [state = state_.get(), link = link, which, reason] {
      state->EndSide(*link, 1 - which, reason, reason);
    });
  }
}

void LoopbackFabric::Freeze(const std::string& address) {
  const std::lock_guard lock(state_->mutex);
  const auto node = state_->Find(address);
  if (node != nullptr) node->frozen = true;
}

void LoopbackFabric::Thaw(const std::string& address) {
  const std::lock_guard lock(state_->mutex);
  const auto node = state_->Find(address);
  if (node != nullptr) state_->Thaw(node);
}

// ---- a transport ------------------------------------------------------------------------------

LoopbackTransport::LoopbackTransport(LoopbackFabric* fabric, std::string name)
    : fabric_(fabric->state_),
      node_(std::make_shared<LoopbackNode>(fabric_->executor, std::move(name))) {}

LoopbackTransport::~LoopbackTransport() {
  if (node_->events != nullptr) node_->events->OnStopping();
  {
    const std::lock_guard lock(fabric_->mutex);
    for (const std::string& each : node_->listening) fabric_->listeners.erase(each);
    const auto links = node_->links;
    for (const auto& [id, link] : links) fabric_->Close(*node_, id);
  }
  const std::lock_guard delivering(node_->delivery);
  for (;;) {
    LoopbackNode::Entry entry;
    {
      const std::lock_guard lock(fabric_->mutex);
      if (node_->queue.empty()) return;
      entry = std::move(node_->queue.front());
      node_->queue.pop_front();
      if (node_->dead && entry.is_message) continue;
    }
    entry.work();
  }
}

absl::Status LoopbackTransport::Start(TransportEvents* events) {
  CHECK(node_->events == nullptr) << "Start was called twice";
  node_->events = events;
  return absl::OkStatus();
}

absl::StatusOr<std::string> LoopbackTransport::Listen(const std::string& address) {
  ASSIGN_OR_RETURN(HostPort parsed, ParseHostPort(address));
  const std::lock_guard lock(fabric_->mutex);
  while (parsed.port == 0 ||
         (address.ends_with(":0") && fabric_->listeners.count(FormatHostPort(parsed)) > 0)) {
    parsed.port = static_cast<uint16_t>(fabric_->next_port++);
  }
  std::string real = FormatHostPort(parsed);
  if (!fabric_->listeners.emplace(real, node_).second) {
    return absl::AlreadyExistsError(absl::StrCat("listening on ", real, ": the port is taken"));
  }
  node_->listening.push_back(real);
  return real;
}

absl::StatusOr<ConnectionId> LoopbackTransport::Connect(const std::string& address) {
  ASSIGN_OR_RETURN(const HostPort parsed, ParseHostPort(address));
  if (parsed.port == 0) {
    return absl::InvalidArgumentError(absl::StrCat("cannot connect to port 0 of ", address));
  }
  const std::lock_guard lock(fabric_->mutex);
  const ConnectionId id = node_->next_connection++;
  fabric_->Connect(node_, id, FormatHostPort(parsed));
  return id;
}

void LoopbackTransport::Send(ConnectionId connection, Message message, SendMode, SendDone done) {
  const std::lock_guard lock(fabric_->mutex);
  absl::Status refused = CheckLimits(message);
  const auto found = node_->links.find(connection);
  if (refused.ok() && (found == node_->links.end() || node_->dead)) {
    refused = absl::UnavailableError(absl::StrCat("connection ", connection, " is gone"));
  }
  if (!refused.ok()) {
    if (done == nullptr) return;
    return fabric_->Post(node_, {[done = std::move(done), refused] { done(refused); }});
  }
  const auto link = found->second;
  fabric_->Ship(link, link->SideOf(*node_, connection),
                {std::move(message), std::move(done), /*is_goodbye=*/false});
}

void LoopbackTransport::Close(ConnectionId connection) {
  const std::lock_guard lock(fabric_->mutex);
  fabric_->Close(*node_, connection);
}

absl::StatusOr<ConnectionInfo> LoopbackTransport::Describe(ConnectionId connection) {
  const std::lock_guard lock(fabric_->mutex);
  const auto found = node_->links.find(connection);
  if (found == node_->links.end()) {
    return absl::NotFoundError(absl::StrCat("connection ", connection, " is gone"));
  }
  const LoopbackLink& link = *found->second;
  if (!link.open) {
    return absl::UnavailableError(absl::StrCat("connection ", connection, " is still being made"));
  }
  return ConnectionInfo{link.sides[link.SideOf(*node_, connection)].peer, "loopback", ""};
}

}  // namespace sounder::transport
