#include "bench/quality/settings.h"

#include <charconv>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/baselines/registry.h"
#include "common/base/status_macros.h"

namespace sounder::quality {
namespace {

struct SamplerAndBits {
  const kv_node::RegisteredSampler* sampler = nullptr;
  int bits = 0;  // 0: the sampler's own
};

std::optional<SamplerAndBits> ParseSampler(std::string_view name) {
  if (const auto* sampler = cli::FindSampler(name)) return SamplerAndBits{sampler};
  const size_t underscore = name.rfind('_');
  if (underscore == std::string_view::npos) return std::nullopt;
  SamplerAndBits parsed;
  const char* end = name.data() + name.size();
  const auto number = std::from_chars(name.data() + underscore + 1, end, parsed.bits);
  if (number.ec != std::errc() || number.ptr != end || parsed.bits < 1) return std::nullopt;
  parsed.sampler = cli::FindSampler(name.substr(0, underscore));
  if (parsed.sampler == nullptr) return std::nullopt;
  return parsed;
}

}  // namespace

std::vector<std::string> KnownSamplers() {
  std::vector<std::string> known;
  for (const auto& sampler : cli::AllSamplers()) {
    known.emplace_back(sampler.name);
    if (sampler.name == "sketch") known.emplace_back("sketch_64");
    if (sampler.name == "lsh") known.emplace_back("lsh_8");
  }
  known.emplace_back(kWindowOnly);
  return known;
}

std::vector<Setting> MakeSettings(const std::vector<std::string>& samplers,
                                  const std::vector<double>& rows) {
  std::vector<Setting> settings = {{std::string(kExact), 1}};
  for (const std::string& sampler : samplers) {
    if (sampler == kExact) continue;
    if (sampler == kWindowOnly) {
      settings.push_back({sampler, 0});
      continue;
    }
    for (const double share : rows) settings.push_back({sampler, share});
  }
  return settings;
}

absl::StatusOr<SeededSamplers> MakeSamplers(const Setting& setting, int dim, int group, int seeds) {
  SeededSamplers made;
  made.setting = setting;
  if (setting.sampler == kWindowOnly) return made;
  const auto parsed = ParseSampler(setting.sampler);
  if (!parsed.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is no sampler '", setting.sampler, "' here"));
  }
  kv_node::SamplerSpec spec;
  spec.dim = dim;
  spec.group = group;
  spec.min_indexed_rows = 1;
  if (parsed->sampler->name.ends_with("multiprobe")) spec.lsh.bits_per_table = 12;
  if (parsed->bits > 0) {
    spec.lsh.bits_per_table = parsed->bits;
    spec.sketch.bits = parsed->bits;
  }
  if (setting.tables > 0) spec.lsh.num_tables = setting.tables;
  spec.sketch.row_fraction = setting.rows;
  for (int seed = 1; seed <= seeds; ++seed) {
    spec.lsh.seed = static_cast<uint64_t>(seed);
    spec.sketch.seed = static_cast<uint64_t>(seed);
    ASSIGN_OR_RETURN(auto sampler, parsed->sampler->make(spec));
    made.samplers.push_back(std::move(sampler));
  }
  return made;
}

}  // namespace sounder::quality
