// The ways of attending that are compared: a sampler by name and the share of rows it may read.
#ifndef SOUNDER_BENCH_QUALITY_SETTINGS_H_
#define SOUNDER_BENCH_QUALITY_SETTINGS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::quality {

// Full attention, and nothing but sinks and window: read as many rows whatever they are allowed.
inline constexpr std::string_view kExact = "exact";
inline constexpr std::string_view kWindowOnly = "window";

struct Setting {
  // A name of the registry (cli/baselines/registry.h), its bits behind an underscore where they are
  // not the default ("sketch_64", "lsh_8"); or kWindowOnly.
  std::string sampler;
  double rows = 1;  // share of the middle rows per kv head; 1 with kExact, 0 with kWindowOnly
  int tables = 0;   // of samplers by hash tables, whose budget this is
};

// Every sampler the registry knows, some of them with other bits too, and kWindowOnly.
std::vector<std::string> KnownSamplers();

// One setting for each pair, but one alone for samplers without a budget. kExact is the first,
// named or not: others are compared with it.
std::vector<Setting> MakeSettings(const std::vector<std::string>& samplers,
                                  const std::vector<double>& rows);

// A setting's samplers under several seeds of their random directions, so that an average over
// prompts does not hang on one choice of them. Immutable.
struct SeededSamplers {
  Setting setting;
  std::vector<std::unique_ptr<kv_node::Sampler>> samplers;  // none of kWindowOnly

  bool by_tables() const { return !samplers.empty() && samplers[0]->projection() != nullptr; }
  const kv_node::Sampler* Of(int64_t prompt) const {
    return samplers.empty() ? nullptr : samplers[prompt % samplers.size()].get();
  }
};

// InvalidArgument for a name that the registry does not know and for bits a sampler does not take.
// group: query heads that share a kv head.
absl::StatusOr<SeededSamplers> MakeSamplers(const Setting& setting, int dim, int group, int seeds);

}  // namespace sounder::quality

#endif  // SOUNDER_BENCH_QUALITY_SETTINGS_H_
