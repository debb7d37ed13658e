#include "cli/eval_figures.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/baselines/registry.h"
#include "cli/eval_head.h"
#include "cli/eval_reference.h"
#include "common/base/cpu.h"
#include "common/base/status_macros.h"
#include "kv_node/kernels/int8_rows.h"

namespace sounder::cli {
namespace {

using kv_node::Sampler;

// What one kv head is measured against.
struct Truth {
  std::vector<double> dynamic_lse;           // [steps * group]
  std::vector<std::vector<double>> outputs;  // [steps * group][dim]
};

Truth TruthOf(const EvalInput& input, int kv_head, const RowCut& cut) {
  const int group = input.group();
  std::vector<const float*> queries;
  for (int64_t step = 0; step < input.steps; ++step) {
    for (int h = 0; h < group; ++h) queries.push_back(input.Query(step, kv_head * group + h));
  }
  const memory::RowsView keys = input.Keys(kv_head), values = input.Values(kv_head);
  const double scale = 1 / std::sqrt(static_cast<double>(input.dim));
  const auto part = [&](int64_t begin, int64_t end) {
    return ReferenceAttention(queries, keys.Slice(begin, end), values.Slice(begin, end), scale);
  };
  const auto sinks = part(0, cut.dynamic_begin);
  auto dynamic = part(cut.dynamic_begin, cut.dynamic_end);
  const auto window = part(cut.dynamic_end, input.n);
  Truth truth;
  for (size_t i = 0; i < queries.size(); ++i) {
    truth.dynamic_lse.push_back(dynamic[i].Lse());
    dynamic[i].Merge(sinks[i]);
    dynamic[i].Merge(window[i]);
    truth.outputs.push_back(dynamic[i].Output());
  }
  return truth;
}

double RelativeError(const float* output, const std::vector<double>& truth) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    difference += (output[i] - truth[i]) * (output[i] - truth[i]);
    norm += truth[i] * truth[i];
  }
  return difference == 0 ? 0 : std::sqrt(difference / norm);
}

// numpy's default: linear between the two nearest order statistics.
double Percentile(std::vector<double> values, double fraction) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double at = fraction * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

// Sums over kv heads and seeds.
struct Totals {
  std::vector<double> errors;
  double z_ratio = 0;
  double us = 0;
  kv_node::AttendStats stats;
  int64_t rows_exact = 0;
  double index_bytes = 0;
  double bytes = 0;
};

void Measure(const EvalInput& input, int kv_head, const Truth& truth, uint64_t sample_key,
             bool keep_outputs, EvalHead& head, Totals& totals, std::vector<float>& outputs) {
  const int group = input.group();
  for (int64_t step = 0; step < input.steps; ++step) {
    const double begin = base::ThreadCpuUs();
    head.Attend(input.Query(step, kv_head * group), sample_key, step, totals.stats);
    totals.us += base::ThreadCpuUs() - begin;
    for (int h = 0; h < group; ++h) {
      const size_t i = step * group + h;
      totals.errors.push_back(RelativeError(head.output(h), truth.outputs[i]));
      totals.z_ratio += std::exp(head.dynamic_lse(h) - truth.dynamic_lse[i]);
      if (keep_outputs) {
        std::copy_n(head.output(h), input.dim,
                    &outputs[(step * input.query_heads + kv_head * group + h) * input.dim]);
      }
    }
  }
  totals.rows_exact += head.rows_exact();
  totals.index_bytes += static_cast<double>(head.index_bytes());
  totals.bytes += static_cast<double>(head.bytes());
}

// What is looked at, per dynamic row and kv head, to choose the rows of a step.
double IndexBytesRead(const EvalInput& input, std::string_view sampler, const Totals& totals,
                      const EvalFigures& figures, double steps_rows) {
  if (sampler == "sketch" || sampler == "quest") return figures.index_bytes_per_token;
  if (sampler == "topk" || sampler == "oracle") {  // every key
    return static_cast<double>(input.dim * base::SizeOf(input.dtype()));
  }
  constexpr double kIdBytes = 2, kBucketBytes = 4;  // an entry; where a bucket begins and ends
  return (kIdBytes * static_cast<double>(totals.stats.ids_walked) +
          kBucketBytes * static_cast<double>(totals.stats.tables_walked)) /
         steps_rows;
}

size_t RowBytesRead(const EvalInput& input, const EvalSpec& spec, std::string_view sampler) {
  if (sampler == "sketch" && spec.sampler.sketch.int8_rows) {
    return kv_node::Int8Rows::RecordBytes(input.dim);
  }
  return 2 * input.dim * base::SizeOf(input.dtype());
}

EvalFigures FiguresOf(const EvalInput& input, const EvalSpec& spec, const RowCut& cut,
                      std::string_view sampler, const Totals& totals) {
  EvalFigures figures;
  const double runs = static_cast<double>(spec.seeds) * static_cast<double>(input.steps);
  double sum = 0;
  for (const double error : totals.errors) sum += error;
  figures.mean_relative_error = sum / static_cast<double>(totals.errors.size());
  figures.p95_relative_error = Percentile(totals.errors, 0.95);
  figures.us_per_step = totals.us / runs;
  const double rows = static_cast<double>(cut.dynamic());
  if (rows == 0) return figures;
  figures.z_ratio = totals.z_ratio / static_cast<double>(totals.errors.size());
  figures.rows_read_fraction =
      static_cast<double>(totals.stats.rows_read) / (runs * input.query_heads * rows);
  figures.rows_loaded_fraction =
      static_cast<double>(totals.stats.rows_loaded) / (runs * input.kv_heads * rows);
  if (totals.stats.rows_read > 0) {
    figures.rows_exact_fraction =
        static_cast<double>(totals.rows_exact) / static_cast<double>(totals.stats.rows_read);
  }
  const double stored = static_cast<double>(spec.seeds) * input.kv_heads * rows;
  figures.index_bytes_per_token = totals.index_bytes / stored;
  figures.row_bytes_per_token = (totals.bytes - totals.index_bytes) / stored;
  figures.bytes_read_per_token =
      figures.rows_loaded_fraction * static_cast<double>(RowBytesRead(input, spec, sampler)) +
      IndexBytesRead(input, sampler, totals, figures, runs * input.kv_heads * rows);
  return figures;
}

absl::StatusOr<std::unique_ptr<Sampler>> MakeNamed(const std::string& name,
                                                   const kv_node::SamplerSpec& spec) {
  if (name.empty()) return kv_node::MakeSampler(spec);
  const kv_node::RegisteredSampler* registered = FindSampler(name);
  if (registered != nullptr) return registered->make(spec);
  return absl::InvalidArgumentError(absl::StrCat("no sampler is called '", name, "'"));
}

}  // namespace

absl::StatusOr<EvalFigures> Evaluate(const EvalInput& input, const EvalSpec& spec) {
  const RowCut cut(input.n, spec.sinks, spec.window);
  kv_node::SamplerSpec sampler_spec = spec.sampler;
  sampler_spec.dim = input.dim;
  sampler_spec.group = input.group();
  std::vector<std::unique_ptr<Sampler>> samplers;
  for (int64_t seed = 0; seed < spec.seeds; ++seed) {
    ASSIGN_OR_RETURN(auto sampler, MakeNamed(spec.name, sampler_spec));
    samplers.push_back(std::move(sampler));
    ++sampler_spec.lsh.seed;
    ++sampler_spec.sketch.seed;
  }
  kv_node::Scratch scratch;
  Totals totals;
  std::vector<float> outputs(input.q.size());
  for (int kv_head = 0; kv_head < input.kv_heads; ++kv_head) {
    const Truth truth = TruthOf(input, kv_head, cut);
    for (size_t seed = 0; seed < samplers.size(); ++seed) {
      const Sampler& sampler = *samplers[seed];
      ASSIGN_OR_RETURN(auto head, EvalHead::Create(input, kv_head, cut, sampler, scratch));
      const uint64_t sample_key = spec.sampler.sketch.seed + seed;
      Measure(input, kv_head, truth, sample_key, seed == 0, *head, totals, outputs);
    }
  }
  EvalFigures figures = FiguresOf(input, spec, cut, samplers[0]->name(), totals);
  figures.outputs = std::move(outputs);
  return figures;
}

}  // namespace sounder::cli
