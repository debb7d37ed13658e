// What two opens of one session disagree in.
#ifndef SOUNDER_KV_NODE_SESSION_SPEC_DIFFERENCE_H_
#define SOUNDER_KV_NODE_SESSION_SPEC_DIFFERENCE_H_

#include <string>

#include "common/wire/control_service.h"

namespace sounder::kv_node {

// "head dim 64, the request 128; rope digest 'a', the request 'b'": the fields that differ, those
// of the open session first; empty if none does. Not looked at: what says how long a session lives.
std::string ModelDifference(const wire::ModelIdentity& open, const wire::ModelIdentity& asked);
std::string SpecDifference(const wire::SessionSpec& open, const wire::SessionSpec& asked);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_SPEC_DIFFERENCE_H_
