// Sounder's client: what an inference engine links to keep the KV cache of its sequences on KV
// nodes and to attend to it there. Installed as <sounder/client.h>; C++17 and the standard library
// are all it needs (CMake: find_package(Sounder), target Sounder::client; pkg-config:
// sounder-client).
//
//   std::unique_ptr<Client> client;
//   std::unique_ptr<Session> session;
//   Status status = Client::Connect(client_options, &client);  // once
//   status = client->Open(session_options, &session);          // for each sequence
//   status = session->Append(rows);           // of new positions: keys and values of all layers
//   auto pending = client->StartAttend(layer, queries, count);  // in each layer of each step
//   ...                                       // attend to what the engine keeps itself meanwhile
//   pending->Wait();
//   Merge(outputs, lse, ...);                 // both parts
//
// Words. Position: absolute index in the sequence, from 0. Row: key and value of one position,
// layer and kv head. Partial output of a query: its output, normalised over a set of rows, and lse,
// the natural log of the sum of e^logit over them; the empty set is (0, -infinity). Query heads
// [g * h, g * (h + 1)) share kv head h, g being query heads / kv heads.
//
// Statuses. Nothing here throws (but what the standard library throws when memory runs out) or ends
// the process over what it is given; a call that cannot do its work returns a Status with a message
// that names what is wrong, and the node where one is meant:
//   kInvalidArgument     what was given does not fit: shapes, ranges, options. Nothing was sent.
//   kFailedPrecondition  it does not fit the session or the node: closed, no such index, rows that
//                        are not there, another protocol version
//   kOutOfRange          positions beyond the end of the session
//   kNotFound, kAlreadyExists   of session ids
//   kResourceExhausted   a node is full or busy
//   kUnavailable         a node cannot be reached, or lost the session (a restart). Once a node has
//                        been silent for some seconds this is said at once, until it answers again
//   kDeadlineExceeded    a node did not answer in time
// Others (kInternal, kDataLoss) mean that a node answered with what cannot be.
//
// Threads. All objects are thread safe but where a call says otherwise. Calls that block say so;
// they end by the deadline of the options, times the nodes that have to be asked in turn. Callbacks
// come on threads of the library: they must not block, throw, or destroy an object of it.
//
// Lifetime. A Session or PendingAttend may outlive its Client: they share what is below. The last
// of them to go ends the connections and threads.
//
// The process. Once a Client exists, SIGPIPE is ignored (by Cap'n Proto). UCX, which is loaded with
// this library, takes SIGHUP (UCX_DEBUG_SIGNO) and, until the first Client exists, SIGSEGV, SIGBUS,
// SIGILL and SIGFPE (UCX_HANDLE_ERRORS), and may hook memory mapping (UCX_MEM_*). What is worth
// knowing goes to stderr (SetLogLevel). UCX reads bytes of the nodes before this library can check
// them: use it in networks you trust.
//
// Versions. Before 1.0 the ABI holds within a minor version, which the name of the shared library
// carries. Client and nodes must speak the same protocol version; Connect checks it.
#ifndef SOUNDER_GPU_WORKER_CLIENT_CLIENT_H_
#define SOUNDER_GPU_WORKER_CLIENT_CLIENT_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace sounder::gpu_worker {  // inside
class KvConnection;
struct ClientAccess;
}  // namespace sounder::gpu_worker

namespace sounder::client {

// Numbers as in gRPC and Abseil.
enum class Code : int {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

class [[nodiscard]] Status {
 public:
  Status() = default;  // OK
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }  // empty when OK

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

using Position = int64_t;  // in [0, 2^40]

// Half-open.
struct Range {
  Position begin = 0;
  Position end = 0;
};

enum class DType : uint8_t { kF32 = 0, kF16 = 1, kBF16 = 2 };

// Which rows a query attends to on the nodes.
enum class Attention : uint8_t {
  kExact = 0,      // all of the range
  kLshTables = 1,  // those the session's LSH tables find, weighted so that the mean is right
  kSketch = 2,     // those the session's sketches choose, likewise
};

// What a session's rows are rows of. Every open of one session must name the same. Names have at
// most 256 bytes.
struct Model {
  std::string name;
  std::string weights_digest;  // e.g. of the weight files; rows of other weights are other rows
  std::string rope_digest;     // of how positions are encoded in keys; may be empty
  std::string adapter;         // e.g. a LoRA; may be empty
  uint32_t layers = 0;         // 1..1024
  uint32_t kv_heads = 0;       // 1..1024
  uint32_t query_heads = 0;    // a multiple of kv_heads, at most 32 per kv head
  uint32_t head_dim = 0;       // a multiple of 8, 8..512
};

struct LshOptions {
  uint32_t num_tables = 0;      // 0: none, ..1024
  uint32_t bits_per_table = 0;  // 1..16
  uint32_t min_collisions = 2;  // tables a row must share with the query to be sampled
  bool gaussian = false;        // dense random directions; otherwise structured ones
  uint64_t seed = 1;
};

struct SketchOptions {
  uint32_t bits = 0;  // of a key: 64, 128 or 256; 0: none
  uint64_t seed = 1;
};

struct SessionId {
  uint64_t high = 0;
  uint64_t low = 0;
};

struct SessionOptions {
  SessionId id;  // all zero: a random one
  Model model;
  DType dtype = DType::kBF16;  // of appended rows, and what queries are rounded to
  // One kind of index at most; without, attention is exact only.
  LshOptions lsh;
  SketchOptions sketch;
  bool int8_rows = false;                // sample from a copy of the rows in 8 bits; sketches only
  std::vector<uint32_t> indexed_layers;  // layers that will be asked for samples
  uint32_t seal_rows = 4096;             // rows of a segment, 16..65536
  uint32_t min_indexed_rows = 1024;      // shorter segments are attended exactly
  // How the session is cut over the nodes: positions of a shard, a multiple of seal_rows (0: no
  // cut along the sequence), and parts the kv heads are cut into.
  int64_t shard_rows = 0;
  int32_t head_shards = 1;
  // Nodes free a session that was neither appended to, attended to nor kept alive for so long. 0:
  // never, not even when this process has died.
  uint32_t ttl_seconds = 600;
  uint32_t tenant = 0;
  // The nodes write the session to disk as it grows, and find it again when they start: then Adopt
  // goes on with it. FAILED_PRECONDITION from nodes without a store.
  bool durable = false;
};

// Where keys and values of one layer and kv head lie: elements of the session's dtype, head_dim of
// them adjacent for each row, `stride` bytes from one row to the next (0: packed). Host memory,
// aligned as you like, not null.
struct HeadRows {
  const void* keys = nullptr;
  const void* values = nullptr;
  size_t stride = 0;
};

// Rows of every layer and kv head at positions [first, first + count).
struct Rows {
  Position first = 0;
  int64_t count = 0;
  const int32_t* tokens = nullptr;  // [count], kept on the nodes with the rows; or null
  // A segment ends here; say so at the end of a prompt. Once the seal_rows positions around it are
  // complete they are one segment again.
  bool seal_after = false;
  // Called inside Append on its thread, several times for one head where rows travel in several
  // messages, always for the rows from `first` on. What it points to is read before the next call.
  // Must not throw.
  std::function<HeadRows(uint32_t layer, uint32_t kv_head)> head = nullptr;
};

class Session;

// A block of T queries of one session, and their answers.
struct Query {
  Session* session = nullptr;
  const float* queries = nullptr;  // [T, query heads, head_dim]; read inside StartAttend only
  uint32_t query_count = 1;        // T, 1..4096
  // The positions to attend to, which must have been given to Append before (acknowledged or not):
  // kOutOfRange.
  // An empty range gives empty partial outputs.
  Range range;
  // Query t attends to positions up to causal_from + t only. -1: to all of the range.
  Position causal_from = -1;
  // How many positions the sequence has at this step. Which rows are in which segment, and with
  // it the sample, depends on it and not on timing. -1: the end of the range.
  Position layout_position = -1;
  float scale = 0;  // logits are scale * q.k; 0: 1 / sqrt(head_dim)
  Attention attention = Attention::kExact;

  // Samples only. The same rows, sample_key, step and options give the same sample.
  uint64_t sample_key = 0;           // of the sequence, for instance
  uint64_t step = 0;                 // of decoding: every step draws anew
  float rows_budget = 0;             // kSketch: share of the rows to read, 0..1; 0: the nodes' own
  uint64_t rows_cap = 0;             // kSketch: most rows of a segment and kv head; 0: no cap
  const float* lse_hints = nullptr;  // kSketch: [T, query heads] lse of the range as it was in
                                     // the last step, or null; read inside StartAttend only

  // Answers, set by PendingAttend::Wait. Those after `status` have a meaning if it is OK.
  Status status;
  std::vector<float> outputs;  // [T, query heads, head_dim]
  std::vector<float> lse;      // [T, query heads]; -infinity where no row was attended to
  uint64_t rows_visible = 0;   // (query, query head, row) triples in reach
  uint64_t rows_read = 0;      // of those, triples whose key was read
};

// An attend in flight.
class PendingAttend {
 public:
  // Blocks until nothing of it is in flight and its callback has returned.
  ~PendingAttend();
  PendingAttend(const PendingAttend&) = delete;
  PendingAttend& operator=(const PendingAttend&) = delete;

  // Blocks until every query has its answer or its error, and sets them. Again: does nothing.
  void Wait();
  // Whether Wait would return at once.
  bool Answered() const;

 private:
  friend class Client;
  struct State;
  explicit PendingAttend(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// One sequence on the nodes. Calls that change it (all but the const ones, WaitAppended and
// attends) are made by one thread at a time.
class Session {
 public:
  // Closes it, if it was not closed or left, and forgets the status. Blocks.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  SessionId id() const;
  // One past the last row that was appended.
  Position end() const;

  // Sends rows to the nodes that hold them, in copies of its own. They begin at end(), which is 0
  // for a new session. Returns when they are on their way: blocks only while more are than the
  // nodes grant, append_window_bytes at most. What becomes of them is told by WaitAppended. An
  // append that fails once rows were sent is the session's state for good: rows are missing, and
  // every later call says so. After an error with which status() is still OK nothing was sent.
  Status Append(const Rows& rows);
  // Blocks until the nodes have every row before `position` that was appended. Not needed before
  // an attend, which waits at the node.
  Status WaitAppended(Position position);
  // Why nothing more can be asked of it: the first failed append or truncate, or that it is closed
  // (kFailedPrecondition).
  Status status() const;

  // Rolls it back: from here on it is as if only the rows before `position` had been appended.
  // Blocks. Not while it is attended to. kOutOfRange beyond its end. After kUnavailable,
  // kDeadlineExceeded or kResourceExhausted some nodes have done it: nothing else can be done with
  // the session until Truncate to that position is called again and succeeds, unless status() says
  // that a node has lost the session.
  Status Truncate(Position position);
  // Another session with the rows before `position`, which both share: the nodes copy nothing, and
  // either may be closed first. Its options are this one's. Blocks. `id` zero: a random one.
  // kOutOfRange beyond the end. *child is set if it is OK.
  Status Fork(Position position, std::unique_ptr<Session>* child, SessionId id = {});

  // Rows of one layer as they were appended, into keys and values: [kv heads, range, head_dim] of
  // the session's dtype each. Blocks. kOutOfRange beyond the end, kInvalidArgument for a layer
  // there is not.
  Status Fetch(uint32_t layer, Range range, void* keys, void* values) const;
  // The token ids that were appended with the rows of the range, in its order. Blocks.
  Status FetchTokens(Range range, std::vector<int32_t>* tokens) const;

  // Frees it on the nodes once its appends have ended; blocks. The first error of a node; the
  // session is closed in any case, and a node that did not answer frees it when it answers next,
  // or by its TTL. Again: does nothing.
  Status Close();
  // Closes it here and leaves it on the nodes, for Client::Adopt or its TTL.
  void Leave();

 private:
  friend class Client;
  struct State;
  explicit Session(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

struct NetworkOptions {
  // "auto" (all that UCX finds but shared memory, fastest first), "tcp", or a UCX_TLS list.
  std::string tls = "auto";
  std::string devices = {};     // as in UCX_NET_DEVICES ("mlx5_0:1"); empty: all
  std::string port_range = {};  // ports of the data connections, "lo-hi"; empty: any
  bool require_rdma = false;    // fail connections that got no RDMA
  // How long the network thread polls after the last work before it sleeps. Longer is faster (a
  // wake-up costs 25-150 us) and burns a core while traffic flows.
  std::chrono::nanoseconds spin = std::chrono::microseconds(20);
};

// The network thread, for several clients of one process: UCX 1.13 aborts now and then when a
// process uses it from two workers at once.
class Network;
std::shared_ptr<Network> MakeNetwork(const NetworkOptions& options);

struct ClientOptions {
  // Control addresses of the nodes, "host:port", each once. Their order decides which session lies
  // where: all clients that share sessions name the same nodes in the same order.
  std::vector<std::string> nodes;
  std::chrono::nanoseconds deadline = std::chrono::seconds(2);  // of every request; above 0
  int64_t append_window_bytes = int64_t{64} << 20;              // of a session in flight; above 0
  std::shared_ptr<Network> network = nullptr;  // null: one of its own, of default options
};

// A session that was taken over.
struct Adopted {
  std::unique_ptr<Session> session;  // goes on at its end()
  std::vector<int32_t> tokens;       // of [0, end()); empty unless every row was appended with one
};

// A process needs one.
class Client {
 public:
  // Asks every node for its data address; blocks. kInvalidArgument for nodes that are malformed or
  // one and the same, kUnavailable or kDeadlineExceeded naming one that does not answer,
  // kFailedPrecondition naming one of another protocol version. *client is set if it is OK.
  static Status Connect(const ClientOptions& options, std::unique_ptr<Client>* client);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // A session of its own on every node that may hold a part of it; blocks. kInvalidArgument for
  // options that do not fit each other, kAlreadyExists for an id that is open,
  // kFailedPrecondition for one that is with another model. *session is set if it is OK.
  Status Open(const SessionOptions& options, std::unique_ptr<Session>* session);

  // Takes over a session that a client left, or whose process has gone: its former holder is
  // refused from then on. Blocks. Rows that are not on every node they should be on are cut off.
  // kNotFound if no node has it, kFailedPrecondition if these are not the nodes, in the order, that
  // it was made with, or somebody else takes it over. After another error call it again. *adopted
  // is set if it is OK.
  Status Adopt(SessionId id, uint32_t tenant, Adopted* adopted);

  // Asks the nodes for attention of `count` blocks of queries to one layer: one request per node,
  // so give all sequences of a batch together. Waits for no node. The blocks stay where they are
  // until Wait has returned (or the PendingAttend is gone); the sessions may go earlier. What is
  // wrong with one block becomes its status and harms no other. `on_answered` is called once, when
  // Wait no longer blocks, and never inside this call.
  std::unique_ptr<PendingAttend> StartAttend(uint32_t layer, Query* queries, size_t count,
                                             std::function<void()> on_answered = nullptr);

  // Tells the nodes of sessions with a TTL that they are still wanted. To be called now and then
  // (often: it asks the nodes every third of a TTL) while sessions are idle; blocks then.
  void KeepAlive();

 private:
  friend struct gpu_worker::ClientAccess;
  explicit Client(std::shared_ptr<gpu_worker::KvConnection> connection);
  std::shared_ptr<gpu_worker::KvConnection> connection_;
};

// Merges partial outputs over disjoint sets of rows, exactly up to rounding: of `heads` queries,
// (other_outputs, other_lse) into (outputs, lse). outputs: [heads, dim], lse: [heads]. An empty
// side (lse -infinity) contributes nothing. For the same result every time, merge in order of
// position.
void Merge(float* outputs, float* lse, const float* other_outputs, const float* other_lse,
           size_t heads, size_t dim);

// What the library writes to stderr, process-wide; kInfo unless told otherwise.
enum class LogLevel : int { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3, kOff = 4 };
void SetLogLevel(LogLevel level);

// "0.1.0"
std::string Version();

}  // namespace sounder::client

#endif  // SOUNDER_GPU_WORKER_CLIENT_CLIENT_H_
