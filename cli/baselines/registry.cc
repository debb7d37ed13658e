#include "cli/baselines/registry.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "cli/baselines/exact_logit_samplers.h"
#include "cli/baselines/quest_sampler.h"
#include "cli/baselines/uniform_sampler.h"
#include "common/base/limits.h"

namespace sounder::cli {
namespace {

using kv_node::RegisteredSampler;

constexpr char kUniform[] = "uniform";
constexpr char kOracle[] = "oracle";
constexpr char kTopK[] = "topk";
constexpr char kQuest[] = "quest";

template <class Baseline, const char* kName>
absl::StatusOr<std::unique_ptr<kv_node::Sampler>> Make(kv_node::SamplerSpec spec) {
  if (spec.min_indexed_rows < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("min_indexed_rows is ", spec.min_indexed_rows, ", expected 1 or more"));
  }
  if (spec.dim < 8 || spec.dim > base::kMaxHeadDim || spec.dim % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("dim is ", spec.dim, ", expected a multiple of 8, 8 to ", base::kMaxHeadDim));
  }
  if (!(spec.sketch.row_fraction > 0 && spec.sketch.row_fraction <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a share of ", spec.sketch.row_fraction, " of the rows, expected (0, 1]"));
  }
  return std::make_unique<Baseline>(kName, spec);
}

}  // namespace

const std::vector<RegisteredSampler>& AllSamplers() {
  static const auto* all = [] {
    const auto servable = kv_node::ServableSamplers();
    auto* samplers = new std::vector<RegisteredSampler>(servable.begin(), servable.end());
    samplers->push_back({.name = kUniform,
                         .draws = true,
                         .servable = false,
                         .make = Make<UniformSampler, kUniform>});
    samplers->push_back(
        {.name = kOracle, .draws = true, .servable = false, .make = Make<OracleSampler, kOracle>});
    samplers->push_back(
        {.name = kTopK, .unbiased = false, .servable = false, .make = Make<TopKSampler, kTopK>});
    samplers->push_back(
        {.name = kQuest, .unbiased = false, .servable = false, .make = Make<QuestSampler, kQuest>});
    return samplers;
  }();
  return *all;
}

const RegisteredSampler* FindSampler(std::string_view name) {
  const auto& all = AllSamplers();
  const auto found = std::find_if(all.begin(), all.end(),
                                  [name](const auto& sampler) { return sampler.name == name; });
  return found == all.end() ? nullptr : &*found;
}

}  // namespace sounder::cli
