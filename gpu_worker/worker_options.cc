#include "gpu_worker/worker_options.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/config/host_port.h"
#include "common/config/logging.h"
#include "common/policy/placement.h"

namespace sounder::gpu_worker {
namespace {

absl::Status CheckNodes(const std::vector<std::string>& nodes) {
  RETURN_IF_ERROR(config::CheckAddresses("--nodes", nodes));
  const std::set<std::string> distinct(nodes.begin(), nodes.end());
  for (const std::string& node : distinct) {
    if (std::count(nodes.begin(), nodes.end(), node) == 1) continue;
    return absl::InvalidArgumentError("--nodes: " + node + " is named more than once");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<LayerMode>> LayerModes(const std::vector<std::string>& names,
                                                  int64_t num_layers) {
  if (names.size() != 1 && static_cast<int64_t>(names.size()) != num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("--attention names ", names.size(), " layers, the model has ", num_layers));
  }
  std::vector<LayerMode> modes;
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    const std::string& name = names[names.size() == 1 ? 0 : static_cast<size_t>(layer)];
    if (name == "exact-local") {
      modes.push_back(LayerMode::kExactLocal);
    } else if (name == "exact") {
      modes.push_back(LayerMode::kExact);
    } else if (name == "lsh") {
      modes.push_back(LayerMode::kLsh);
    } else if (name == "sketch") {
      modes.push_back(LayerMode::kSketch);
    } else {
      return absl::InvalidArgumentError("--attention: '" + name +
                                        "' is none of exact-local, exact, lsh, sketch");
    }
  }
  return modes;
}

absl::Status SetIndex(const WorkerOptions& options, const std::vector<LayerMode>& layers,
                      RemoteSessionOptions* session) {
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    if (!IsSampled(layers[layer])) continue;
    session->indexed_layers.push_back(static_cast<uint32_t>(layer));
    if (layers[layer] == layers[session->indexed_layers.front()]) continue;
    return absl::InvalidArgumentError(
        "--attention: lsh and sketch; a session has one kind of index");
  }
  const bool any = !session->indexed_layers.empty();
  const bool sketch = any && layers[session->indexed_layers.front()] == LayerMode::kSketch;
  if (options.row_format == "int8") {
    if (!sketch) {
      return absl::InvalidArgumentError("--row-format int8 is for --attention sketch");
    }
    session->row_format = wire::RowFormat::kInt8;
  }
  if (sketch) {
    session->sketch = {static_cast<uint32_t>(options.sketch_bits),
                       static_cast<uint64_t>(options.sketch_seed)};
  } else if (any) {
    session->lsh.bits_per_table = static_cast<uint32_t>(options.bits);
    session->lsh.num_tables = static_cast<uint32_t>(options.tables);
    session->lsh.min_collisions = static_cast<uint32_t>(options.min_collisions);
    session->lsh.projection = options.projection == "gaussian" ? wire::Projection::kGaussian
                                                               : wire::Projection::kHadamard;
    session->lsh.seed = static_cast<uint64_t>(options.lsh_seed);
  }
  return absl::OkStatus();
}

// Rounded up, since 0 is forever.
uint32_t TtlSeconds(base::Duration ttl) {
  const int64_t seconds = std::chrono::ceil<std::chrono::seconds>(ttl).count();
  return static_cast<uint32_t>(std::min<int64_t>(seconds, UINT32_MAX));
}

// How rows are sampled, and by what.
void DeclareIndex(config::OptionSet& set, WorkerOptions* options) {
  set.AddInt("bits", &options->bits, "LSH bits per table", {.min = 1, .max = 16});
  set.AddInt("tables", &options->tables, "LSH tables", {.min = 1, .max = base::kMaxTables});
  set.AddInt("min_collisions", &options->min_collisions,
             "tables a row must share with the query to be sampled", {.min = 1, .max = 255});
  set.AddText("projection", &options->projection, "random directions of the signatures",
              {"gaussian", "hadamard"});
  set.AddInt("lsh_seed", &options->lsh_seed, "seed of the random directions", {.min = 0});
  set.AddInt("sketch_bits", &options->sketch_bits, "sign bits of a key's sketch: 64, 128 or 256",
             {.min = 64, .max = 256});
  set.AddInt("sketch_seed", &options->sketch_seed, "seed of the sketches' rotation", {.min = 0});
  set.AddDouble("rows", &options->rows,
                "sketch: share of the rows on the nodes to read, per kv head",
                {.min = 1e-6, .max = 1});
  set.AddText("row_format", &options->row_format,
              "sketch: what sampling reads: rows as appended, or a copy of them in int8 beside",
              {"appended", "int8"});
  set.AddDouble("uniform_above", &options->uniform_above,
                "sketch: where attention is spread over more than this share of the rows, they are "
                "drawn alike; 0: never",
                {.min = 0, .max = 1});
  set.AddDouble("uniform_rows", &options->uniform_rows,
                "sketch: share of the rows to read where they are drawn alike; 0: twice --rows",
                {.min = 0, .max = 1});
  set.AddCheck([options]() -> absl::Status {
    const int64_t bits = options->sketch_bits;
    if (bits == 64 || bits == 128 || bits == 256) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--sketch-bits is ", bits, ", expected 64, 128 or 256"));
  });
  set.AddCheck([options] {
    if (options->min_collisions <= options->tables) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("--min-collisions ", options->min_collisions,
                                                   " is more than --tables ", options->tables,
                                                   ": no row could ever be sampled"));
  });
}

// How prompts are computed, and where their rows are put.
void DeclarePlacement(config::OptionSet& set, WorkerOptions* options) {
  set.AddInt("sinks", &options->sinks, "first tokens, kept and attended here", {.min = 0});
  set.AddInt("window", &options->window, "last tokens, kept and attended here", {.min = 1});
  set.AddInt("prefill_tokens", &options->prefill_tokens, "prompt tokens per forward pass",
             {.min = 1, .max = 65536});
  set.AddInt("prefill_local_rows", &options->prefill_local_rows,
             "rows of a first prompt that are computed here before the nodes get them; a longer "
             "one goes on block by block against the nodes. 0: all of them",
             {.min = 0});
  set.AddInt("seal_rows", &options->seal_rows, "rows of a segment on the nodes",
             {.min = 16, .max = base::kMaxSegmentRows});
  set.AddInt("min_indexed_rows", &options->min_indexed_rows,
             "shorter segments are attended exactly", {.min = 1, .max = base::kMaxSegmentRows});
  set.AddInt("shard_rows", &options->shard_rows,
             "positions per shard, a multiple of seal-rows; 0: do not cut the sequence",
             {.min = 0});
  set.AddInt("head_shards", &options->head_shards,
             "parts the kv heads are cut into; 0: one per node, as far as heads go", {.min = 0});
}

void DeclareWorker(config::OptionSet& set, WorkerOptions* options) {
  set.AddText("model", &options->model, "Hugging Face directory of the model");
  set.AddList("nodes", &options->nodes, "control addresses of the KV nodes, host:port");
  set.AddList("attention", &options->attention,
              "exact-local, exact, lsh or sketch: one for all layers, or one per layer");
  DeclareIndex(set, options);
  set.AddText("dtype", &options->dtype, "of stored rows and of queries on the wire",
              {"f32", "f16", "bf16"});
  set.AddInt("seed", &options->seed,
             "of the nodes' random draws: the same seed and prompt, the same sample", {.min = 0});
  DeclarePlacement(set, options);
  set.AddInt(
      "audit_every", &options->audit_every,
      "also attend exactly every so many steps of a sequence, and report the error; 0: never",
      {.min = 0});
  set.AddInt("threads", &options->threads, "threads of the model", {.min = 1, .max = 1024});
  set.AddDuration("deadline", &options->deadline, "how long a node may take to answer",
                  {.min = std::chrono::milliseconds(1), .max = std::chrono::hours(24)});
  set.AddDuration("heartbeat_interval", &options->liveness.heartbeat.interval,
                  "silence after which a node is asked for a sign of life; 0s: never");
  set.AddDuration("heartbeat_timeout", &options->liveness.heartbeat.timeout,
                  "how long it may take to give one; then it is away, and all that is asked of it "
                  "fails at once until it answers again",
                  {.min = std::chrono::milliseconds(10), .max = std::chrono::hours(24)});
  set.AddDuration("reconnect_first", &options->liveness.reconnect.first,
                  "first delay before a node that is away is tried again; doubles each time",
                  {.min = std::chrono::milliseconds(1), .max = std::chrono::hours(24)});
  set.AddDuration("reconnect_most", &options->liveness.reconnect.most,
                  "longest delay between two attempts",
                  {.min = std::chrono::milliseconds(1), .max = std::chrono::hours(24)});
  set.AddDuration("prefill_deadline", &options->prefill_deadline,
                  "how long a node may take to attend to a block of a prompt",
                  {.min = std::chrono::milliseconds(1), .max = std::chrono::minutes(1)});
  set.AddDuration("ttl", &options->ttl,
                  "nodes free a session when its worker was silent for this long, in whole seconds "
                  "(rounded up); 0: never");
  set.AddText("durability", &options->durability,
              "disk: nodes (with --store) find the session again when they start, for chat "
              "--adopt; memory: it ends with them",
              {"memory", "disk"});
  set.AddText(
      "ucx_tls", &options->ucx.tls,
      "transports: auto (all but shared memory), tcp, shm, or a UCX_TLS list such as rc,tcp");
  set.AddText("ucx_devices", &options->ucx.net_devices, "network devices, as in UCX_NET_DEVICES");
  set.AddDuration("ucx_spin", &options->ucx.spin, "how long the data plane polls before it sleeps");
  set.AddBool("require_rdma", &options->ucx.require_rdma, "refuse connections without RDMA");
  set.AddText("simd", &options->simd, "instruction set: best, or a level this machine has");
  config::AddLogOptions(set, &options->log_level);
  set.Require("model");
  set.AddCheck([options] { return CheckNodes(options->nodes); });
}

}  // namespace

void Declare(config::OptionSet& set, GenerateOptions* options) {
  DeclareWorker(set, options);
  set.AddText("prompts", &options->prompts,
              "JSON lines: id, text or tokens or turns, max_tokens, adopt");
  set.AddText("output", &options->output, "where answers go, as JSON lines; empty: stdout");
  set.AddText("summary", &options->summary, "where figures of the whole run go, as JSON");
  set.AddInt("batch", &options->batch, "sequences decoded together", {.min = 1, .max = 1024});
  set.AddBool("progress", &options->progress, "count answered prompts on stderr");
  set.Require("prompts");
}

void Declare(config::OptionSet& set, ChatOptions* options) {
  DeclareWorker(set, options);
  set.AddInt("max_tokens", &options->max_tokens, "most tokens of an answer", {.min = 0});
  set.AddText("begin", &options->begin, "text before the first turn, such as <s>");
  set.AddText("turn_prefix", &options->turn_prefix, "text before each line that is entered");
  set.AddText("turn_suffix", &options->turn_suffix, "text behind each line that is entered");
  set.AddText("adopt", &options->adopt,
              "go on with this session, which another worker left on the nodes");
  set.AddCheck([options]() -> absl::Status {
    if (options->adopt.empty()) return absl::OkStatus();
    const auto id = base::SessionId::Parse(options->adopt);
    if (id.has_value() && !id->empty()) return absl::OkStatus();
    return absl::InvalidArgumentError("--adopt: '" + options->adopt +
                                      "' is no session, expected 32 hexadecimal digits");
  });
}

absl::StatusOr<GeneratorOptions> MakeGeneratorOptions(const WorkerOptions& options,
                                                      const LlamaModel& model) {
  GeneratorOptions generator;
  generator.prefill_tokens = options.prefill_tokens;
  generator.prefill_local_rows = options.prefill_local_rows;
  generator.seed = static_cast<uint64_t>(options.seed);
  generator.attention.sinks = options.sinks;
  generator.attention.window = options.window;
  generator.attention.dtype = *base::ParseDType(options.dtype);
  generator.attention.audit_every = options.audit_every;
  generator.attention.sketch = {
      options.rows, options.uniform_above,
      options.uniform_rows > 0 ? options.uniform_rows : std::min(1.0, 2 * options.rows)};
  ASSIGN_OR_RETURN(generator.attention.layers,
                   LayerModes(options.attention, model.config().num_layers));
  RemoteSessionOptions& session = generator.session;
  session.model = IdentityOf(model, options.model);
  session.seal_rows = static_cast<uint32_t>(options.seal_rows);
  session.min_indexed_rows = static_cast<uint32_t>(options.min_indexed_rows);
  session.shard_rows = options.shard_rows;
  session.ttl_seconds = TtlSeconds(options.ttl);
  if (options.durability == "disk") session.durability = wire::Durability::kDisk;
  const int64_t nodes = static_cast<int64_t>(options.nodes.size());
  session.head_shards = static_cast<int>(
      options.head_shards > 0 ? options.head_shards
                              : std::max<int64_t>(1, std::min(nodes, model.config().num_kv_heads)));
  policy::PlacementOptions placement;
  placement.num_nodes = static_cast<int>(std::max<int64_t>(1, nodes));
  placement.shard_rows = session.shard_rows;
  placement.head_shards = session.head_shards;
  RETURN_IF_ERROR(policy::Placement::Create(placement,
                                            static_cast<int>(model.config().num_kv_heads),
                                            session.seal_rows, session.id)
                      .status());
  RETURN_IF_ERROR(SetIndex(options, generator.attention.layers, &session));
  return generator;
}

}  // namespace sounder::gpu_worker
