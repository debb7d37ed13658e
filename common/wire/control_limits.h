// What a node's control plane bears from whoever connects to it.
#ifndef SOUNDER_COMMON_WIRE_CONTROL_LIMITS_H_
#define SOUNDER_COMMON_WIRE_CONTROL_LIMITS_H_

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>

#include "common/base/clock.h"

namespace sounder::wire {

struct ControlLimits {
  // Open at once. One more takes the place of the oldest that has never sent a message, or is
  // refused if there is none.
  size_t connections = 256;
  size_t message_bytes = size_t{1} << 20;  // of a message to the server
  // Calls without an answer, in bytes of their messages, over one connection; more are not read.
  size_t unanswered_bytes = size_t{64} << 10;
  // How long a connection may take for its first message, for any message from its first byte to
  // its last, and to read an answer.
  base::Duration stall = std::chrono::seconds(10);
  base::Duration idle = std::chrono::minutes(10);  // without a message
  // Answers over one connection, after which it is closed (clients connect anew): Cap'n Proto keeps
  // each until the client says that it is done with it.
  size_t answered_bytes = size_t{64} << 20;
  // Told of each connection refused or cut off: a word for the cause, and a sentence. May be null.
  std::function<void(const std::string& cause, const std::string& what)> refused = {};
};

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_CONTROL_LIMITS_H_
