// The worker's door to the KV nodes: sessions spread over nodes, appends in order, and attention
// over remote rows, fanned out and merged.
#ifndef SOUNDER_GPU_WORKER_KV_KV_CLIENT_H_
#define SOUNDER_GPU_WORKER_KV_KV_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/executor.h"
#include "common/base/limits.h"
#include "common/lsh/projection.h"
#include "common/memory/aligned_buffer.h"
#include "common/policy/placement.h"
#include "common/wire/control_channel.h"
#include "common/wire/data_client.h"
#include "gpu_worker/kv/remote_session.h"

namespace sounder::gpu_worker {

struct KvClientOptions {
  base::Duration deadline = std::chrono::seconds(2);  // of every request
  // Of an Attend with a block of several queries instead, where it is longer: a node computes as
  // many times what one query asks for.
  base::Duration block_deadline{};
  int64_t append_message_bytes = int64_t{4} << 20;  // rows are sent in messages of about this size
  // Of a session's appends in flight to a node before Append waits, where the node grants more.
  int64_t append_window_bytes = int64_t{64} << 20;
  size_t attend_message_bytes = base::kMaxPayloadBytes;  // most of one Attend, and of its answer
  uint64_t seed = 1;  // of the random part of delays; another one for each worker
  // Sessions whose ids callers choose begin at this epoch, and a microsecond later at the next one:
  // with the time of day as the first, at none that a session of that id had before, whoever opened
  // it (unless clocks differ by as much as lies between the two). So nothing that is still on its
  // way of the one is taken for the other's.
  uint64_t first_epoch = 0;
  // A node that falls silent is away after interval + timeout; then everything that is asked of it
  // fails at once, until it answers again.
  wire::LivenessOptions liveness{.heartbeat = {.interval = std::chrono::seconds(2)}};
};

// What one query block wants from the nodes. Spans and pointers are the caller's, valid until Wait.
struct AttendQuery {
  RemoteSession* session = nullptr;
  const float* queries = nullptr;        // [query_count, query heads, dim], already rounded
  const uint64_t* signatures = nullptr;  // [query_count, query heads, words]; for lsh_tables
  uint32_t query_count = 1;              // T
  base::PositionRange range;             // positions to attend, on the nodes
  base::Position layout_position = 0;    // P, see proto/data.capnp
  base::Position causal_from = -1;
  wire::AttentionKind attention = wire::AttentionKind::kExact;
  float scale = 0;
  uint64_t sample_key = 0;
  uint64_t step = 0;
  // Of sketch, see proto/data.capnp.
  float rows_budget = 0;                       // share of the rows in range; 0: the nodes' own
  uint64_t rows_cap = 0;                       // most rows of a segment per kv head; 0: none
  const float* lse_hints = nullptr;            // [query_count, query heads] or null
  const wire::HeadHint* head_hints = nullptr;  // [kv heads] or null
  bool want_concentration = false;

  // Answers.
  absl::Status status;         // of this session alone
  std::vector<float> outputs;  // [query_count, query heads, dim]
  std::vector<float> lse;      // [query_count, query heads]
  uint64_t rows_visible = 0;
  uint64_t rows_read = 0;
  uint64_t rows_loaded = 0;
  uint64_t rows_exact = 0;
  std::vector<float> head_mass;      // [kv heads]; of sketch
  std::vector<float> concentration;  // [query_count, query heads] where wanted
};

// Rows of one layer, read back: [kv heads, rows, dim] of the session's dtype, packed.
struct RemoteRows {
  memory::AlignedBuffer keys;
  memory::AlignedBuffer values;
};

// A session that another worker left.
struct AdoptedSession {
  std::shared_ptr<RemoteSession> session;  // its end() is where to go on
  std::vector<int32_t> tokens;             // of [0, end); empty unless every row has one
};

// Thread safe. Blocking calls wait at most for their deadline.
class KvClient {
 public:
  // One control channel per node; their order decides placement. Asks every node for its data-plane
  // address. INVALID_ARGUMENT where two of them are the same node, UNAVAILABLE naming a node that
  // does not answer, FAILED_PRECONDITION naming one of another protocol version. `transport` has
  // been constructed but not started; both outlive the client, which must be destroyed after the
  // transport.
  static absl::StatusOr<std::unique_ptr<KvClient>> Create(
      KvClientOptions options, std::vector<std::unique_ptr<wire::ControlChannel>> nodes,
      transport::Transport* transport, base::Executor* executor);

  // Opens the session on every node that may hold a part of it.
  absl::StatusOr<std::shared_ptr<RemoteSession>> Open(const RemoteSessionOptions& options);
  // Frees the session on the nodes, once its appends in flight are acknowledged or have failed; the
  // first error, after trying all. A node that does not know the session has nothing to free. A
  // node that did not answer a deadline ago or less is not waited for again: the session is closed
  // there when the node answers something else, or ends by its TTL.
  absl::Status Close(RemoteSession* session);
  // Keeps the session alive no longer; it stays on the nodes for who adopts it, or for its TTL.
  void Leave(const RemoteSession* session);

  // Tells the nodes of every open session that its worker is alive, where a third of its TTL has
  // passed since they were last told. To be called often; costs nothing in between. Nodes that do
  // not answer are found out by whatever is asked of them next.
  void KeepAlive();

  // Rows of every layer at [first_position, +row_count), to the nodes that hold them; they begin
  // where the session ends (INVALID_ARGUMENT), and a new one at 0. Returns when they are on their
  // way (waiting for earlier ones when too many are); failures show in WaitAppended and in the
  // session's status. After an error that does not show there nothing was sent.
  absl::Status Append(RemoteSession* session, const AppendRows& rows);
  // Waits until the nodes have acknowledged every row before `position`.
  absl::Status WaitAppended(RemoteSession* session, base::Position position);

  // Rolls the session back: it is as if only the rows before `position` had been appended. Not
  // while the session is appended to or attended; attends that were asked before are refused where
  // they come too late. OUT_OF_RANGE beyond its end. After an error that
  // names a node some nodes have done it: either Truncate to that position can be called again (it
  // was UNAVAILABLE, DEADLINE_EXCEEDED or RESOURCE_EXHAUSTED), and nothing else until it succeeds,
  // or the session has failed, see its status().
  absl::Status Truncate(RemoteSession* session, base::Position position);
  // Another session with the rows before `position`, on the same nodes, which copy nothing. `id`
  // empty: a random one. On failure no node keeps it.
  absl::StatusOr<std::shared_ptr<RemoteSession>> Fork(RemoteSession* session,
                                                      base::Position position,
                                                      base::SessionId id = {});
  // Takes a session over from a worker that has gone (or is refused from now on), at what every
  // node has of it: rows beyond, which that worker did not finish, are cut off. The nodes are the
  // same as that worker's, in the same order. After an error it may be called again.
  absl::StatusOr<AdoptedSession> Adopt(const base::SessionId& id, uint32_t tenant);
  // Rows of every kv head of a layer, as they were appended.
  absl::StatusOr<RemoteRows> Fetch(RemoteSession* session, uint32_t layer,
                                   base::PositionRange range);
  absl::StatusOr<std::vector<int32_t>> FetchTokens(RemoteSession* session,
                                                   base::PositionRange range);

  // A fan-out in flight. Thread safe.
  class PendingAttend {
   public:
    PendingAttend(std::span<AttendQuery> queries, base::Executor* executor,
                  std::function<void()> on_answered)
        : queries_(queries),
          done_(executor->NewCondition()),
          on_answered_(std::move(on_answered)),
          told_(on_answered_ == nullptr) {}
    // Waits for the answers and for the end of on_answered.
    ~PendingAttend();
    // Returns when every query has its answer or its error.
    void Wait();
    // Whether Wait would return at once.
    bool Answered() const;

   private:
    friend class KvClient;
    struct Item {
      size_t query = 0;
      policy::Shard shard;
    };
    struct NodeCall {
      int node = 0;
      std::string address;
      size_t bytes = 0;  // of the request or its answer, whichever is larger
      std::vector<Item> items;
      absl::StatusOr<wire::AttendReply> reply = absl::UnknownError("no answer");
    };
    void OnReply(size_t call, absl::StatusOr<wire::AttendReply> reply);
    void Tell();
    void WaitUntil(std::unique_lock<std::mutex>& lock, const std::function<bool()>& holds);
    void Merge();
    void MergeItem(const NodeCall& call, size_t index);

    std::span<AttendQuery> queries_;
    std::vector<NodeCall> calls_;                   // one per request
    std::vector<std::pair<size_t, size_t>> order_;  // (call, item) by position and head
    mutable std::mutex mutex_;
    const std::unique_ptr<base::Condition> done_;
    const std::function<void()> on_answered_;
    // Guarded by mutex_.
    size_t unanswered_ = 0;
    bool merged_ = false;
    bool told_;  // on_answered_ has returned, or there is none
  };
  // One request per node for all queries, of one layer; more where they do not fit into a message
  // (base::kMaxItems, attend_message_bytes). INVALID_ARGUMENT for a query that does not fit alone.
  // The queries outlive the answer. `on_answered` is called once, when Wait no longer blocks, on a
  // thread of the transport or the executor and never inside this call; it may Wait, but neither
  // ask for more nor destroy what it belongs to.
  std::unique_ptr<PendingAttend> StartAttend(uint32_t layer, std::span<AttendQuery> queries,
                                             std::function<void()> on_answered = nullptr);

  wire::DataClientCounters counters() const { return data_.counters(); }
  // OK unless the node (in the order given to Create) is away; see DataClient.
  absl::Status Reachable(size_t node) const { return data_.Reachable(nodes_.at(node).data); }
  // One per node.
  std::vector<absl::StatusOr<wire::NodeStatus>> NodeStatuses();

 private:
  // A session that may be on a node, to be closed when that answers again.
  struct LeftBehind {
    wire::SessionOp op;
    base::Time late{};    // from then on it will not come any more
    bool missed = false;  // it was not there so far
  };
  struct Node {
    std::unique_ptr<wire::ControlChannel> control;
    wire::DataClient::NodeIndex data = 0;
    base::Time away_until{};              // guarded by away_mutex_
    std::vector<LeftBehind> left_behind;  // guarded by away_mutex_
  };
  KvClient(KvClientOptions options, transport::Transport* transport, base::Executor* executor)
      : options_(std::move(options)),
        executor_(executor),
        data_(transport, executor, {.seed = options_.seed, .liveness = options_.liveness}) {}
  struct OpenSession {
    std::weak_ptr<RemoteSession> session;
    base::Duration interval{};
    base::Time due{};
  };
  static base::SessionId RandomId();
  // Makes a session on every node that may hold a part of it, by `make`; on none if one fails.
  absl::Status MakeOnNodes(const RemoteSession& session,
                           const std::function<absl::Status(Node&, int index)>& make);
  // What the nodes know of a session, by node; those that do not know it have nothing.
  using Infos = std::vector<std::optional<wire::SessionInfo>>;
  absl::StatusOr<Infos> DescribeEverywhere(const base::SessionId& id, uint32_t tenant);
  absl::Status CheckInfos(const RemoteSession& session, const Infos& infos) const;
  // One request to a node, for one item; its answer fits the question.
  struct FetchPart {
    int node = 0;
    wire::FetchItem item;
  };
  using OnFetched = std::function<void(const FetchPart&, const wire::FetchReplyItem&)>;
  absl::Status FetchParts(const RemoteSession& session, std::span<const FetchPart> parts,
                          const OnFetched& done);
  // Of a session to be opened. Ids that nobody chose are random: nothing had them before.
  uint64_t FirstEpoch(const base::SessionId& chosen);
  void Remember(const std::shared_ptr<RemoteSession>& session);
  void Forget(const RemoteSession* session);
  absl::Status CloseOn(Node& node, const wire::SessionOp& op);
  // A call of the control plane, not made where the node is away.
  absl::Status Ask(Node& node, const std::function<absl::Status()>& call);
  // UNAVAILABLE if the node has just been found not to answer, on either plane.
  absl::Status ReachableNow(const Node& node);
  static bool IsAway(const absl::Status& status);
  // How a call of the control plane ended: the node was heard of, or took all the time there was.
  void NoteAnswer(Node& node, const absl::Status& status);
  void NoteTimeout(Node& node, const absl::Status& status);
  void LeaveBehind(Node& node, const wire::SessionOp& op);
  // The node has answered a call: it is not away, and what was left behind on it can go.
  void OnAnswered(Node& node);
  // All sessions that were left behind, or those of that id. What is not there is asked for once
  // more when it cannot come any more, or when its id is used. UNAVAILABLE or DEADLINE_EXCEEDED
  // where the node did not answer; what is left is kept.
  absl::Status CloseLeftBehind(Node& node, const base::SessionId* only);
  absl::Status AppendToShard(RemoteSession* session, const AppendRows& rows,
                             const policy::Shard& shard);
  // The request to the node that has room for `bytes` more: an index into calls, or a new one.
  size_t CallWithRoom(int node, size_t bytes, std::vector<int>* last_call,
                      std::vector<PendingAttend::NodeCall>* calls) const;
  void AddItem(const AttendQuery& query, uint32_t layer, const policy::Shard& shard,
               wire::AttendRequest* request, std::vector<memory::AlignedBuffer>* tensors);
  uint64_t CreditOf(uint64_t granted) const;
  void SendRows(RemoteSession* session, const AppendRows& rows, const policy::Shard& shard,
                base::PositionRange range);

  const KvClientOptions options_;
  base::Executor* const executor_;
  const base::Time created_ = executor_->clock().Now();
  std::vector<Node> nodes_;
  std::mutex away_mutex_;
  std::mutex open_mutex_;
  std::vector<OpenSession> open_;  // guarded by open_mutex_, as the next; those with a TTL
  uint64_t last_epoch_ = 0;        // that a session began or was adopted at
  wire::DataClient data_;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_KV_KV_CLIENT_H_
