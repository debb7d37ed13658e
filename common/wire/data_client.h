// The asking side of the data plane: requests with deadlines to named nodes, over any transport.
#ifndef SOUNDER_COMMON_WIRE_DATA_CLIENT_H_
#define SOUNDER_COMMON_WIRE_DATA_CLIENT_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/executor.h"
#include "common/base/philox.h"
#include "common/policy/liveness.h"
#include "common/transport/transport.h"
#include "common/wire/messages.h"

namespace sounder::wire {

// Counted since the start, over all nodes.
struct DataClientCounters {
  uint64_t requests = 0;
  uint64_t failures = 0;  // requests that ended without an answer of the node
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
  uint64_t attend_bytes_sent = 0;
  uint64_t attend_bytes_received = 0;
  uint64_t attend_bytes() const { return attend_bytes_sent + attend_bytes_received; }
  uint64_t refusals = 0;      // answers of nodes that had no room or no time for the request
  uint64_t retries = 0;       // requests sent again, as such an answer advised
  uint64_t times_away = 0;    // a node was given up
  uint64_t refused_away = 0;  // of `failures`: requests to a node that was away
};

// How nodes are watched. With an interval of 0 they are not: only requests find out.
struct LivenessOptions {
  policy::HeartbeatOptions heartbeat = {};
  policy::BackoffOptions reconnect = {};
};

struct DataClientOptions {
  // Requests without an answer; what comes beyond fails at once (RESOURCE_EXHAUSTED).
  size_t max_pending = 4096;
  bool retry = true;  // what nodes refuse with advice when to come again
  uint64_t seed = 1;  // of the random part of delays: of retries, and between attempts to connect
  LivenessOptions liveness = {};
};

// Thread safe. Every callback is called exactly once, on the transport's or the executor's threads,
// never inside a call of this class: with the node's answer, or with DEADLINE_EXCEEDED, or with
// UNAVAILABLE when the connection broke, or with why its answer was refused; errors name the node.
// A request that a node refuses as a whole with RESOURCE_EXHAUSTED and advice when to come again is
// sent again then (policy::RetryDelay), as long as its deadline allows; otherwise the refusal is
// the answer. That is safe: attends change nothing, appends are applied once by their sequence
// numbers. For it every request is kept in encoded form until it is answered.
// A node that said nothing for the whole of a request's deadline is given up, and so is one that
// sends what is no message of our protocol: its connection is closed, which fails everything in
// flight on it; the next request connects anew. Pings of a node are answered. Destroy it after the
// transport, and not from one of its callbacks; requests still in flight then are dropped without a
// callback.
//
// With heartbeats, a node that fell silent or could not be connected to is *away*: requests to it
// fail at once with UNAVAILABLE, which says since when and why, while the client tries again by
// itself, more and more seldom, until the node answers a ping. Both are logged, once each.
class DataClient final : public transport::TransportEvents {
 public:
  using NodeIndex = size_t;
  template <typename T>
  using Callback = std::function<void(absl::StatusOr<T>)>;

  // Both outlive the client's use. Call transport->Start(this) before the first request.
  DataClient(transport::Transport* transport, base::Executor* executor,
             const DataClientOptions& options = {});
  ~DataClient() override;

  // Makes a node known by its data-plane address. Connects with the first request.
  NodeIndex AddNode(std::string address);
  const std::string& AddressOf(NodeIndex node) const;

  // `request.envelope` needs tenant and trace id only. `deadline` bounds the whole exchange.
  void Attend(NodeIndex node, AttendRequest request, base::Duration deadline,
              Callback<AttendReply> done);
  void Append(NodeIndex node, AppendRequest request, base::Duration deadline,
              Callback<AppendReply> done);
  void Fetch(NodeIndex node, FetchRequest request, base::Duration deadline,
             Callback<FetchReply> done);
  // Answered by the node's data plane without touching a session.
  void Ping(NodeIndex node, base::Duration deadline, std::function<void(absl::Status)> done);

  // OK unless the node is away; then what a request to it would be told.
  absl::Status Reachable(NodeIndex node) const;
  // What carries the connection to the node; UNAVAILABLE before the first request.
  absl::StatusOr<transport::ConnectionInfo> Describe(NodeIndex node);
  DataClientCounters counters() const;

  void OnAccept(transport::ConnectionId connection, const std::string& peer) override;
  void OnMessage(transport::ConnectionId connection, transport::Message message) override;
  void OnClosed(transport::ConnectionId connection, absl::Status reason) override;
  void OnStopping() override;

 private:
  using Finish = std::function<void(absl::StatusOr<transport::Message>)>;
  // A request of a node that is being connected to.
  struct Waiting {
    uint64_t ticket = 0;
    transport::Message message;
    transport::SendMode mode = transport::SendMode::kAuto;
  };
  struct Node {
    std::string address;
    transport::ConnectionId connection = 0;
    bool connecting = false;                    // a thread is inside Transport::Connect for it
    std::vector<Waiting> waiting;               // sent once it is back
    policy::Heartbeat heartbeat{base::Time{}};  // of the connection
    bool heard = false;                         // anything on this connection
    bool beating = false;                       // a timer is set for Beat
    // While it is away.
    bool away = false;
    base::Time away_since{};
    std::string away_reason;
    int attempts = 0;
  };
  struct Pending {
    NodeIndex node = 0;
    transport::ConnectionId connection = 0;  // 0: waits for one
    base::Duration deadline{};
    base::TimerId timer = 0;
    bool attend = false;
    Finish finish;
    base::Time until{};        // its deadline on our clock
    transport::Message again;  // what was sent; no header: never to be sent again
    base::TimerId retry = 0;   // of a request that was refused
    int tries = 1;
  };

  // Sends a request of that kind and decodes its answer. `attend` as in Pending.
  template <typename Request, typename Reply>
  void Ask(NodeIndex node, MessageKind kind, Request request, base::Duration deadline, bool attend,
           absl::StatusOr<Reply> (*decode)(transport::Message), Callback<Reply> done);
  uint64_t NewTicket();
  // `trial`: also to a node that is away.
  void Send(NodeIndex node, uint64_t ticket, transport::Message message, transport::SendMode mode,
            base::Duration deadline, bool attend, Finish finish, bool trial = false);
  // Connects to a node that is marked as connecting, and sends or fails what waits for it.
  void Connect(NodeIndex node);
  void CountSent(const Pending& pending, const transport::Message& message);  // under mutex_
  bool RetryLater(uint64_t ticket, const Envelope& refusal);                  // under mutex_
  void Retry(uint64_t ticket);
  // Calls `call` of a client that is still there, at `when`.
  base::TimerId At(base::Time when, std::function<void()> call);
  void CancelTimers(const Pending& pending);
  void EndCall(transport::ConnectionId connection);  // see in_call_
  void OnDeadline(uint64_t ticket);
  std::vector<Pending> TakeAll(transport::ConnectionId connection);
  void Fail(std::vector<Pending> lost, const absl::Status& reason);
  void FailLater(Finish finish, absl::Status status);

  // data_client_liveness.cc. Under mutex_ where nothing else is said.
  bool watches() const { return options_.liveness.heartbeat.interval.count() > 0; }
  absl::Status AwayStatus(const Node& node) const;
  void StartBeating(NodeIndex node);
  void MarkAway(NodeIndex node, base::Time since, std::string reason);
  void ScheduleTrial(NodeIndex node);
  // Runs `work` at `when` unless the client or its transport is gone by then.
  void RunWatched(base::Time when, base::Work work);
  void Beat(NodeIndex node);                          // a timer, without mutex_
  void Try(NodeIndex node);                           // likewise
  void OnTried(NodeIndex node, absl::Status result);  // likewise

  transport::Transport* const transport_;
  base::Executor* const executor_;
  const DataClientOptions options_;
  // A timer that has already started may outlive us by a moment: it runs inside this gate.
  struct Gate {
    std::mutex mutex;
    bool open = true;       // guarded by mutex
    bool stopping = false;  // guarded by mutex; the transport is
  };
  const std::shared_ptr<Gate> gate_;  // shared with the timers

  mutable std::mutex mutex_;  // guards everything below
  std::vector<std::unique_ptr<Node>> nodes_;
  std::unordered_map<transport::ConnectionId, NodeIndex> connections_;
  int connecting_ = 0;  // nodes
  // Connections that ended before Connect had told us of them, while any node is connecting.
  std::map<transport::ConnectionId, absl::Status> ended_early_;
  std::map<uint64_t, Pending> pending_;        // by ticket; in order, so that failing them is
  std::set<transport::ConnectionId> in_call_;  // a timer calls the transport about these
  std::condition_variable call_done_;
  uint64_t last_ticket_ = 0;
  base::PhiloxStream random_;
  DataClientCounters counters_;
};

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_DATA_CLIENT_H_
