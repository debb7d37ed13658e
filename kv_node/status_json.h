// What a node says at /status.
#ifndef SOUNDER_KV_NODE_STATUS_JSON_H_
#define SOUNDER_KV_NODE_STATUS_JSON_H_

#include <string>

#include "common/wire/control_service.h"

namespace sounder::kv_node {

std::string StatusJson(const wire::NodeStatus& status);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STATUS_JSON_H_
