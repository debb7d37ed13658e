// The worker's door to the KV nodes: sessions spread over nodes, appends in order, and attention
// over remote rows, fanned out and merged.
#ifndef SOUNDER_GPU_WORKER_KV_KV_CLIENT_H_
#define SOUNDER_GPU_WORKER_KV_KV_CLIENT_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/executor.h"
#include "common/base/limits.h"
#include "common/lsh/projection.h"
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
  int64_t append_window_bytes = int64_t{64} << 20;  // appends in flight before Append waits
  size_t attend_message_bytes = base::kMaxPayloadBytes;  // most of one Attend, and of its answer
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

  // Tells the nodes of every open session that its worker is alive, where a third of its TTL has
  // passed since they were last told. To be called often; costs nothing in between. Nodes that do
  // not answer are found out by whatever is asked of them next.
  void KeepAlive();

  // Rows of every layer at [first_position, +row_count), to the nodes that hold them. Returns when
  // they are on their way (waiting for earlier ones when too many are); failures show in
  // WaitAppended and in the session's status.
  absl::Status Append(RemoteSession* session, const AppendRows& rows);
  // Waits until the nodes have acknowledged every row before `position`.
  absl::Status WaitAppended(RemoteSession* session, base::Position position);

  // A fan-out in flight: Wait returns when every query has its answer or its error.
  class PendingAttend {
   public:
    PendingAttend(std::span<AttendQuery> queries, base::Executor* executor)
        : queries_(queries), done_(executor->NewCondition()) {}
    ~PendingAttend() { Wait(); }
    void Wait();

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
    void Merge();
    void MergeItem(const NodeCall& call, size_t index);

    std::span<AttendQuery> queries_;
    std::vector<NodeCall> calls_;                   // one per request
    std::vector<std::pair<size_t, size_t>> order_;  // (call, item) by position and head
    std::mutex mutex_;
    const std::unique_ptr<base::Condition> done_;
    size_t unanswered_ = 0;  // guarded by mutex_
    bool merged_ = false;
  };
  // One request per node for all queries, of one layer; more where they do not fit into a message
  // (base::kMaxItems, attend_message_bytes). INVALID_ARGUMENT for a query that does not fit alone.
  // The queries outlive the answer.
  std::unique_ptr<PendingAttend> StartAttend(uint32_t layer, std::span<AttendQuery> queries);

  wire::DataClientCounters counters() const { return data_.counters(); }
  // One per node.
  std::vector<absl::StatusOr<wire::NodeStatus>> NodeStatuses();

 private:
  struct Node {
    std::unique_ptr<wire::ControlChannel> control;
    wire::DataClient::NodeIndex data = 0;
    base::Time away_until{};                   // guarded by away_mutex_
    std::vector<wire::SessionOp> left_behind;  // guarded by away_mutex_; to be closed
  };
  KvClient(KvClientOptions options, transport::Transport* transport, base::Executor* executor)
      : options_(std::move(options)), executor_(executor), data_(transport, executor) {}
  struct OpenSession {
    std::weak_ptr<RemoteSession> session;
    base::Duration interval{};
    base::Time due{};
  };
  void Remember(const std::shared_ptr<RemoteSession>& session);
  void Forget(const RemoteSession* session);
  absl::Status CloseOn(Node& node, const wire::SessionOp& op);
  bool AwayNow(const Node& node);
  static bool IsAway(const absl::Status& status);
  // A call of the control plane that took all the time there was.
  void NoteTimeout(Node& node, const absl::Status& status);
  void LeaveBehind(Node& node, const wire::SessionOp& op);
  void CloseLeftBehind(Node& node);
  absl::Status AppendToShard(RemoteSession* session, const AppendRows& rows,
                             const policy::Shard& shard);
  // The request to the node that has room for `bytes` more: an index into calls, or a new one.
  size_t CallWithRoom(int node, size_t bytes, std::vector<int>* last_call,
                      std::vector<PendingAttend::NodeCall>* calls) const;
  void AddItem(const AttendQuery& query, uint32_t layer, const policy::Shard& shard,
               wire::AttendRequest* request, std::vector<memory::AlignedBuffer>* tensors);
  absl::Status SendRows(RemoteSession* session, const AppendRows& rows, const policy::Shard& shard,
                        base::PositionRange range);

  const KvClientOptions options_;
  base::Executor* const executor_;
  std::vector<Node> nodes_;
  std::mutex away_mutex_;
  std::mutex open_mutex_;
  std::vector<OpenSession> open_;  // guarded by open_mutex_; those with a TTL
  wire::DataClient data_;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_KV_KV_CLIENT_H_
