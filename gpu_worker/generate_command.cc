#include "gpu_worker/generate_command.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "common/config/option_set.h"
#include "gpu_worker/engine/generator.h"
#include "gpu_worker/engine/prompt_file.h"
#include "gpu_worker/output_file.h"
#include "gpu_worker/stop_signals.h"
#include "gpu_worker/worker.h"
#include "gpu_worker/worker_options.h"

namespace sounder::gpu_worker {
namespace {

// Figures of a run.
struct Summary {
  int64_t prompts = 0;
  int64_t turns = 0;
  int64_t failed = 0;  // prompts
  int64_t steps = 0;   // sequence steps
  double decode_seconds = 0;
  double prefill_seconds = 0;
  AttentionCounts counts;
  uint64_t audit_bytes = 0;
  int64_t failed_closes = 0;
  uint64_t node_memory_peak = 0;  // accounted, all nodes, as seen when turns ended

  void Add(const Sequence& sequence) {
    ++turns;
    if (sequence.last_turn) {
      ++prompts;
      if (!sequence.status.ok()) ++failed;
    }
    steps += sequence.decode_steps;
    decode_seconds += sequence.decode_seconds;
    prefill_seconds += sequence.prefill_seconds;
    counts += sequence.counts;
    node_memory_peak = std::max(node_memory_peak, sequence.node_memory);
  }
};

std::string SummaryJson(const Summary& summary, const KvClient* client, double wall_seconds) {
  const auto ratio = [](double a, double b) { return b > 0 ? a / b : 0.0; };
  const AttentionCounts& counts = summary.counts;
  nlohmann::json json;
  json["prompts"] = summary.prompts;
  json["turns"] = summary.turns;
  json["failed"] = summary.failed;
  json["failed_closes"] = summary.failed_closes;
  json["decode_steps"] = summary.steps;
  json["wall_seconds"] = wall_seconds;
  json["prefill_seconds"] = summary.prefill_seconds;
  json["ms_per_step"] = 1e3 * ratio(summary.decode_seconds, static_cast<double>(summary.steps));
  json["positions"] = counts.positions;
  json["rows_visible"] = counts.rows_visible;
  json["prefill_rows_loaded"] = counts.prefill_rows_loaded;
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
    const uint64_t attend_bytes = wire.attend_bytes() - summary.audit_bytes;
    json["attend_bytes"] = attend_bytes;
    json["audit_bytes"] = summary.audit_bytes;
    json["attend_bytes_per_step"] =
        ratio(static_cast<double>(attend_bytes), static_cast<double>(summary.steps));
  }
  return json.dump(2) + "\n";
}

// Answers the prompts; the exit status.
int Answer(const GenerateOptions& options, Worker& worker, StopSignals& signals,
           std::vector<Prompt> prompts, OutputFile* answers, OutputFile* summary_file) {
  Summary summary;
  absl::Status first_failure;
  const size_t wanted = prompts.size();
  const base::Time start = worker.clock()->Now();
  Generator generator(worker.generator_options(), worker.model(), worker.client(), worker.clock());
  const absl::Status ran = generator.Run(std::move(prompts), [&](const Sequence& sequence) {
    summary.Add(sequence);
    if (first_failure.ok()) first_failure = sequence.status;
    answers->Write(AnswerLine(sequence, worker.words()) + "\n");
    if (!answers->status().ok()) signals.Request();  // nobody will see the others
    if (options.progress) {
      std::fprintf(stderr, "\r  %lld of %zu prompts", static_cast<long long>(summary.prompts),
                   wanted);
    }
  });
  if (options.progress) std::fputs("\n", stderr);
  const double wall = std::chrono::duration<double>(worker.clock()->Now() - start).count();
  summary.audit_bytes = generator.audit_bytes();
  summary.failed_closes = generator.failed_closes();
  if (!options.summary.empty()) summary_file->Write(SummaryJson(summary, worker.client(), wall));
  if (!ran.ok()) return Fail(ExitCodeOf(ran), ran);
  for (const OutputFile* file : {answers, summary_file}) {
    if (!file->status().ok()) return Fail(kExitUnavailable, file->status());
  }
  if (!first_failure.ok()) {
    std::fprintf(stderr, "sounder_worker: %lld of %lld prompts failed\n",
                 static_cast<long long>(summary.failed), static_cast<long long>(summary.prompts));
    // As a shell reports a program that a signal ended.
    const int signal_number = signals.ended_by();
    return Fail(signal_number != 0 ? 128 + signal_number : ExitCodeOf(first_failure),
                first_failure);
  }
  return 0;
}

int Generate(const GenerateOptions& options) {
  StopSignals signals(StopSignals::Interrupt::kEnd);
  Worker worker(options);
  if (const std::optional<int> exit = worker.Load()) return *exit;
  absl::StatusOr<std::vector<Prompt>> prompts = ReadPrompts(options.prompts, worker.words());
  if (!prompts.ok()) return Fail(kExitBadInput, prompts.status());
  worker.generator_options().batch = options.batch;
  worker.generator_options().measure_nodes = !options.summary.empty();
  worker.generator_options().stop = &signals.requested();
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
  if (const std::optional<int> exit = worker.Connect()) return *exit;
  return Answer(options, worker, signals, *std::move(prompts), &answers, &summary);
}

}  // namespace

int GenerateCommand(int argc, const char* const* argv, const config::Environment& environment) {
  GenerateOptions options;
  config::OptionSet set("sounder_worker generate", "Answers prompts with a model.");
  Declare(set, &options);
  if (std::optional<int> exit = set.ParseOrExit(argc, argv, environment)) return *exit;
  return Generate(options);
}

}  // namespace sounder::gpu_worker
