// Bridges between std:: and absl:: strings. The distribution's Abseil pins its own string_view,
// a type of its own without implicit conversions, so our interfaces use std types and cross over
// here. Pure functions.
#ifndef SOUNDER_COMMON_BASE_ABSL_TEXT_H_
#define SOUNDER_COMMON_BASE_ABSL_TEXT_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace sounder::base {

inline absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view ToStd(absl::string_view text) { return {text.data(), text.size()}; }
inline std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

// The same status with `prefix: ` before its message. OK stays OK.
inline absl::Status Annotate(const absl::Status& status, std::string_view prefix) {
  if (status.ok()) return status;
  return absl::Status(status.code(), std::string(prefix) + ": " + std::string(status.message()));
}

}  // namespace sounder::base

#endif  // SOUNDER_COMMON_BASE_ABSL_TEXT_H_
