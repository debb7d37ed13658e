// The control plane as plain values and a pure interface. kv_node/server implements it;
// control_server.h serves it over Cap'n Proto RPC and control_client.h calls it from afar.
// See proto/control.capnp for the meaning of each field.
#ifndef SOUNDER_COMMON_WIRE_CONTROL_SERVICE_H_
#define SOUNDER_COMMON_WIRE_CONTROL_SERVICE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "common/wire/messages.h"

namespace sounder::wire {

struct ModelIdentity {
  std::string name;
  std::string weights_digest;
  uint32_t layers = 0;
  uint32_t kv_heads = 0;
  uint32_t query_heads = 0;
  uint32_t head_dim = 0;
  std::string rope_digest;
  std::string adapter;
  std::string kv_layout = {};
  friend bool operator==(const ModelIdentity&, const ModelIdentity&) = default;
};

enum class Projection : uint8_t { kHadamard = 0, kGaussian = 1 };

struct LshOptions {
  uint32_t bits_per_table = 0;
  uint32_t num_tables = 0;  // 0: no tables
  uint32_t min_collisions = 2;
  Projection projection = Projection::kHadamard;
  uint64_t seed = 0;
  friend bool operator==(const LshOptions&, const LshOptions&) = default;
};

struct SketchOptions {
  uint32_t bits = 0;  // 64, 128 or 256; 0: no sketches
  uint64_t seed = 0;
  friend bool operator==(const SketchOptions&, const SketchOptions&) = default;
};

enum class Durability : uint8_t { kMemory = 0, kDisk = 1 };

// How the worker cut a session over its nodes; the node only keeps it.
struct PlacementRecord {
  base::SessionId id;  // what places it: the session's own, or that of the one it was forked from
  int64_t shard_rows = 0;
  uint32_t head_shards = 0;
  uint32_t nodes = 0;
  friend bool operator==(const PlacementRecord&, const PlacementRecord&) = default;
};

struct SessionSpec {
  uint16_t protocol_version = kProtocolVersion;
  SessionRef session;
  uint32_t tenant = 0;
  ModelIdentity model;
  base::DType dtype = base::DType::kBF16;
  uint32_t seal_rows = 0;
  uint32_t min_indexed_rows = 0;
  LshOptions lsh;
  std::vector<uint32_t> indexed_layers;
  uint32_t kv_head_begin = 0;
  uint32_t kv_head_count = 0;
  uint32_t ttl_seconds = 0;
  Durability durability = Durability::kMemory;
  RowFormat row_format = RowFormat::kAsAppended;
  SketchOptions sketch = {};
  PlacementRecord placement = {};

  // What the session's index can be asked for; kExact: it has none.
  AttentionKind index() const {
    if (sketch.bits > 0) return AttentionKind::kSketch;
    return lsh.num_tables > 0 ? AttentionKind::kLshTables : AttentionKind::kExact;
  }
};

// INVALID_ARGUMENT for a spec no node takes. Looked at by who sends it and by who gets it.
absl::Status CheckSpec(const SessionSpec& spec);

struct OpenResult {
  uint32_t seal_rows = 0;
  uint32_t min_indexed_rows = 0;
};

// Names a session, and where in its order of operations a call stands.
struct SessionOp {
  SessionRef session;
  uint64_t sequence = 0;
  uint32_t tenant = 0;
};

struct ForkCall {
  SessionOp op;
  base::Position position = 0;
  SessionRef child;
  uint32_t ttl_seconds = 0;  // of the child
};

struct AdoptCall {
  SessionRef session;  // with the new epoch
  uint32_t tenant = 0;
  uint64_t holder = 0;  // random, the same in every call of one adoption
};

struct DescribeCall {
  SessionRef session;  // the epoch is looked at with keep_alive only
  uint32_t tenant = 0;
  bool keep_alive = false;  // the session's writer asks
};

struct SessionInfo {
  SessionSpec spec;
  uint64_t applied_sequence = 0;
  base::Position first_position = -1;
  base::Position end_position = 0;
  uint64_t rows = 0;
  uint64_t segments = 0;
  uint64_t row_bytes = 0;
  uint64_t index_bytes = 0;
  uint64_t tokens = 0;
  std::vector<base::Position> head_ends = {};
  base::SessionId parent = {};
  base::Position fork_position = -1;
  uint64_t shared_bytes = 0;
  uint32_t ttl_remaining_seconds = 0;
  base::Position durable_position = -1;
  uint64_t warm_segments = 0;
  uint64_t cold_segments = 0;
  uint64_t stored_bytes = 0;
  uint32_t pinned_seconds = 0;
  bool pinned_softly = false;

  uint64_t hot_segments() const { return segments - warm_segments - cold_segments; }
};

struct NodeConnection {
  std::string peer;
  std::string transport;
  std::string detail;
};

struct NodeStatus {
  std::string version;
  uint16_t protocol_version = 0;
  std::string control_address;
  std::string data_address;
  std::string http_address;
  uint64_t sessions = 0;
  uint64_t memory_used = 0;
  uint64_t memory_limit = 0;
  uint64_t row_bytes = 0;
  uint64_t index_bytes = 0;
  uint32_t threads = 0;
  std::string simd;
  uint64_t uptime_seconds = 0;
  std::vector<NodeConnection> connections;
  bool draining = false;
  uint64_t stored_bytes = 0;
  std::string store = {};
};

struct PinCall {
  base::SessionId session;
  uint32_t seconds = 0;
  bool soft = false;
};

template <typename T>
using Reply = std::function<void(absl::StatusOr<T>)>;
using StatusReply = std::function<void(absl::Status)>;

// Thread safe. Every reply is called exactly once, on any thread, possibly inside the call. A
// service that does not do a call yet answers UNIMPLEMENTED, naming it.
class ControlService {
 public:
  virtual ~ControlService() = default;
  virtual void Open(const SessionSpec& spec, Reply<OpenResult> reply) = 0;
  virtual void Close(const SessionOp& op, StatusReply reply) = 0;
  virtual void Fork(const ForkCall& call, StatusReply reply) = 0;
  virtual void Truncate(const SessionOp& op, base::Position position, StatusReply reply) = 0;
  virtual void Adopt(const AdoptCall& call, Reply<SessionInfo> reply) = 0;
  virtual void Describe(const DescribeCall& call, Reply<SessionInfo> reply) = 0;
  virtual void List(Reply<std::vector<SessionInfo>> reply) = 0;
  virtual void Pin(const PinCall& call, StatusReply reply) = 0;
  virtual void Spill(const base::SessionId& session, StatusReply reply) = 0;
  virtual void Load(const base::SessionId& session, StatusReply reply) = 0;
  virtual void Drain(bool on, StatusReply reply) = 0;
  virtual void Status(Reply<NodeStatus> reply) = 0;
};

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_CONTROL_SERVICE_H_
