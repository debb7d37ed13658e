// A session as its worker sees it: identity, placement, and how far each node has got.
#ifndef SOUNDER_GPU_WORKER_KV_REMOTE_SESSION_H_
#define SOUNDER_GPU_WORKER_KV_REMOTE_SESSION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/executor.h"
#include "common/base/ids.h"
#include "common/lsh/projection.h"
#include "common/policy/placement.h"
#include "common/wire/control_service.h"

namespace sounder::gpu_worker {

struct RemoteSessionOptions {
  base::SessionId id;  // empty: a random one
  wire::ModelIdentity model;
  base::DType dtype = base::DType::kBF16;
  uint32_t seal_rows = 4096;
  uint32_t min_indexed_rows = 1024;
  // One kind of index, or none (num_tables 0, bits 0): exact only.
  wire::LshOptions lsh;
  wire::SketchOptions sketch;
  // What sampling reads; kInt8 with sketches only.
  wire::RowFormat row_format = wire::RowFormat::kAsAppended;
  std::vector<uint32_t> indexed_layers;  // layers that will be asked for sampled attention
  int64_t shard_rows = 0;                // policy::PlacementOptions
  int head_shards = 1;
  uint32_t ttl_seconds = 0;
  uint32_t tenant = 0;
  // kDisk: the nodes keep the session over their own ends (for an adopter); they need a store.
  wire::Durability durability = wire::Durability::kMemory;
};

// Rows to append, of every layer. `rows(layer, kv_head)` gives keys and values [row_count, dim] of
// the session's dtype, valid until the next call.
struct AppendRows {
  struct Head {
    std::span<const std::byte> keys;
    std::span<const std::byte> values;
    size_t stride = 0;  // bytes from one row to the next; 0: packed
  };
  base::Position first_position = 0;
  int64_t row_count = 0;
  std::span<const int32_t> tokens;  // [row_count] or empty
  bool seal_after = false;          // the end of the rows is a seal mark
  std::function<Head(uint32_t layer, uint32_t kv_head)> rows;
};

// How a session begins that is not new: a fork, or one that was adopted.
struct RemoteSessionStart {
  uint64_t epoch = 0;
  base::SessionId placed_by;     // what its placement was made from; empty: its own id
  base::Position end = 0;        // one past its last row
  std::vector<uint64_t> issued;  // operations by node; empty: none
};

// Thread safe where it says so. Shared by whoever opened it and by the appends in flight.
class RemoteSession : public std::enable_shared_from_this<RemoteSession> {
 public:
  // first_credit: of each node, until it has granted some.
  RemoteSession(RemoteSessionOptions options, policy::Placement placement,
                std::shared_ptr<const lsh::Projection> projection, size_t num_nodes,
                base::Executor* executor, uint64_t first_credit,
                const RemoteSessionStart& start = {})
      : options_(std::move(options)),
        epoch_(start.epoch),
        placed_by_(start.placed_by.empty() ? options_.id : start.placed_by),
        placement_(std::move(placement)),
        projection_(std::move(projection)),
        changed_(executor->NewCondition()),
        nodes_(num_nodes),
        end_(start.end) {
    for (Node& node : nodes_) node.credit = first_credit;
    for (size_t i = 0; i < start.issued.size(); ++i) nodes_[i].issued = start.issued[i];
  }

  const base::SessionId& id() const { return options_.id; }
  // What every request names: the id, and the epoch this worker holds the session by.
  wire::SessionRef ref() const { return {options_.id, epoch_}; }
  const base::SessionId& placed_by() const { return placed_by_; }
  const RemoteSessionOptions& options() const { return options_; }
  const policy::Placement& placement() const { return placement_; }
  // How queries are signed; null without tables.
  const lsh::Projection* projection() const { return projection_.get(); }
  const std::shared_ptr<const lsh::Projection>& shared_projection() const { return projection_; }
  uint32_t group() const { return options_.model.query_heads / options_.model.kv_heads; }

  // Thread safe from here on.
  // The sequence number of the next operation on a node, whose rows begin at `first`.
  uint64_t NextSequence(int node, base::Position first, uint64_t bytes);
  uint64_t IssuedSequence(int node) const;
  // A node acknowledged (or refused) the operation with that number. credit: what may be in flight
  // to it from now on; 0: as before.
  void OnAppended(int node, uint64_t sequence, uint64_t bytes, uint64_t credit,
                  const absl::Status& status);
  // Bytes of appends that may be in flight to a node.
  uint64_t Credit(int node) const;
  // Waits until `bytes` more may be sent to a node (policy::MaySend), or the session has failed;
  // false past the deadline.
  bool WaitForCredit(int node, uint64_t bytes, base::Duration deadline);
  // Waits until every operation with rows before `position` is acknowledged; the first failure.
  absl::Status WaitAcknowledged(base::Position position, base::Duration deadline);
  // A node that has not acknowledged rows before `position`; -1: there is none.
  int FirstUnacknowledged(base::Position position) const;
  // Why nothing more can be asked of it: the first failed append or truncate (rows are missing on a
  // node from then on; who adopts the session starts from what all nodes have), or a truncate that
  // has not reached every node yet.
  absl::Status status() const;

  // Nothing more can be asked of it, see status().
  void Fail(const absl::Status& status);

  // One past the last row that was appended, or is on its way.
  base::Position end() const;
  void Extend(base::Position end);

  // A truncate, on its way to the nodes: the sequence number it has on each that has not answered.
  // Begin starts one, or goes on with the one to that position. OUT_OF_RANGE beyond the end,
  // FAILED_PRECONDITION while one to another position is not finished.
  using NodeSequences = std::vector<std::pair<int, uint64_t>>;
  absl::StatusOr<NodeSequences> BeginTruncate(base::Position position);
  // OK: the node has done it; once all have, the session ends there. Otherwise the session failed.
  void OnTruncated(int node, const absl::Status& status);

 private:
  struct InFlight {
    uint64_t sequence = 0;
    base::Position first = 0;
  };
  struct Node {
    uint64_t issued = 0;
    uint64_t credit = 0;
    uint64_t bytes_in_flight = 0;
    std::vector<InFlight> in_flight;
  };

  int LaggingNode(base::Position position) const;  // with the lock held

  struct Cut {
    base::Position position = 0;
    NodeSequences left;
  };

  const RemoteSessionOptions options_;
  const uint64_t epoch_;
  const base::SessionId placed_by_;
  const policy::Placement placement_;
  const std::shared_ptr<const lsh::Projection> projection_;  // shared by sessions of one model

  const std::unique_ptr<base::Condition> changed_;

  mutable std::mutex mutex_;  // guards everything below
  std::vector<Node> nodes_;
  absl::Status failed_;
  base::Position end_ = 0;
  std::optional<Cut> cut_;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_KV_REMOTE_SESSION_H_
