// RETURN_IF_ERROR and ASSIGN_OR_RETURN for absl::Status and absl::StatusOr. Nothing else.
#ifndef SOUNDER_COMMON_BASE_STATUS_MACROS_H_
#define SOUNDER_COMMON_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define SOUNDER_CONCAT_INNER(a, b) a##b
#define SOUNDER_CONCAT(a, b) SOUNDER_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expression)                                                              \
  do {                                                                                           \
    if (absl::Status sounder_status = (expression); !sounder_status.ok()) return sounder_status; \
  } while (false)

#define ASSIGN_OR_RETURN(lhs, expression) \
  SOUNDER_ASSIGN_OR_RETURN(SOUNDER_CONCAT(sounder_or_, __LINE__), lhs, expression)

#define SOUNDER_ASSIGN_OR_RETURN(statusor, lhs, expression) \
  auto statusor = (expression);                             \
  if (!statusor.ok()) return statusor.status();             \
  lhs = *std::move(statusor)

#endif  // SOUNDER_COMMON_BASE_STATUS_MACROS_H_
