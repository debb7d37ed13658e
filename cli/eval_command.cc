#include "cli/eval_command.h"

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/eval_figures.h"
#include "cli/eval_plot.h"
#include "cli/eval_sweep.h"
#include "cli/exit_codes.h"
#include "cli/table.h"
#include "common/base/absl_text.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/config/option_set.h"
#include "common/kernels/simd_level.h"
#include "common/tensor_file/tensor_writer.h"

namespace sounder::cli {
namespace {

struct EvalOptions {
  std::string qkv;
  EvalLists lists;
  std::vector<EvalSetting> settings;  // of the lists
  int64_t min_collisions = 2;
  bool value_roulette = false;
  int64_t min_indexed_rows = 1;  // what is measured is the sampler, whatever is left for the end
  int64_t sink = 4;
  int64_t window = 64;
  int64_t seeds = 8;
  int64_t seed = 1;
  std::string projection = "own";
  std::string simd = "best";
  std::string output;
  std::string plot;
  bool json = false;
};

bool IsSplit(const EvalSetting& setting) { return setting.sampler.starts_with("lsh_split"); }

lsh::ProjectionKind ProjectionOf(const EvalOptions& options, const EvalSetting& setting) {
  if (const auto kind = lsh::ParseProjectionKind(options.projection)) return *kind;
  return IsSplit(setting) ? lsh::ProjectionKind::kGaussian : lsh::LshParams().projection;
}

// Options given as lists; every combination is measured.
void DeclareLists(config::OptionSet& set, EvalLists& lists) {
  set.AddList("sampler", &lists.samplers,
              absl::StrCat("how rows are chosen: ", SamplerNames(),
                           "; uniform, oracle, topk and quest are there for comparison, no node "
                           "serves them. Each combination of this and the next four is measured"));
  set.AddList("bits", &lists.bits,
              "sign bits: lsh, of a table (1 to 16); sketch, of a key (64, 128, 256). Each sampler "
              "takes those it can, or its own (10, multiprobe 12; 128)");
  set.AddList("rows", &lists.rows, "all but exact and lsh: share of the rows to read, per kv head");
  set.AddList("tables", &lists.tables, "lsh: hash tables");
  set.AddList("row_format", &lists.row_formats,
              "what sampled rows are read from: appended (rows as in the file), bf16 (the file's "
              "rows are converted first), int8 (sketch: a copy in 8 bits)");
}

absl::Status CheckSettings(const EvalOptions& options) {
  for (const EvalSetting& setting : options.settings) {
    if (setting.tables == 0) continue;
    if (options.min_collisions > setting.tables) {
      return absl::InvalidArgumentError(absl::StrCat("--min-collisions is ", options.min_collisions,
                                                     ", expected at most --tables, ",
                                                     setting.tables));
    }
    if (IsSplit(setting) && options.value_roulette) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--value-roulette with --sampler ", setting.sampler, ", expected lsh or lsh_multiprobe"));
    }
    if (IsSplit(setting) && ProjectionOf(options, setting) != lsh::ProjectionKind::kGaussian) {
      return absl::InvalidArgumentError(absl::StrCat("--projection is ", options.projection,
                                                     ", expected gaussian with --sampler ",
                                                     setting.sampler));
    }
  }
  if (options.settings.size() > 1 && !options.output.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--output takes the outputs of one setting, here are ", options.settings.size()));
  }
  return absl::OkStatus();
}

void Declare(config::OptionSet& set, EvalOptions& options) {
  set.AddText("qkv", &options.qkv,
              absl::StrCat("safetensors file with q [T, query heads, d], k and v [n, kv heads, d]; "
                           "F32, F16 or BF16, k and v alike; d a multiple of 8, at most ",
                           base::kMaxHeadDim));
  set.Require("qkv");
  DeclareLists(set, options.lists);
  set.AddInt("min_collisions", &options.min_collisions,
             "lsh: a row that shares the query's bucket in so many tables is attended",
             {.min = 1, .max = 255});
  set.AddBool("value_roulette", &options.value_roulette,
              "lsh, not split: read the values of rows of little weight by lot");
  set.AddText("projection", &options.projection,
              "lsh: random directions (own: hadamard, split gaussian)",
              {"own", "gaussian", "hadamard"});
  set.AddInt("min_indexed_rows", &options.min_indexed_rows,
             "shorter segments are attended exactly, as nodes do with theirs of fewer than "
             "1024 rows",
             {.min = 1, .max = 65536});
  set.AddInt("sink", &options.sink, "first rows, attended exactly", {.min = 0});
  set.AddInt("window", &options.window, "last rows, attended exactly", {.min = 0});
  set.AddInt("seeds", &options.seeds, "runs with different random directions",
             {.min = 1, .max = 10000});
  set.AddInt("seed", &options.seed, "seed of the first run", {.min = 0});
  set.AddText("simd", &options.simd, "instruction set of the kernels: best, or its name");
  set.AddText("output", &options.output,
              "write the outputs of the first run, o [T, query heads, d] F32, to this file");
  set.AddText("plot", &options.plot, "write error against rows, bytes and time to this file, SVG");
  set.AddBool("json", &options.json, "print one JSON object per setting, one a line");
  set.AddCheck([&options]() -> absl::Status {
    ASSIGN_OR_RETURN(options.settings, ExpandSweep(options.lists));
    return CheckSettings(options);
  });
  set.AddCheck([&options] { return kernels::ForceSimdLevel(options.simd); });
}

EvalSpec SpecOf(const EvalOptions& options, const EvalSetting& setting) {
  EvalSpec spec;
  spec.name = setting.sampler;
  spec.sampler.lsh.min_collisions = static_cast<int>(options.min_collisions);
  spec.sampler.lsh_tables.value_roulette = options.value_roulette;
  spec.sampler.lsh.projection = ProjectionOf(options, setting);
  spec.sampler.lsh.seed = static_cast<uint64_t>(options.seed);
  if (setting.tables != 0) {
    spec.sampler.lsh.bits_per_table = static_cast<int>(setting.bits);
    spec.sampler.lsh.num_tables = static_cast<int>(setting.tables);
  } else if (setting.bits != 0) {
    spec.sampler.sketch.bits = static_cast<int>(setting.bits);
  }
  spec.sampler.sketch.seed = static_cast<uint64_t>(options.seed);
  if (setting.rows > 0) spec.sampler.sketch.row_fraction = setting.rows;
  spec.sampler.sketch.int8_rows = setting.row_format == kInt8;
  spec.sampler.min_indexed_rows = options.min_indexed_rows;
  spec.sinks = options.sink;
  spec.window = options.window;
  spec.seeds = options.seeds;
  return spec;
}

Record RecordOf(const EvalOptions& options, const EvalInput& input, const EvalResult& result) {
  const EvalSetting& setting = result.setting;
  const EvalFigures& figures = result.figures;
  Record record;
  record.Add("sampler", setting.sampler);
  if (setting.bits != 0) record.Add("bits", setting.bits);
  if (setting.tables != 0) {
    record.Add("tables", setting.tables);
    record.Add("min_collisions", options.min_collisions);
    record.Add("value_roulette", options.value_roulette);
    record.Add("projection", std::string(lsh::NameOf(ProjectionOf(options, setting))));
  }
  if (setting.rows > 0) record.Add("rows", setting.rows);
  record.Add("row_format", setting.row_format);
  if (setting.sampler != "exact") record.Add("min_indexed_rows", options.min_indexed_rows);
  record.Add("n", input.n);
  record.Add("d", int64_t{input.dim});
  record.Add("query_heads", int64_t{input.query_heads});
  record.Add("kv_heads", int64_t{input.kv_heads});
  record.Add("queries", input.steps);
  record.Add("dtype", std::string(base::NameOf(input.dtype())));
  record.Add("sink", options.sink);
  record.Add("window", options.window);
  record.Add("seeds", options.seeds);
  record.Add("seed", options.seed);
  record.Add("mean_relative_error", figures.mean_relative_error);
  record.Add("p95_relative_error", figures.p95_relative_error);
  record.Add("rows_read_fraction", figures.rows_read_fraction);
  record.Add("rows_loaded_fraction", figures.rows_loaded_fraction);
  record.Add("rows_exact_fraction", figures.rows_exact_fraction);
  record.Add("z_ratio", figures.z_ratio);
  record.Add("index_bytes_per_token", figures.index_bytes_per_token);
  record.Add("row_bytes_per_token", figures.row_bytes_per_token);
  record.Add("bytes_read_per_token", figures.bytes_read_per_token);
  record.Add("us_per_step", figures.us_per_step);
  record.Add("simd", kernels::CurrentSimdLevel());
  return record;
}

absl::Status WriteOutputs(const std::string& path, const EvalInput& input,
                          const std::vector<float>& outputs) {
  const tensor_file::NamedTensor tensor{.name = "o",
                                        .dtype = base::DType::kF32,
                                        .shape = {input.steps, input.query_heads, input.dim},
                                        .data = std::as_bytes(std::span(outputs))};
  return tensor_file::WriteTensorFile(path, std::span(&tensor, 1));
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  return file.flush() ? absl::OkStatus() : absl::ErrnoToStatus(errno, path + ": cannot write");
}

std::string TableOf(const std::vector<EvalResult>& results) {
  Table table({"setting", "tables", "rows", "error", "p95", "rows_loaded", "bytes_read/token",
               "index_bytes/token", "us/step"});
  for (const EvalResult& result : results) {
    const EvalFigures& figures = result.figures;
    table.AddRow({LineName(result.setting), result.setting.tables, result.setting.rows,
                  figures.mean_relative_error, figures.p95_relative_error,
                  figures.rows_loaded_fraction, figures.bytes_read_per_token,
                  figures.index_bytes_per_token, figures.us_per_step});
  }
  return table.ToText();
}

absl::Status RunEval(const EvalOptions& options) {
  ASSIGN_OR_RETURN(const EvalInput input, LoadEvalInput(options.qkv));
  std::optional<EvalInput> bf16;
  std::vector<EvalResult> results;
  std::string text;
  for (const EvalSetting& setting : options.settings) {
    const bool convert = setting.row_format == kBf16 && input.dtype() != base::DType::kBF16;
    if (convert && !bf16.has_value()) bf16 = input.WithRowsAs(base::DType::kBF16);
    const EvalInput& rows = convert ? *bf16 : input;
    ASSIGN_OR_RETURN(EvalFigures figures, Evaluate(rows, SpecOf(options, setting)));
    results.push_back({setting, std::move(figures)});
    const Record record = RecordOf(options, rows, results.back());
    text += options.json ? record.ToJson() + "\n" : record.ToText();
  }
  if (!options.output.empty()) {
    RETURN_IF_ERROR(WriteOutputs(options.output, input, results.front().figures.outputs));
  }
  if (results.size() > 1 && !options.json) text = TableOf(results);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    return absl::UnavailableError("cannot write to standard output");
  }
  return options.plot.empty() ? absl::OkStatus() : WriteText(options.plot, EvalPlot(results));
}

int Run(int argc, const char* const* argv, const config::Environment& environment) {
  EvalOptions options;
  config::OptionSet set("sounderctl eval",
                        "Measures samplers on recorded queries, keys and values against exact "
                        "attention in float64.");
  Declare(set, options);
  if (const std::optional<int> exit = set.ParseOrExit(argc, argv, environment)) return *exit;
  const absl::Status status = RunEval(options);
  if (!status.ok()) {
    std::fprintf(stderr, "sounderctl eval: %s\n", base::MessageOf(status).c_str());
  }
  return ExitCodeOf(status);
}

}  // namespace

config::Command EvalCommand() {
  return {.name = "eval", .summary = "measure samplers on recorded tensors", .run = Run};
}

}  // namespace sounder::cli
