// What every registered sampler is held to is tested with these configurations of it. A sampler
// that is not named here is tested as its registry entry makes it.
#ifndef SOUNDER_TESTS_KV_NODE_SAMPLER_CONFORMANCE_H_
#define SOUNDER_TESTS_KV_NODE_SAMPLER_CONFORMANCE_H_

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "cli/baselines/registry.h"
#include "common/base/check.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::kv_node {

struct Configuration {
  std::string label;
  const RegisteredSampler* sampler = nullptr;
  SamplerSpec spec;
  // Of a sampled row, against the row as appended; relative to the largest element.
  double row_error = 0;

  bool exact() const { return sampler->name == "exact"; }
  bool lsh() const { return sampler->name.starts_with("lsh"); }
  // Leaves out values, so that outputs are not the estimate over all candidates.
  bool roulette() const { return spec.lsh_tables.value_roulette; }
  // Reads the share of the rows it is asked to.
  bool budgeted() const { return !exact() && !lsh(); }

  // With its random directions from `seed` and its index on segments of min_indexed_rows and more.
  std::unique_ptr<Sampler> Make(int dim, uint64_t seed = 1, int64_t min_indexed_rows = 1) const {
    SamplerSpec made = spec;
    made.dim = dim;
    made.lsh.seed = seed;
    made.sketch.seed = seed;
    made.min_indexed_rows = min_indexed_rows;
    auto result = sampler->make(made);
    CHECK(result.ok()) << label << ": " << result.status().ToString();
    return *std::move(result);
  }
};

inline void PrintTo(const Configuration& configuration, std::ostream* out) {
  *out << configuration.label;
}

// Samples of a tenth of the rows or so, from indexes small enough to be built hundreds of times.
inline std::vector<Configuration> Configurations() {
  std::vector<Configuration> all;
  for (const RegisteredSampler& sampler : cli::AllSamplers()) {
    Configuration one = {.label = std::string(sampler.name), .sampler = &sampler, .spec = {}};
    one.spec.sketch.row_fraction = .1;
    one.spec.lsh = {.bits_per_table = 6, .num_tables = 32};
    one.spec.group = 4;
    if (sampler.name == "lsh_split") one.spec.lsh = {.bits_per_table = 5, .num_tables = 66};
    if (sampler.name == "lsh_multiprobe") one.spec.lsh = {.bits_per_table = 9, .num_tables = 24};
    if (sampler.name == "lsh_split_multiprobe") {
      one.spec.lsh = {.bits_per_table = 8, .num_tables = 56};
    }
    if (sampler.name.starts_with("lsh")) {
      one.label = std::string(sampler.name) + "_hadamard";
      if (!sampler.name.starts_with("lsh_split")) all.push_back(one);
      one.spec.lsh_tables.value_roulette = sampler.name == "lsh";
      one.label = std::string(sampler.name) + "_hadamard_roulette";
      if (one.roulette()) all.push_back(one);
      one.spec.lsh_tables.value_roulette = false;
      one.label = std::string(sampler.name) + "_gaussian";
      one.spec.lsh.projection = lsh::ProjectionKind::kGaussian;
    } else if (sampler.name == "sketch") {
      for (const int bits : {64, 128, 256}) {
        one.spec.sketch.bits = bits;
        one.label = "sketch_" + std::to_string(bits);
        all.push_back(one);
      }
      one.spec.sketch.bits = 128;
      one.spec.sketch.int8_rows = true;
      one.row_error = 1.0 / 127;
      one.label = "sketch_128_int8";
    }
    all.push_back(one);
  }
  return all;
}

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_SAMPLER_CONFORMANCE_H_
