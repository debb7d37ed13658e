#include "kv_node/sampler/registry.h"

namespace sounder::kv_node {
namespace {

template <SamplerKind kKind>
absl::StatusOr<std::unique_ptr<Sampler>> Make(SamplerSpec spec) {
  spec.kind = kKind;
  return MakeSampler(spec);
}

constexpr RegisteredSampler kSamplers[] = {
    {.name = "exact", .make = Make<SamplerKind::kExact>},
    {.name = "lsh", .make = Make<SamplerKind::kLshTables>},
    {.name = "sketch", .draws = true, .make = Make<SamplerKind::kSketch>},
};

}  // namespace

std::span<const RegisteredSampler> ServableSamplers() { return kSamplers; }

}  // namespace sounder::kv_node
