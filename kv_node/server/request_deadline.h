// How long a request of the data plane may wait on this node.
#ifndef SOUNDER_KV_NODE_SERVER_REQUEST_DEADLINE_H_
#define SOUNDER_KV_NODE_SERVER_REQUEST_DEADLINE_H_

#include <algorithm>
#include <chrono>

#include "common/base/clock.h"
#include "common/wire/messages.h"

namespace sounder::kv_node {

// As long as the asking side says, but no more than a minute, and that if it says nothing.
inline base::Time RequestDeadline(const wire::Envelope& envelope, base::Time arrival) {
  constexpr uint32_t kLongest = 60'000'000;
  const uint32_t micros = envelope.deadline_us;
  return arrival + std::chrono::microseconds(micros == 0 ? kLongest : std::min(micros, kLongest));
}

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_REQUEST_DEADLINE_H_
