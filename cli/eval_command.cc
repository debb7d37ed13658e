#include "cli/eval_command.h"

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/baselines/registry.h"
#include "cli/eval_figures.h"
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
  std::string sampler = "lsh";
  int64_t bits = 0;  // the sampler's own
  int64_t tables = 150;
  int64_t min_collisions = 2;
  bool value_roulette = false;
  double rows = .02;
  std::string row_format = "appended";
  int64_t min_indexed_rows = 1;  // what is measured is the sampler, whatever is left for the end
  int64_t sink = 4;
  int64_t window = 64;
  int64_t seeds = 8;
  int64_t seed = 1;
  std::string projection = "own";
  std::string simd = "best";
  std::string output;
  bool json = false;
};

std::vector<std::string> SamplerNames() {
  std::vector<std::string> names;
  for (const auto& sampler : AllSamplers()) names.emplace_back(sampler.name);
  return names;
}

bool IsLsh(const EvalOptions& options) { return options.sampler.starts_with("lsh"); }
bool IsSplit(const EvalOptions& options) { return options.sampler.starts_with("lsh_split"); }

int64_t BitsOf(const EvalOptions& options) {
  if (options.bits != 0) return options.bits;
  if (options.sampler == "sketch") return kv_node::SketchParams().bits;
  return options.sampler.ends_with("multiprobe") ? 12 : lsh::LshParams().bits_per_table;
}

lsh::ProjectionKind ProjectionOf(const EvalOptions& options) {
  if (const auto kind = lsh::ParseProjectionKind(options.projection)) return *kind;
  return IsSplit(options) ? lsh::ProjectionKind::kGaussian : lsh::LshParams().projection;
}

absl::Status CheckSplit(const EvalOptions& options) {
  if (IsSplit(options) && options.value_roulette) {
    return absl::InvalidArgumentError(absl::StrCat("--value-roulette with --sampler ",
                                                   options.sampler, ", expected lsh or ",
                                                   "lsh_multiprobe"));
  }
  if (!IsSplit(options) || ProjectionOf(options) == lsh::ProjectionKind::kGaussian) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("--projection is ", options.projection,
                                                 ", expected gaussian with --sampler ",
                                                 options.sampler));
}

absl::Status CheckBits(const EvalOptions& options) {
  const int64_t bits = BitsOf(options);
  if (options.sampler == "sketch") {
    if (bits == 64 || bits == 128 || bits == 256) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--bits is ", bits, ", expected 64, 128 or 256 with --sampler sketch"));
  }
  if (!IsLsh(options) || bits <= base::kMaxBitsPerTable) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--bits is ", bits, ", expected at most ",
                                                 base::kMaxBitsPerTable, " with --sampler ",
                                                 options.sampler));
}

void Declare(config::OptionSet& set, EvalOptions& options) {
  set.AddText("qkv", &options.qkv,
              absl::StrCat("safetensors file with q [T, query heads, d], k and v [n, kv heads, d]; "
                           "F32, F16 or BF16, k and v alike; d a multiple of 8, at most ",
                           base::kMaxHeadDim));
  set.Require("qkv");
  set.AddText("sampler", &options.sampler,
              "how rows are chosen; uniform, oracle, topk and quest are "
              "there for comparison, no node serves them",
              SamplerNames());
  set.AddInt("bits", &options.bits,
             "sign bits: lsh, of a table (0: 10, multiprobe 12); sketch, of a key (64, 128, 256; "
             "0: 128)",
             {.min = 0, .max = kv_node::kMaxSketchBits});
  set.AddDouble("rows", &options.rows,
                "all but exact and lsh: share of the rows to read, per kv head",
                {.min = 1e-6, .max = 1});
  set.AddText("row_format", &options.row_format,
              "sketch: what sampled rows are read from: rows as in the file, or a copy in 8 bits",
              {"appended", "int8"});
  set.AddInt("tables", &options.tables, "lsh: hash tables", {.min = 1, .max = base::kMaxTables});
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
  set.AddBool("json", &options.json, "print one JSON object");
  set.AddCheck([&options] {
    if (options.min_collisions <= options.tables) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("--min-collisions is ", options.min_collisions,
                                                   ", expected at most --tables, ",
                                                   options.tables));
  });
  set.AddCheck([&options] { return CheckBits(options); });
  set.AddCheck([&options] { return CheckSplit(options); });
  set.AddCheck([&options] { return kernels::ForceSimdLevel(options.simd); });
}

EvalSpec SpecOf(const EvalOptions& options) {
  EvalSpec spec;
  spec.name = options.sampler;
  spec.sampler.lsh.bits_per_table = static_cast<int>(BitsOf(options));
  spec.sampler.lsh.num_tables = static_cast<int>(options.tables);
  spec.sampler.lsh.min_collisions = static_cast<int>(options.min_collisions);
  spec.sampler.lsh_tables.value_roulette = options.value_roulette;
  spec.sampler.lsh.projection = ProjectionOf(options);
  spec.sampler.lsh.seed = static_cast<uint64_t>(options.seed);
  spec.sampler.sketch.bits = static_cast<int>(BitsOf(options));
  spec.sampler.sketch.seed = static_cast<uint64_t>(options.seed);
  spec.sampler.sketch.row_fraction = options.rows;
  spec.sampler.sketch.int8_rows = options.row_format == "int8";
  spec.sampler.min_indexed_rows = options.min_indexed_rows;
  spec.sinks = options.sink;
  spec.window = options.window;
  spec.seeds = options.seeds;
  return spec;
}

Record RecordOf(const EvalOptions& options, const EvalInput& input, const EvalFigures& figures) {
  Record record;
  record.Add("sampler", options.sampler);
  if (IsLsh(options)) {
    record.Add("bits", BitsOf(options));
    record.Add("tables", options.tables);
    record.Add("min_collisions", options.min_collisions);
    record.Add("value_roulette", options.value_roulette);
    record.Add("projection", std::string(lsh::NameOf(ProjectionOf(options))));
    record.Add("min_indexed_rows", options.min_indexed_rows);
  } else if (options.sampler != "exact") {
    if (options.sampler == "sketch") {
      record.Add("bits", BitsOf(options));
      record.Add("row_format", options.row_format);
    }
    record.Add("rows", options.rows);
    record.Add("min_indexed_rows", options.min_indexed_rows);
  }
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

absl::Status RunEval(const EvalOptions& options) {
  ASSIGN_OR_RETURN(const EvalInput input, LoadEvalInput(options.qkv));
  ASSIGN_OR_RETURN(const EvalFigures figures, Evaluate(input, SpecOf(options)));
  if (!options.output.empty()) {
    RETURN_IF_ERROR(WriteOutputs(options.output, input, figures.outputs));
  }
  const Record record = RecordOf(options, input, figures);
  const std::string text = options.json ? record.ToJson() + "\n" : record.ToText();
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    return absl::UnavailableError("cannot write to standard output");
  }
  return absl::OkStatus();
}

int Run(int argc, const char* const* argv, const config::Environment& environment) {
  EvalOptions options;
  config::OptionSet set("sounderctl eval",
                        "Measures a sampler on recorded queries, keys and values against exact "
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
  return {.name = "eval", .summary = "measure a sampler on recorded tensors", .run = Run};
}

}  // namespace sounder::cli
