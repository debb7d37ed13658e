// All samplers by name: those that nodes serve, and those that exist for comparison only. The
// latter live here, on a side of the house that nodes cannot see.
#ifndef SOUNDER_CLI_BASELINES_REGISTRY_H_
#define SOUNDER_CLI_BASELINES_REGISTRY_H_

#include <string>
#include <string_view>
#include <vector>

#include "kv_node/sampler/registry.h"

namespace sounder::cli {

// The servable ones first. Thread safe.
const std::vector<kv_node::RegisteredSampler>& AllSamplers();

// Null where no sampler has that name.
const kv_node::RegisteredSampler* FindSampler(std::string_view name);

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_BASELINES_REGISTRY_H_
