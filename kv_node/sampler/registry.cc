#include "kv_node/sampler/registry.h"

namespace sounder::kv_node {
namespace {

template <SamplerKind kKind>
absl::StatusOr<std::unique_ptr<Sampler>> Make(SamplerSpec spec) {
  spec.kind = kKind;
  return MakeSampler(spec);
}

template <bool kSplit, int kProbeDistance>
absl::StatusOr<std::unique_ptr<Sampler>> MakeLsh(SamplerSpec spec) {
  spec.kind = SamplerKind::kLshTables;
  spec.lsh_tables.split = kSplit;
  if (kSplit) spec.lsh.projection = lsh::ProjectionKind::kGaussian;
  spec.lsh.probe_distance = kProbeDistance;
  return MakeSampler(spec);
}

constexpr RegisteredSampler kSamplers[] = {
    {.name = "exact", .make = Make<SamplerKind::kExact>},
    {.name = "lsh", .make = MakeLsh<false, 0>},
    {.name = "lsh_split", .make = MakeLsh<true, 0>},
    {.name = "lsh_multiprobe", .make = MakeLsh<false, 1>},
    {.name = "lsh_split_multiprobe", .make = MakeLsh<true, 1>},
    {.name = "sketch", .draws = true, .make = Make<SamplerKind::kSketch>},
};

}  // namespace

std::span<const RegisteredSampler> ServableSamplers() { return kSamplers; }

}  // namespace sounder::kv_node
