// The one check that every transport makes of a message to send.
#ifndef SOUNDER_COMMON_TRANSPORT_MESSAGE_LIMITS_H_
#define SOUNDER_COMMON_TRANSPORT_MESSAGE_LIMITS_H_

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/transport/transport.h"

namespace sounder::transport {

// INVALID_ARGUMENT if the message is larger than any transport carries.
inline absl::Status CheckLimits(const Message& message) {
  const auto refuse = [](const char* part, size_t bytes, size_t bytes_max) {
    return absl::InvalidArgumentError(
        absl::StrCat("a ", part, " of ", bytes, " bytes; at most ", bytes_max));
  };
  if (message.header.size() > base::kMaxHeaderBytes) {
    return refuse("header", message.header.size(), base::kMaxHeaderBytes);
  }
  if (message.payload.size() > base::kMaxPayloadBytes) {
    return refuse("payload", message.payload.size(), base::kMaxPayloadBytes);
  }
  return absl::OkStatus();
}

}  // namespace sounder::transport

#endif  // SOUNDER_COMMON_TRANSPORT_MESSAGE_LIMITS_H_
