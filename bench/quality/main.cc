// quality_bench: what samplers cost in answers. The committed test model answers held-out prompts
// of its two tasks under every sampler and share of rows; see DESIGN.md.
//
//   quality_bench [--prompts N] [--tasks recall,words] [--samplers A,B] [--rows .01,.02]
//                 [--output quality.json] [--plot quality.svg]
//   quality_bench --from quality.json --plot quality.svg
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "bench/quality/quality_plot.h"
#include "bench/quality/report.h"
#include "bench/quality/trial.h"
#include "bench/suite/machine.h"
#include "common/base/absl_text.h"
#include "common/base/cpu.h"
#include "common/base/status_macros.h"
#include "common/config/option_set.h"
#include "common/kernels/simd_level.h"

namespace sounder::quality {
namespace {

struct Options {
  std::string model = "tests/models/two_tasks";
  std::string output;
  std::string plot;
  std::string from;
  std::vector<std::string> tasks = {"recall", "words"};
  std::vector<std::string> samplers = KnownSamplers();
  std::vector<std::string> rows = {"0.01", "0.02", "0.05", "0.1"};
  int64_t prompts = 1000;
  int64_t length = bench::PromptLaw().length;
  int64_t tail = bench::PromptLaw().tail;
  int64_t seed = static_cast<int64_t>(TrialSpec().seed);
  int64_t threads = std::max(1u, std::thread::hardware_concurrency());
};

void Declare(config::OptionSet& set, Options& options) {
  set.AddText("model", &options.model, "directory of the two_tasks model");
  set.AddText("output", &options.output, "file for the figures, JSON");
  set.AddText("plot", &options.plot, "file for a plot of them, SVG");
  set.AddText("from", &options.from, "figures of an earlier run: plot these and measure nothing");
  set.AddList("tasks", &options.tasks, "recall, words");
  set.AddList("samplers", &options.samplers,
              "samplers, with their bits behind an underscore (sketch_64); window: none at all. "
              "exact is always tried");
  set.AddList("rows", &options.rows, "shares of the rows between sinks and window, per kv head");
  set.AddInt("prompts", &options.prompts, "prompts per task", {.min = 1, .max = 1000000});
  set.AddInt("length", &options.length, "tokens of a prompt", {.min = 128, .max = 4096});
  set.AddInt("tail", &options.tail, "fillers before the question", {.min = 0, .max = 4096});
  set.AddInt("seed", &options.seed, "of prompts and draws", {.min = 0});
  set.AddInt("threads", &options.threads, "prompts answered at a time", {.min = 1, .max = 1024});
}

absl::StatusOr<std::vector<double>> Shares(const std::vector<std::string>& texts) {
  std::vector<double> shares;
  for (const std::string& text : texts) {
    double share = 0;
    const auto number = std::from_chars(text.data(), text.data() + text.size(), share);
    const bool all = number.ec == std::errc() && number.ptr == text.data() + text.size();
    if (!all || !(share > 0 && share <= 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--rows has '", text, "', expected shares in (0, 1]"));
    }
    shares.push_back(share);
  }
  return shares;
}

absl::StatusOr<TrialSpec> SpecOf(const Options& options, const std::string& task) {
  TrialSpec spec;
  if (task != "recall" && task != "words") {
    return absl::InvalidArgumentError(
        absl::StrCat("--tasks has '", task, "', expected recall or words"));
  }
  spec.task = task == "recall" ? bench::Task::kRecall : bench::Task::kWords;
  spec.law.length = static_cast<int>(options.length);
  spec.law.tail = static_cast<int>(options.tail);
  spec.prompts = static_cast<int>(options.prompts);
  spec.seed = static_cast<uint64_t>(options.seed);
  const std::string error = bench::LawError(spec.task, spec.law);
  if (!error.empty()) return absl::InvalidArgumentError(absl::StrCat("--length, --tail: ", error));
  return spec;
}

nlohmann::ordered_json DescribeRun(const Options& options, const TrialSpec& spec, double seconds) {
  return {{"prompts", options.prompts},
          {"length", options.length},
          {"tail", options.tail},
          {"sinks", spec.shape.sinks},
          {"window", spec.shape.window},
          {"dtype", base::NameOf(spec.shape.dtype)},
          {"seed", options.seed},
          {"sampler_seeds", spec.sampler_seeds},
          {"tuning_prompts", spec.tuning_prompts},
          {"seconds", seconds},
          {"threads", options.threads},
          {"simd", kernels::CurrentSimdLevel()},
          {"cpu", base::CpuModel()},
          {"commit", suite::CommitOf(SOUNDER_SOURCE_DIR)}};
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  if (path.empty()) return absl::OkStatus();
  std::ofstream file(path);
  file << text;
  return file.flush() ? absl::OkStatus() : absl::UnavailableError("cannot write " + path);
}

absl::Status PlotEarlierRun(const Options& options) {
  std::ifstream file(options.from);
  const auto json = nlohmann::ordered_json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError("--from: no figures in " + options.from);
  }
  return WriteText(options.plot, QualityPlot(json));
}

absl::Status Run(const Options& options) {
  if (!options.from.empty()) return PlotEarlierRun(options);
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  ASSIGN_OR_RETURN(const std::vector<double> rows, Shares(options.rows));
  std::vector<TrialSpec> specs;
  for (const std::string& task : options.tasks) {
    ASSIGN_OR_RETURN(specs.emplace_back(), SpecOf(options, task));
  }
  ASSIGN_OR_RETURN(const auto workers,
                   Workers::Create(options.model, static_cast<int>(options.threads)));
  const std::vector<Setting> settings = MakeSettings(options.samplers, rows);
  TrialsByTask trials;
  for (const TrialSpec& spec : specs) {
    const std::string task = bench::TaskName(spec.task);
    const auto progress = [&](int64_t done) {
      const int64_t step = std::max<int64_t>(1, options.prompts / 20);
      if (done % step != 0 && done != options.prompts) return;
      std::fprintf(stderr, "%s: %ld of %ld prompts, %zu settings each, %.0f s\n", task.c_str(),
                   static_cast<long>(done), static_cast<long>(options.prompts), settings.size(),
                   seconds());
    };
    ASSIGN_OR_RETURN(trials[task], RunTrials(settings, spec, *workers, progress));
  }
  nlohmann::ordered_json json = QualityJson(trials);
  const nlohmann::ordered_json lines = JudgedBounds(json);
  std::fputs(QualityTable(trials).c_str(), stdout);
  for (const auto& [name, bound] : lines.items()) {
    std::printf("%s %.4f\n", name.c_str(), bound.get<double>());
  }
  json["run"] = DescribeRun(options, specs.front(), seconds());
  json["run"]["bounds"] = lines;
  RETURN_IF_ERROR(WriteText(options.output, json.dump(1) + "\n"));
  return options.plot.empty() ? absl::OkStatus() : WriteText(options.plot, QualityPlot(json));
}

}  // namespace
}  // namespace sounder::quality

int main(int argc, char** argv) {
  using namespace sounder;  // main of a tool
  quality::Options options;
  config::OptionSet set("quality_bench",
                        "Lets the test model answer prompts under every sampler and counts.");
  quality::Declare(set, options);
  if (const auto exit = set.ParseOrExit(argc, argv, config::EnvironmentFromProcess())) return *exit;
  const absl::Status status = quality::Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "quality_bench: %s\n", base::MessageOf(status).c_str());
  return status.code() == absl::StatusCode::kInvalidArgument ? config::kExitUsage : 3;
}
