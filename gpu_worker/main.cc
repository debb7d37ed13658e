// sounder_worker: the wiring diagram of a worker.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "common/base/absl_text.h"
#include "common/base/clock.h"
#include "common/base/status_macros.h"
#include "common/config/commands.h"
#include "common/config/environment.h"
#include "common/config/logging.h"
#include "common/config/option_set.h"
#include "common/kernels/simd_level.h"
#include "gpu_worker/engine/generator.h"
#include "gpu_worker/engine/prompt_file.h"
#include "gpu_worker/generate_options.h"
#include "gpu_worker/kv/kv_connection.h"
#include "gpu_worker/model/forward.h"
#include "gpu_worker/model/tokenizer.h"
#include "gpu_worker/ops/ops_cpu.h"
#include "gpu_worker/output_file.h"

namespace sounder::gpu_worker {
namespace {

constexpr int kExitBadInput = 3;
constexpr int kExitUnavailable = 4;

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
    counts.sketched += sequence.counts.sketched;
    counts.drawn_alike += sequence.counts.drawn_alike;
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
  json["drawn_alike_share"] =
      ratio(static_cast<double>(counts.drawn_alike), static_cast<double>(counts.sketched));
  json["attention_error"] = ratio(counts.audited_error, static_cast<double>(counts.audited));
  json["audited"] = counts.audited;
  json["node_memory_peak_bytes"] = summary.node_memory_peak;
  if (client != nullptr) {
    const wire::DataClientCounters wire = client->counters();
    json["requests"] = wire.requests;
    json["failed_requests"] = wire.failures;
    json["refused_requests"] = wire.refusals;
    json["repeated_requests"] = wire.retries;
    json["nodes_lost"] = wire.times_away;
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
std::atomic<int> stop_signal{0};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

void OnStopSignal(int number) {
  stop_signal = number;
  stop_requested = true;
  signal(number, SIG_DFL);
}

bool AnyRemote(const GeneratorOptions& options) {
  const std::vector<LayerMode>& layers = options.attention.layers;
  return std::any_of(layers.begin(), layers.end(),
                     [](LayerMode mode) { return mode != LayerMode::kExactLocal; });
}

absl::StatusOr<std::unique_ptr<KvConnection>> Connect(const GenerateOptions& options) {
  KvClientOptions client_options;
  client_options.deadline = options.deadline;
  client_options.seed = std::random_device{}();
  client_options.liveness = options.liveness;
  return KvConnection::Connect(options.nodes, client_options,
                               transport::MakeUcxEngine(options.ucx));
}

// Answers the prompts; the exit status. `client` is null where every layer is local.
int Answer(const GenerateOptions& options, const GeneratorOptions& generator_options,
           LlamaModel* model, const Tokenizer* words, std::vector<Prompt> prompts, KvClient* client,
           const base::Clock* clock, OutputFile* answers, OutputFile* summary_file) {
  Summary summary;
  absl::Status first_failure;
  const size_t wanted = prompts.size();
  const base::Time start = clock->Now();
  Generator generator(generator_options, model, client, clock);
  const absl::Status ran = generator.Run(std::move(prompts), [&](const Sequence& sequence) {
    summary.Add(sequence);
    if (first_failure.ok()) first_failure = sequence.status;
    answers->Write(AnswerLine(sequence, words) + "\n");
    if (!answers->status().ok()) stop_requested = true;  // nobody will see the others
    if (options.progress) {
      std::fprintf(stderr, "\r  %lld of %zu prompts", static_cast<long long>(summary.prompts),
                   wanted);
    }
  });
  if (options.progress) std::fputs("\n", stderr);
  const double wall = std::chrono::duration<double>(clock->Now() - start).count();
  summary.audit_bytes = generator.audit_bytes();
  summary.failed_closes = generator.failed_closes();
  if (!options.summary.empty()) summary_file->Write(SummaryJson(summary, client, wall));
  if (!ran.ok()) return Fail(ExitCodeOf(ran), ran);
  for (const OutputFile* file : {answers, summary_file}) {
    if (!file->status().ok()) return Fail(kExitUnavailable, file->status());
  }
  if (!first_failure.ok()) {
    std::fprintf(stderr, "sounder_worker: %lld of %lld prompts failed\n",
                 static_cast<long long>(summary.failed), static_cast<long long>(summary.prompts));
    // As a shell reports a program that a signal ended.
    const int signal_number = stop_signal;
    return Fail(signal_number != 0 ? 128 + signal_number : ExitCodeOf(first_failure),
                first_failure);
  }
  return 0;
}

int Generate(const GenerateOptions& options) {
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
  const bool remote = AnyRemote(*generator_options);
  if (remote && options.nodes.empty()) {
    return Fail(config::kExitUsage, absl::InvalidArgumentError(
                                        "--attention exact, lsh and sketch need nodes (--nodes)"));
  }
  generator_options->stop = &stop_requested;

  OutputFile answers;
  if (absl::Status status = answers.Open(options.output); !status.ok()) {
    return Fail(kExitBadInput, status);
  }
  OutputFile summary;
  if (!options.summary.empty()) {
    if (absl::Status status = summary.Open(options.summary); !status.ok()) {
      return Fail(kExitBadInput, status);
    }
  }

  std::unique_ptr<KvConnection> connection;
  if (remote) {
    absl::StatusOr<std::unique_ptr<KvConnection>> made = Connect(options);
    if (!made.ok()) {
      const bool usage = absl::IsInvalidArgument(made.status());
      return Fail(usage ? config::kExitUsage : ExitCodeOf(made.status()), made.status());
    }
    connection = *std::move(made);
  }
  const base::SteadyClock clock;
  return Answer(options, *generator_options, model->get(), words, *std::move(prompts),
                remote ? &connection->client() : nullptr, &clock, &answers, &summary);
}

int GenerateCommand(int argc, const char* const* argv, const config::Environment& environment) {
  GenerateOptions options;
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
