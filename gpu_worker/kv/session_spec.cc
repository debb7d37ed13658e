#include "gpu_worker/kv/session_spec.h"

#include <utility>

#include "common/base/status_macros.h"

namespace sounder::gpu_worker {

absl::StatusOr<std::shared_ptr<const lsh::Projection>> MakeProjection(
    const RemoteSessionOptions& options) {
  if (options.lsh.num_tables == 0) return std::shared_ptr<const lsh::Projection>();
  lsh::LshParams params;
  params.bits_per_table = static_cast<int>(options.lsh.bits_per_table);
  params.num_tables = static_cast<int>(options.lsh.num_tables);
  params.min_collisions = static_cast<int>(options.lsh.min_collisions);
  params.projection = options.lsh.projection == wire::Projection::kGaussian
                          ? lsh::ProjectionKind::kGaussian
                          : lsh::ProjectionKind::kHadamard;
  params.seed = options.lsh.seed;
  ASSIGN_OR_RETURN(lsh::Projection projection,
                   lsh::Projection::Create(params, static_cast<int>(options.model.head_dim)));
  return std::make_shared<const lsh::Projection>(std::move(projection));
}

absl::StatusOr<policy::Placement> PlacementOf(const RemoteSessionOptions& options,
                                              const base::SessionId& placed_by, size_t num_nodes) {
  policy::PlacementOptions placement;
  placement.num_nodes = static_cast<int>(num_nodes);
  placement.shard_rows = options.shard_rows;
  placement.head_shards = options.head_shards;
  return policy::Placement::Create(placement, static_cast<int>(options.model.kv_heads),
                                   options.seal_rows, placed_by);
}

wire::SessionSpec SpecOf(const RemoteSession& session, int node, size_t num_nodes) {
  const RemoteSessionOptions& options = session.options();
  wire::SessionSpec spec;
  spec.session = session.ref();
  spec.tenant = options.tenant;
  spec.model = options.model;
  spec.dtype = options.dtype;
  spec.seal_rows = options.seal_rows;
  spec.min_indexed_rows = options.min_indexed_rows;
  spec.lsh = options.lsh;
  spec.sketch = options.sketch;
  spec.row_format = options.row_format;
  spec.indexed_layers = options.indexed_layers;
  spec.ttl_seconds = options.ttl_seconds;
  spec.durability = options.durability;
  const auto [begin, end] = session.placement().KvHeadsOf(node);
  spec.kv_head_begin = static_cast<uint32_t>(begin);
  spec.kv_head_count = static_cast<uint32_t>(end - begin);
  spec.placement = {session.placed_by(), options.shard_rows,
                    static_cast<uint32_t>(options.head_shards), static_cast<uint32_t>(num_nodes)};
  return spec;
}

RemoteSessionOptions OptionsOf(const wire::SessionSpec& spec) {
  RemoteSessionOptions options;
  options.id = spec.session.id;
  options.tenant = spec.tenant;
  options.model = spec.model;
  options.dtype = spec.dtype;
  options.seal_rows = spec.seal_rows;
  options.min_indexed_rows = spec.min_indexed_rows;
  options.lsh = spec.lsh;
  options.sketch = spec.sketch;
  options.row_format = spec.row_format;
  options.indexed_layers = spec.indexed_layers;
  options.ttl_seconds = spec.ttl_seconds;
  options.durability = spec.durability;
  options.shard_rows = spec.placement.shard_rows;
  options.head_shards = static_cast<int>(spec.placement.head_shards);
  return options;
}

}  // namespace sounder::gpu_worker
