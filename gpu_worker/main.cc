// sounder_worker: the wiring diagram of a worker.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/base/thread_executor.h"
#include "common/config/commands.h"
#include "common/config/environment.h"
#include "common/config/host_port.h"
#include "common/config/logging.h"
#include "common/config/option_set.h"
#include "common/kernels/simd_level.h"
#include "common/transport/ucx_transport.h"
#include "common/wire/control_client.h"
#include "gpu_worker/engine/generator.h"
#include "gpu_worker/engine/prompt_file.h"
#include "gpu_worker/kv/kv_client.h"
#include "gpu_worker/model/forward.h"
#include "gpu_worker/model/tokenizer.h"
#include "gpu_worker/ops/ops_cpu.h"

namespace sounder::gpu_worker {
namespace {

constexpr int kExitBadInput = 3;
constexpr int kExitUnavailable = 4;

struct Options {
  std::string model;
  std::vector<std::string> nodes;
  std::vector<std::string> attention = {"lsh"};
  std::string prompts;
  std::string output;
  std::string summary;
  std::string dtype = "bf16";
  int64_t bits = 10;
  int64_t tables = 150;
  int64_t min_collisions = 2;
  std::string projection = "hadamard";
  int64_t lsh_seed = 1;
  int64_t seed = 1;
  int64_t sinks = 4;
  int64_t window = 64;
  int64_t batch = 8;
  int64_t prefill_tokens = 512;
  int64_t seal_rows = 4096;
  int64_t min_indexed_rows = 1024;
  int64_t shard_rows = 0;
  int64_t head_shards = 0;
  int64_t audit_every = 0;
  int64_t threads = std::max(1u, std::thread::hardware_concurrency());
  base::Duration deadline = std::chrono::seconds(2);
  base::Duration ttl = std::chrono::minutes(10);
  transport::UcxOptions ucx;
  std::string simd = "best";
  std::string log_level = "info";
  bool progress = false;
};

absl::Status CheckNodes(const std::vector<std::string>& nodes) {
  RETURN_IF_ERROR(config::CheckAddresses("--nodes", nodes));
  const std::set<std::string> distinct(nodes.begin(), nodes.end());
  for (const std::string& node : distinct) {
    if (std::count(nodes.begin(), nodes.end(), node) == 1) continue;
    return absl::InvalidArgumentError("--nodes: " + node + " is named more than once");
  }
  return absl::OkStatus();
}

void Declare(config::OptionSet& set, Options* options) {
  set.AddText("model", &options->model, "Hugging Face directory of the model");
  set.AddList("nodes", &options->nodes, "control addresses of the KV nodes, host:port");
  set.AddList("attention", &options->attention,
              "exact-local, exact or lsh: one for all layers, or one per layer");
  set.AddText("prompts", &options->prompts, "JSON lines: id, text or tokens, max_tokens");
  set.AddText("output", &options->output, "where answers go, as JSON lines; empty: stdout");
  set.AddText("summary", &options->summary, "where figures of the whole run go, as JSON");
  set.AddText("dtype", &options->dtype, "of stored rows and of queries on the wire",
              {"f32", "f16", "bf16"});
  set.AddInt("bits", &options->bits, "LSH bits per table", {.min = 1, .max = 16});
  set.AddInt("tables", &options->tables, "LSH tables", {.min = 1, .max = base::kMaxTables});
  set.AddInt("min_collisions", &options->min_collisions,
             "tables a row must share with the query to be sampled", {.min = 1, .max = 255});
  set.AddText("projection", &options->projection, "random directions of the signatures",
              {"gaussian", "hadamard"});
  set.AddInt("lsh_seed", &options->lsh_seed, "seed of the random directions", {.min = 0});
  set.AddInt("seed", &options->seed,
             "of the nodes' random draws: the same seed and prompt, the same sample", {.min = 0});
  set.AddInt("sinks", &options->sinks, "first tokens, kept and attended here", {.min = 0});
  set.AddInt("window", &options->window, "last tokens, kept and attended here", {.min = 1});
  set.AddInt("batch", &options->batch, "sequences decoded together", {.min = 1, .max = 1024});
  set.AddInt("prefill_tokens", &options->prefill_tokens, "prompt tokens per forward pass",
             {.min = 1, .max = 65536});
  set.AddInt("seal_rows", &options->seal_rows, "rows of a segment on the nodes",
             {.min = 16, .max = base::kMaxSegmentRows});
  set.AddInt("min_indexed_rows", &options->min_indexed_rows,
             "shorter segments are attended exactly", {.min = 1, .max = base::kMaxSegmentRows});
  set.AddInt("shard_rows", &options->shard_rows,
             "positions per shard, a multiple of seal-rows; 0: do not cut the sequence",
             {.min = 0});
  set.AddInt("head_shards", &options->head_shards,
             "parts the kv heads are cut into; 0: one per node, as far as heads go", {.min = 0});
  set.AddInt(
      "audit_every", &options->audit_every,
      "also attend exactly every so many steps of a sequence, and report the error; 0: never",
      {.min = 0});
  set.AddInt("threads", &options->threads, "threads of the model", {.min = 1, .max = 1024});
  set.AddDuration("deadline", &options->deadline, "how long a node may take to answer");
  set.AddDuration("ttl", &options->ttl, "nodes free sessions this long after the last message");
  set.AddText("ucx_tls", &options->ucx.tls,
              "transports: auto, tcp, shm, or a UCX_TLS list such as rc,tcp");
  set.AddText("ucx_devices", &options->ucx.net_devices, "network devices, as in UCX_NET_DEVICES");
  set.AddDuration("ucx_spin", &options->ucx.spin, "how long the data plane polls before it sleeps");
  set.AddBool("require_rdma", &options->ucx.require_rdma, "refuse connections without RDMA");
  set.AddText("simd", &options->simd, "instruction set: best, or a level this machine has");
  set.AddBool("progress", &options->progress, "count answered prompts on stderr");
  config::AddLogOptions(set, &options->log_level);
  set.Require("model");
  set.Require("prompts");
  set.AddCheck([options] { return CheckNodes(options->nodes); });
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
    } else {
      return absl::InvalidArgumentError("--attention: '" + name +
                                        "' is none of exact-local, exact, lsh");
    }
  }
  return modes;
}

absl::StatusOr<GeneratorOptions> MakeGeneratorOptions(const Options& options,
                                                      const LlamaModel& model) {
  GeneratorOptions generator;
  generator.batch = options.batch;
  generator.prefill_tokens = options.prefill_tokens;
  generator.seed = static_cast<uint64_t>(options.seed);
  generator.measure_nodes = !options.summary.empty();
  generator.attention.sinks = options.sinks;
  generator.attention.window = options.window;
  generator.attention.dtype = *base::ParseDType(options.dtype);
  generator.attention.audit_every = options.audit_every;
  ASSIGN_OR_RETURN(generator.attention.layers,
                   LayerModes(options.attention, model.config().num_layers));
  RemoteSessionOptions& session = generator.session;
  session.model = IdentityOf(model, options.model);
  session.seal_rows = static_cast<uint32_t>(options.seal_rows);
  session.min_indexed_rows = static_cast<uint32_t>(options.min_indexed_rows);
  session.shard_rows = options.shard_rows;
  session.ttl_seconds = static_cast<uint32_t>(options.ttl.count() / 1'000'000'000);
  const int64_t nodes = static_cast<int64_t>(options.nodes.size());
  session.head_shards = static_cast<int>(
      options.head_shards > 0 ? options.head_shards
                              : std::max<int64_t>(1, std::min(nodes, model.config().num_kv_heads)));
  for (size_t layer = 0; layer < generator.attention.layers.size(); ++layer) {
    if (generator.attention.layers[layer] != LayerMode::kLsh) continue;
    session.indexed_layers.push_back(static_cast<uint32_t>(layer));
  }
  if (!session.indexed_layers.empty()) {
    session.lsh.bits_per_table = static_cast<uint32_t>(options.bits);
    session.lsh.num_tables = static_cast<uint32_t>(options.tables);
    session.lsh.min_collisions = static_cast<uint32_t>(options.min_collisions);
    session.lsh.projection = options.projection == "gaussian" ? wire::Projection::kGaussian
                                                              : wire::Projection::kHadamard;
    session.lsh.seed = static_cast<uint64_t>(options.lsh_seed);
  }
  return generator;
}

// Figures of a run.
struct Summary {
  int64_t prompts = 0;
  int64_t failed = 0;
  int64_t steps = 0;  // sequence steps
  double decode_seconds = 0;
  double prefill_seconds = 0;
  AttentionCounts counts;
  uint64_t audit_bytes = 0;
  int64_t failed_closes = 0;
  uint64_t node_memory_peak = 0;  // accounted, all nodes, as seen when prompts ended

  void Add(const Sequence& sequence) {
    ++prompts;
    if (!sequence.status.ok()) ++failed;
    steps += sequence.decode_steps;
    decode_seconds += sequence.decode_seconds;
    prefill_seconds += sequence.prefill_seconds;
    counts.positions += sequence.counts.positions;
    counts.positions_exact += sequence.counts.positions_exact;
    counts.rows_visible += sequence.counts.rows_visible;
    counts.rows_read += sequence.counts.rows_read;
    counts.rows_loaded += sequence.counts.rows_loaded;
    counts.audited += sequence.counts.audited;
    counts.audited_error += sequence.counts.audited_error;
    node_memory_peak = std::max(node_memory_peak, sequence.node_memory);
  }
};

std::string SummaryJson(const Summary& summary, const KvClient* client, double wall_seconds) {
  const auto ratio = [](double a, double b) { return b > 0 ? a / b : 0.0; };
  const AttentionCounts& counts = summary.counts;
  nlohmann::json json;
  json["prompts"] = summary.prompts;
  json["failed"] = summary.failed;
  json["failed_closes"] = summary.failed_closes;
  json["decode_steps"] = summary.steps;
  json["wall_seconds"] = wall_seconds;
  json["prefill_seconds"] = summary.prefill_seconds;
  json["ms_per_step"] = 1e3 * ratio(summary.decode_seconds, static_cast<double>(summary.steps));
  json["positions"] = counts.positions;
  json["rows_visible"] = counts.rows_visible;
  json["rows_read_fraction"] =
      ratio(static_cast<double>(counts.rows_read), static_cast<double>(counts.rows_visible));
  json["exact_share"] =
      ratio(static_cast<double>(counts.positions_exact), static_cast<double>(counts.positions));
  json["attention_error"] = ratio(counts.audited_error, static_cast<double>(counts.audited));
  json["audited"] = counts.audited;
  json["node_memory_peak_bytes"] = summary.node_memory_peak;
  if (client != nullptr) {
    const wire::DataClientCounters wire = client->counters();
    json["requests"] = wire.requests;
    json["failed_requests"] = wire.failures;
    json["bytes_sent"] = wire.bytes_sent;
    json["bytes_received"] = wire.bytes_received;
    const uint64_t attend_bytes =
        wire.attend_bytes_sent + wire.attend_bytes_received - summary.audit_bytes;
    json["attend_bytes"] = attend_bytes;
    json["audit_bytes"] = summary.audit_bytes;
    json["attend_bytes_per_step"] =
        ratio(static_cast<double>(attend_bytes), static_cast<double>(summary.steps));
  }
  return json.dump(2) + "\n";
}

int Fail(int exit_code, const absl::Status& status) {
  std::fprintf(stderr, "sounder_worker: %s\n", base::MessageOf(status).c_str());
  return exit_code;
}

// The exit status that tells a caller what kind of failure it was.
int ExitCodeOf(const absl::Status& status) {
  const bool world = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
                     absl::IsResourceExhausted(status);
  return world ? kExitUnavailable : kExitBadInput;
}

// Set by SIGINT and SIGTERM; a second signal ends the process at once.
std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void OnStopSignal(int number) {
  stop_requested = true;
  signal(number, SIG_DFL);
}

// What a run writes; not open where no option names a file.
struct Files {
  std::ofstream answers;
  std::ofstream summary;
};

absl::Status OpenFiles(const Options& options, Files* files) {
  for (auto [path, file] : {std::pair(&options.output, &files->answers),
                            std::pair(&options.summary, &files->summary)}) {
    if (!path->empty()) file->open(*path);
    if (!*file) return absl::NotFoundError(*path + ": cannot be written");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<KvClient>> Connect(const Options& options,
                                                  transport::Transport* transport,
                                                  base::Executor* executor) {
  KvClientOptions client_options;
  client_options.deadline = options.deadline;
  std::vector<std::unique_ptr<wire::ControlChannel>> nodes;
  for (const std::string& node : options.nodes) {
    nodes.push_back(std::make_unique<wire::ControlClient>(node, options.deadline));
  }
  return KvClient::Create(client_options, std::move(nodes), transport, executor);
}

// Answers the prompts; `client` is null when every layer is local. The exit status.
int Answer(const Options& options, Generator* generator, std::vector<Prompt> prompts,
           const Tokenizer* words, const KvClient* client, Files* files) {
  Summary summary;
  absl::Status first_failure;
  const size_t wanted = prompts.size();
  const auto start = std::chrono::steady_clock::now();
  const absl::Status ran = generator->Run(std::move(prompts), [&](const Sequence& sequence) {
    summary.Add(sequence);
    if (first_failure.ok()) first_failure = sequence.status;
    const std::string line = AnswerLine(sequence, words) + "\n";
    if (options.output.empty()) {
      std::fputs(line.c_str(), stdout);
    } else {
      files->answers << line << std::flush;
    }
    if (options.progress) {
      std::fprintf(stderr, "\r  %lld of %zu prompts", static_cast<long long>(summary.prompts),
                   wanted);
    }
  });
  if (options.progress) std::fputs("\n", stderr);
  const double wall =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  summary.audit_bytes = generator->audit_bytes();
  summary.failed_closes = generator->failed_closes();
  if (!options.summary.empty()) {
    files->summary << SummaryJson(summary, client, wall) << std::flush;
  }
  if (!ran.ok()) return Fail(ExitCodeOf(ran), ran);
  if (!files->answers || !files->summary) {
    return Fail(kExitUnavailable,
                absl::DataLossError("not everything could be written to " +
                                    (files->answers ? options.summary : options.output)));
  }
  if (first_failure.ok()) return 0;
  std::fprintf(stderr, "sounder_worker: %lld of %lld prompts failed\n",
               static_cast<long long>(summary.failed), static_cast<long long>(summary.prompts));
  return Fail(ExitCodeOf(first_failure), first_failure);
}

int Generate(const Options& options) {
  signal(SIGPIPE, SIG_IGN);
  signal(SIGINT, OnStopSignal);
  signal(SIGTERM, OnStopSignal);
  absl::StatusOr<std::unique_ptr<Ops>> ops = MakeCpuOps({static_cast<int>(options.threads)});
  if (!ops.ok()) return Fail(config::kExitUsage, ops.status());
  absl::StatusOr<std::unique_ptr<LlamaModel>> model = LlamaModel::Load(options.model, ops->get());
  if (!model.ok()) return Fail(kExitBadInput, model.status());
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      Tokenizer::Load(options.model + "/tokenizer.json");
  if (!tokenizer.ok() && !absl::IsNotFound(tokenizer.status())) {
    return Fail(kExitBadInput, tokenizer.status());
  }
  const Tokenizer* words = tokenizer.ok() ? tokenizer->get() : nullptr;
  absl::StatusOr<std::vector<Prompt>> prompts = ReadPrompts(options.prompts, words);
  if (!prompts.ok()) return Fail(kExitBadInput, prompts.status());
  absl::StatusOr<GeneratorOptions> generator_options = MakeGeneratorOptions(options, **model);
  if (!generator_options.ok()) return Fail(config::kExitUsage, generator_options.status());
  const std::vector<LayerMode>& layers = generator_options->attention.layers;
  const bool remote = std::any_of(layers.begin(), layers.end(),
                                  [](LayerMode mode) { return mode != LayerMode::kExactLocal; });
  if (remote && options.nodes.empty()) {
    return Fail(config::kExitUsage,
                absl::InvalidArgumentError("--attention exact and lsh need nodes (--nodes)"));
  }
  generator_options->stop = &stop_requested;
  Files files;
  if (absl::Status status = OpenFiles(options, &files); !status.ok()) {
    return Fail(kExitBadInput, status);
  }

  base::ThreadExecutor executor(1, "worker");
  std::unique_ptr<KvClient> client;  // outlives the transport
  transport::UcxTransport transport(options.ucx);
  if (remote) {
    absl::StatusOr<std::unique_ptr<KvClient>> created = Connect(options, &transport, &executor);
    if (!created.ok()) {
      const bool usage = absl::IsInvalidArgument(created.status());
      return Fail(usage ? config::kExitUsage : ExitCodeOf(created.status()), created.status());
    }
    client = *std::move(created);
  }
  Generator generator(*generator_options, model->get(), client.get());
  return Answer(options, &generator, *std::move(prompts), words, client.get(), &files);
}

int GenerateCommand(int argc, const char* const* argv, const config::Environment& environment) {
  Options options;
  config::OptionSet set("sounder_worker generate", "Answers prompts with a model.");
  Declare(set, &options);
  if (std::optional<int> exit = set.ParseOrExit(argc, argv, environment)) return *exit;
  config::SetLogLevel(options.log_level);
  if (absl::Status status = kernels::ForceSimdLevel(options.simd); !status.ok()) {
    return Fail(config::kExitUsage, base::Annotate(status, "--simd"));
  }
  return Generate(options);
}

}  // namespace
}  // namespace sounder::gpu_worker

int main(int argc, char** argv) {
  using namespace sounder;
  const std::vector<config::Command> commands = {
      {"generate", "answer prompts from a file", gpu_worker::GenerateCommand},
  };
  return config::RunCommand("sounder_worker", "Runs a model over KV nodes.", commands, argc, argv,
                            config::EnvironmentFromProcess());
}
