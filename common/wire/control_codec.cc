#include "common/wire/control_codec.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/wire/codec_parts.h"

namespace sounder::wire {
namespace {

absl::StatusOr<std::string> GetName(capnp::Text::Reader text, const char* field) {
  if (text.size() > base::kMaxNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat(field, " of ", text.size(), " bytes, at most ",
                                                   base::kMaxNameBytes, " are allowed"));
  }
  return std::string(text.begin(), text.size());
}

// The whole text, as GetName reads it, also behind a NUL.
capnp::Text::Reader WholeText(const std::string& text) { return {text.c_str(), text.size()}; }

void PutModel(const ModelIdentity& model, proto::ModelIdentity::Builder out) {
  out.setName(WholeText(model.name));
  out.setWeightsDigest(WholeText(model.weights_digest));
  out.setLayers(model.layers);
  out.setKvHeads(model.kv_heads);
  out.setQueryHeads(model.query_heads);
  out.setHeadDim(model.head_dim);
  out.setRopeDigest(WholeText(model.rope_digest));
  out.setAdapter(WholeText(model.adapter));
  out.setKvLayout(WholeText(model.kv_layout));
}

absl::StatusOr<ModelIdentity> GetModel(proto::ModelIdentity::Reader in) {
  ModelIdentity model;
  ASSIGN_OR_RETURN(model.name, GetName(in.getName(), "model name"));
  ASSIGN_OR_RETURN(model.weights_digest, GetName(in.getWeightsDigest(), "weights digest"));
  ASSIGN_OR_RETURN(model.rope_digest, GetName(in.getRopeDigest(), "rope digest"));
  ASSIGN_OR_RETURN(model.adapter, GetName(in.getAdapter(), "adapter"));
  ASSIGN_OR_RETURN(model.kv_layout, GetName(in.getKvLayout(), "kv layout"));
  model.layers = in.getLayers();
  model.kv_heads = in.getKvHeads();
  model.query_heads = in.getQueryHeads();
  model.head_dim = in.getHeadDim();
  return model;
}

}  // namespace

absl::Status CheckSpec(const SessionSpec& spec) {
  const ModelIdentity& model = spec.model;
  if (model.layers == 0 || model.layers > base::kMaxLayers || model.kv_heads == 0 ||
      model.kv_heads > base::kMaxKvHeads) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model of ", model.layers, " layers and ", model.kv_heads, " kv heads, expected 1 to ",
        base::kMaxLayers, " and 1 to ", base::kMaxKvHeads));
  }
  if (model.head_dim == 0 || model.head_dim % 8 != 0 || model.head_dim > base::kMaxHeadDim) {
    return absl::InvalidArgumentError(absl::StrCat(
        "head dim ", model.head_dim, ", expected a multiple of 8 up to ", base::kMaxHeadDim));
  }
  if (model.query_heads % model.kv_heads != 0 || model.query_heads == 0 ||
      model.query_heads / model.kv_heads > base::kMaxGroup) {
    return absl::InvalidArgumentError(absl::StrCat(model.query_heads, " query heads over ",
                                                   model.kv_heads, " kv heads, expected 1 to ",
                                                   base::kMaxGroup, " for each"));
  }
  if (spec.kv_head_count == 0 || spec.kv_head_count > model.kv_heads ||
      spec.kv_head_begin > model.kv_heads - spec.kv_head_count) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv heads [", spec.kv_head_begin, ", +", spec.kv_head_count,
                     ") of a model with ", model.kv_heads, ", expected one or more of them"));
  }
  if (spec.seal_rows > base::kMaxSegmentRows) {
    return absl::InvalidArgumentError(absl::StrCat("seal rows ", spec.seal_rows, ", at most ",
                                                   base::kMaxSegmentRows, " are allowed"));
  }
  const LshOptions& lsh = spec.lsh;
  if (lsh.num_tables > base::kMaxTables ||
      (lsh.num_tables > 0 && (lsh.bits_per_table == 0 || lsh.min_collisions == 0 ||
                              lsh.bits_per_table > base::kMaxBitsPerTable ||
                              lsh.min_collisions > std::min(lsh.num_tables, 255u)))) {
    return absl::InvalidArgumentError(absl::StrCat(
        lsh.num_tables, " tables of ", lsh.bits_per_table, " bits, ", lsh.min_collisions,
        " collisions make a candidate; expected up to ", base::kMaxTables, " tables, 1 to ",
        base::kMaxBitsPerTable, " bits, 1 to min(tables, 255) collisions"));
  }
  if (spec.sketch.bits != 0 && spec.sketch.bits != 64 && spec.sketch.bits != 128 &&
      spec.sketch.bits != 256) {
    return absl::InvalidArgumentError(
        absl::StrCat("sketches of ", spec.sketch.bits, " bits, expected 0 (none), 64, 128 or 256"));
  }
  if (spec.sketch.bits != 0 && lsh.num_tables != 0) {
    return absl::InvalidArgumentError(absl::StrCat("sketches of ", spec.sketch.bits, " bits and ",
                                                   lsh.num_tables,
                                                   " LSH tables; a session has one kind of index"));
  }
  if (spec.placement.shard_rows < 0 || spec.placement.shard_rows > base::kMaxPositions) {
    return absl::InvalidArgumentError(absl::StrCat("shards of ", spec.placement.shard_rows,
                                                   " positions, expected 0 (none) to ",
                                                   base::kMaxPositions));
  }
  for (const uint32_t layer : spec.indexed_layers) {
    if (layer >= model.layers) {
      return absl::InvalidArgumentError(
          absl::StrCat("indexed layer ", layer, " of a model with ", model.layers, " layers"));
    }
  }
  return absl::OkStatus();
}

void Put(const absl::Status& status, proto::Status::Builder out) {
  out.setCode(ToWireCode(status));
  out.setMessage(ToWireText(status).c_str());
}

absl::Status Get(proto::Status::Reader in) {
  return FromWire(in.getCode(), in.getMessage().cStr());
}

void Put(const SessionSpec& spec, proto::SessionSpec::Builder out) {
  out.setProtocolVersion(spec.protocol_version);
  out.setIdHigh(spec.session.id.high);
  out.setIdLow(spec.session.id.low);
  out.setEpoch(spec.session.epoch);
  out.setTenant(spec.tenant);
  PutModel(spec.model, out.initModel());
  out.setDtype(static_cast<proto::DType>(spec.dtype));
  out.setSealRows(spec.seal_rows);
  out.setMinIndexedRows(spec.min_indexed_rows);
  auto lsh = out.initLsh();
  lsh.setBitsPerTable(spec.lsh.bits_per_table);
  lsh.setNumTables(spec.lsh.num_tables);
  lsh.setMinCollisions(spec.lsh.min_collisions);
  lsh.setProjection(static_cast<proto::Projection>(spec.lsh.projection));
  lsh.setSeed(spec.lsh.seed);
  auto layers = out.initIndexedLayers(static_cast<unsigned>(spec.indexed_layers.size()));
  for (unsigned i = 0; i < layers.size(); ++i) layers.set(i, spec.indexed_layers[i]);
  out.setKvHeadBegin(spec.kv_head_begin);
  out.setKvHeadCount(spec.kv_head_count);
  out.setTtlSeconds(spec.ttl_seconds);
  out.setDurability(static_cast<proto::Durability>(spec.durability));
  out.setRowFormat(static_cast<proto::RowFormat>(spec.row_format));
  auto sketch = out.initSketch();
  sketch.setBits(spec.sketch.bits);
  sketch.setSeed(spec.sketch.seed);
  auto placement = out.initPlacement();
  placement.setIdHigh(spec.placement.id.high);
  placement.setIdLow(spec.placement.id.low);
  placement.setShardRows(spec.placement.shard_rows);
  placement.setHeadShards(spec.placement.head_shards);
  placement.setNodes(spec.placement.nodes);
}

absl::StatusOr<SessionSpec> Get(proto::SessionSpec::Reader in) {
  SessionSpec spec;
  spec.protocol_version = in.getProtocolVersion();
  if (spec.protocol_version != kProtocolVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("protocol version mismatch: the worker speaks version ", spec.protocol_version,
                     ", this node speaks version ", kProtocolVersion));
  }
  spec.session = {{in.getIdHigh(), in.getIdLow()}, in.getEpoch()};
  if (spec.session.id.empty()) return absl::InvalidArgumentError("the session id is empty");
  spec.tenant = in.getTenant();
  ASSIGN_OR_RETURN(spec.model, GetModel(in.getModel()));
  ASSIGN_OR_RETURN(spec.dtype, GetDType(in.getDtype()));
  ASSIGN_OR_RETURN(spec.row_format, GetRowFormat(in.getRowFormat()));
  const auto projection = static_cast<uint16_t>(in.getLsh().getProjection());
  const auto durability = static_cast<uint16_t>(in.getDurability());
  if (projection > 1 || durability > 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "unknown projection ", projection, " or durability ", durability, ", expected 0 or 1"));
  }
  spec.seal_rows = in.getSealRows();
  spec.min_indexed_rows = in.getMinIndexedRows();
  const auto lsh = in.getLsh();
  spec.lsh = {lsh.getBitsPerTable(), lsh.getNumTables(), lsh.getMinCollisions(),
              static_cast<Projection>(projection), lsh.getSeed()};
  if (in.getIndexedLayers().size() > base::kMaxLayers) {
    return absl::InvalidArgumentError(absl::StrCat(in.getIndexedLayers().size(),
                                                   " indexed layers, at most ", base::kMaxLayers,
                                                   " are allowed"));
  }
  for (const uint32_t layer : in.getIndexedLayers()) spec.indexed_layers.push_back(layer);
  spec.kv_head_begin = in.getKvHeadBegin();
  spec.kv_head_count = in.getKvHeadCount();
  spec.ttl_seconds = in.getTtlSeconds();
  spec.durability = static_cast<Durability>(durability);
  spec.sketch = {in.getSketch().getBits(), in.getSketch().getSeed()};
  const auto placement = in.getPlacement();
  spec.placement = {{placement.getIdHigh(), placement.getIdLow()},
                    placement.getShardRows(),
                    placement.getHeadShards(),
                    placement.getNodes()};
  RETURN_IF_ERROR(CheckSpec(spec));
  return spec;
}

void Put(const SessionInfo& info, proto::SessionInfo::Builder out) {
  Put(info.spec, out.initSpec());
  out.setAppliedSequence(info.applied_sequence);
  out.setFirstPosition(info.first_position);
  out.setEndPosition(info.end_position);
  out.setRows(info.rows);
  out.setSegments(info.segments);
  out.setRowBytes(info.row_bytes);
  out.setIndexBytes(info.index_bytes);
  out.setTokens(info.tokens);
  auto ends = out.initHeadEnds(static_cast<unsigned>(info.head_ends.size()));
  for (unsigned i = 0; i < ends.size(); ++i) ends.set(i, info.head_ends[i]);
  out.setParentHigh(info.parent.high);
  out.setParentLow(info.parent.low);
  out.setForkPosition(info.fork_position);
  out.setSharedBytes(info.shared_bytes);
  out.setTtlRemainingSeconds(info.ttl_remaining_seconds);
  out.setDurablePosition(info.durable_position);
  out.setWarmSegments(info.warm_segments);
  out.setColdSegments(info.cold_segments);
  out.setStoredBytes(info.stored_bytes);
  out.setPinnedSeconds(info.pinned_seconds);
  out.setPinnedSoftly(info.pinned_softly);
}

absl::StatusOr<SessionInfo> Get(proto::SessionInfo::Reader in) {
  SessionInfo info;
  ASSIGN_OR_RETURN(info.spec, Get(in.getSpec()));
  info.applied_sequence = in.getAppliedSequence();
  info.first_position = in.getFirstPosition();
  info.end_position = in.getEndPosition();
  info.rows = in.getRows();
  info.segments = in.getSegments();
  info.row_bytes = in.getRowBytes();
  info.index_bytes = in.getIndexBytes();
  info.tokens = in.getTokens();
  if (in.getHeadEnds().size() > base::kMaxKvHeads) {
    return absl::InvalidArgumentError(absl::StrCat("the ends of ", in.getHeadEnds().size(),
                                                   " kv heads, at most ", base::kMaxKvHeads,
                                                   " are allowed"));
  }
  for (const base::Position end : in.getHeadEnds()) info.head_ends.push_back(end);
  info.parent = {in.getParentHigh(), in.getParentLow()};
  info.fork_position = in.getForkPosition();
  info.shared_bytes = in.getSharedBytes();
  info.ttl_remaining_seconds = in.getTtlRemainingSeconds();
  info.durable_position = in.getDurablePosition();
  info.warm_segments = in.getWarmSegments();
  info.cold_segments = in.getColdSegments();
  info.stored_bytes = in.getStoredBytes();
  info.pinned_seconds = in.getPinnedSeconds();
  info.pinned_softly = in.getPinnedSoftly();
  return info;
}

void Put(const NodeStatus& status, proto::NodeStatus::Builder out) {
  out.setVersion(status.version.c_str());
  out.setProtocolVersion(status.protocol_version);
  out.setControlAddress(status.control_address.c_str());
  out.setDataAddress(status.data_address.c_str());
  out.setHttpAddress(status.http_address.c_str());
  out.setSessions(status.sessions);
  out.setMemoryUsed(status.memory_used);
  out.setMemoryLimit(status.memory_limit);
  out.setRowBytes(status.row_bytes);
  out.setIndexBytes(status.index_bytes);
  out.setThreads(status.threads);
  out.setSimd(status.simd.c_str());
  out.setUptimeSeconds(status.uptime_seconds);
  out.setDraining(status.draining);
  out.setStoredBytes(status.stored_bytes);
  out.setStore(status.store.c_str());
  auto connections = out.initConnections(
      static_cast<unsigned>(std::min(status.connections.size(), base::kMaxConnections)));
  for (unsigned i = 0; i < connections.size(); ++i) {
    connections[i].setPeer(status.connections[i].peer.c_str());
    connections[i].setTransport(status.connections[i].transport.c_str());
    connections[i].setDetail(status.connections[i].detail.c_str());
  }
}

absl::StatusOr<NodeStatus> Get(proto::NodeStatus::Reader in) {
  NodeStatus status;
  status.version = in.getVersion().cStr();
  status.protocol_version = in.getProtocolVersion();
  status.control_address = in.getControlAddress().cStr();
  status.data_address = in.getDataAddress().cStr();
  status.http_address = in.getHttpAddress().cStr();
  status.sessions = in.getSessions();
  status.memory_used = in.getMemoryUsed();
  status.memory_limit = in.getMemoryLimit();
  status.row_bytes = in.getRowBytes();
  status.index_bytes = in.getIndexBytes();
  status.threads = in.getThreads();
  status.simd = in.getSimd().cStr();
  status.uptime_seconds = in.getUptimeSeconds();
  status.draining = in.getDraining();
  status.stored_bytes = in.getStoredBytes();
  status.store = in.getStore().cStr();
  // Structs without fields take no bytes: a list of millions fits into a message of a few words.
  const auto connections = in.getConnections();
  if (connections.size() > base::kMaxConnections) {
    return absl::InvalidArgumentError(absl::StrCat(connections.size(), " connections, at most ",
                                                   base::kMaxConnections,
                                                   " are listed in a status"));
  }
  for (const auto connection : connections) {
    status.connections.push_back({connection.getPeer().cStr(), connection.getTransport().cStr(),
                                  connection.getDetail().cStr()});
  }
  return status;
}

}  // namespace sounder::wire
