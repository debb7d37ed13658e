// How well and how cheaply a sampler attends: runs the product's sampler over recorded or synthetic
// queries, keys and values and compares with exact attention in float64.
#ifndef SOUNDER_CLI_EVAL_FIGURES_H_
#define SOUNDER_CLI_EVAL_FIGURES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/eval_input.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::cli {

struct EvalSpec {
  // Of a sampler (cli/baselines/registry.h); empty: of the one of the specification's kind.
  std::string name = {};
  // Its dim and group are the input's, its seeds are the first ones.
  kv_node::SamplerSpec sampler;
  int64_t sinks = 4;    // first rows, attended exactly
  int64_t window = 64;  // last rows, attended exactly
  int64_t seeds = 8;    // runs, with the sampler's seed, that + 1, ...; >= 1. Draws differ too
};

// Means over steps x query heads x seeds unless said otherwise. "Dynamic" rows are those between
// sinks and window; they lie in one segment per 65,536 rows.
struct EvalFigures {
  // |o - o*| / |o*|, o* in float64 over all rows; 0 where both are zero vectors.
  double mean_relative_error = 0;
  double p95_relative_error = 0;    // 95th percentile, interpolated linearly
  double rows_read_fraction = 0;    // rows a query head attends / dynamic rows
  double rows_loaded_fraction = 0;  // distinct rows of the group / dynamic rows
  double rows_exact_fraction = 0;   // of the rows attended: those in segments attended exactly
  double z_ratio = 1;               // exp(lse - lse*) over the dynamic rows; 1 where there are none
  // Memory of the segments / (dynamic rows x kv heads).
  double index_bytes_per_token = 0;
  double row_bytes_per_token = 0;
  // Bytes a step reads / (dynamic rows x kv heads): sampled rows, once per group, and what is
  // looked at to choose them (sketches, pages' bounds, walked entries of hash tables, all keys).
  double bytes_read_per_token = 0;
  // Thread CPU of one decode step over all heads: signing queries, sinks, window, sampling, merge.
  double us_per_step = 0;
  std::vector<float> outputs;  // [steps, query_heads, dim], of the first seed
};

// InvalidArgument where the sampler does not fit the input. Memory: one kv head's rows and index.
absl::StatusOr<EvalFigures> Evaluate(const EvalInput& input, const EvalSpec& spec);

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_EVAL_FIGURES_H_
