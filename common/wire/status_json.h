// What nodes say of themselves and of sessions as JSON: the same names at a node's /status and from
// sounderctl. Pure functions.
#ifndef SOUNDER_COMMON_WIRE_STATUS_JSON_H_
#define SOUNDER_COMMON_WIRE_STATUS_JSON_H_

#include <nlohmann/json.hpp>
#include <string>

#include "common/wire/control_service.h"

namespace sounder::wire {

nlohmann::json ToJson(const NodeStatus& status);
// "parent" and "fork_position" of forks only.
nlohmann::json ToJson(const SessionInfo& session);

// "lsh 150 x 10 bits", "sketch 128 bits, int8 rows", "none".
std::string IndexText(const SessionSpec& spec);

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_STATUS_JSON_H_
