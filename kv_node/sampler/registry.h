// The samplers by name: how to make one and what may be expected of it. Nodes serve those listed
// here; `sounderctl eval` and the tests know some more (cli/baselines/registry.h).
#ifndef SOUNDER_KV_NODE_SAMPLER_REGISTRY_H_
#define SOUNDER_KV_NODE_SAMPLER_REGISTRY_H_

#include <memory>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::kv_node {

struct RegisteredSampler {
  std::string_view name;
  // The sum of weights and the weighted sum of values are right on average, over draws or over
  // seeds of the random directions. Otherwise biased by design.
  bool unbiased = true;
  // Candidates change with GroupQuery::sample_key and step.
  bool draws = false;
  // Nodes may serve it. Otherwise there for comparison.
  bool servable = true;
  // InvalidArgument where the specification makes no sense; what the name decides is set already.
  absl::StatusOr<std::unique_ptr<Sampler>> (*make)(SamplerSpec spec) = nullptr;
};

// Those that nodes may serve. Constant, thread safe.
std::span<const RegisteredSampler> ServableSamplers();

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SAMPLER_REGISTRY_H_
