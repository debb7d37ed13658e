#include "kv_node/status_json.h"

#include <nlohmann/json.hpp>

namespace sounder::kv_node {

std::string StatusJson(const wire::NodeStatus& status) {
  nlohmann::json json;
  json["version"] = status.version;
  json["control"] = status.control_address;
  json["data"] = status.data_address;
  json["http"] = status.http_address;
  json["sessions"] = status.sessions;
  json["memory_used_bytes"] = status.memory_used;
  json["memory_limit_bytes"] = status.memory_limit;
  json["row_bytes"] = status.row_bytes;
  json["index_bytes"] = status.index_bytes;
  json["threads"] = status.threads;
  json["simd"] = status.simd;
  json["uptime_seconds"] = status.uptime_seconds;
  json["draining"] = status.draining;
  json["store"] = status.store;
  json["stored_bytes"] = status.stored_bytes;
  json["connections"] = nlohmann::json::array();
  for (const wire::NodeConnection& connection : status.connections) {
    json["connections"].push_back({{"peer", connection.peer}, {"transport", connection.transport}});
  }
  return json.dump(2);
}

}  // namespace sounder::kv_node
