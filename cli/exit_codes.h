// Exit statuses of sounderctl, the same for every command.
#ifndef SOUNDER_CLI_EXIT_CODES_H_
#define SOUNDER_CLI_EXIT_CODES_H_

#include "absl/status/status.h"

namespace sounder::cli {

enum ExitCode : int {
  kExitOk = 0,
  kExitInternal = 1,     // a fault of this program
  kExitUsage = 2,        // wrong options
  kExitBadInput = 3,     // a file or value that cannot be used
  kExitUnavailable = 4,  // a node or resource that cannot be reached
};

inline ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kCancelled:
      return kExitUnavailable;
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDataLoss:
      return kExitInternal;
    default:
      return kExitBadInput;
  }
}

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_EXIT_CODES_H_
