#include "common/wire/status_json.h"

#include "absl/strings/str_cat.h"

namespace sounder::wire {

nlohmann::json ToJson(const NodeStatus& status) {
  nlohmann::json json = {{"version", status.version},
                         {"protocol_version", status.protocol_version},
                         {"control", status.control_address},
                         {"data", status.data_address},
                         {"http", status.http_address},
                         {"sessions", status.sessions},
                         {"memory_used_bytes", status.memory_used},
                         {"memory_limit_bytes", status.memory_limit},
                         {"row_bytes", status.row_bytes},
                         {"index_bytes", status.index_bytes},
                         {"threads", status.threads},
                         {"simd", status.simd},
                         {"uptime_seconds", status.uptime_seconds},
                         {"draining", status.draining},
                         {"store", status.store},
                         {"stored_bytes", status.stored_bytes},
                         {"connections", nlohmann::json::array()}};
  for (const NodeConnection& connection : status.connections) {
    json["connections"].push_back({{"peer", connection.peer}, {"transport", connection.transport}});
  }
  return json;
}

nlohmann::json ToJson(const SessionInfo& session) {
  nlohmann::json json = {
      {"id", session.spec.session.id.ToString()},
      {"epoch", session.spec.session.epoch},
      {"tenant", session.spec.tenant},
      {"model", session.spec.model.name},
      {"first_position", session.first_position},
      {"end_position", session.end_position},
      {"applied_sequence", session.applied_sequence},
      {"tokens", session.tokens},
      {"rows", session.rows},
      {"segments", session.segments},
      {"hot_segments", session.hot_segments()},
      {"warm_segments", session.warm_segments},
      {"cold_segments", session.cold_segments},
      {"row_bytes", session.row_bytes},
      {"index", IndexText(session.spec)},
      {"index_bytes", session.index_bytes},
      {"shared_bytes", session.shared_bytes},
      {"stored_bytes", session.stored_bytes},
      {"durable", session.durable_position >= 0},
      {"durable_position", session.durable_position},
      {"pinned_seconds", session.pinned_seconds},
      {"pinned_softly", session.pinned_softly},
      {"ttl_seconds", session.spec.ttl_seconds},
      {"ttl_remaining_seconds", session.ttl_remaining_seconds},
  };
  if (session.fork_position >= 0) {
    json["parent"] = session.parent.ToString();
    json["fork_position"] = session.fork_position;
  }
  return json;
}

std::string IndexText(const SessionSpec& spec) {
  switch (spec.index()) {
    case AttentionKind::kLshTables:
      return absl::StrCat("lsh ", spec.lsh.num_tables, " x ", spec.lsh.bits_per_table, " bits");
    case AttentionKind::kSketch:
      return absl::StrCat("sketch ", spec.sketch.bits, " bits",
                          spec.row_format == RowFormat::kInt8 ? ", int8 rows" : "");
    case AttentionKind::kExact:
      break;
  }
  return "none";
}

}  // namespace sounder::wire
