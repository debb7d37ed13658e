// How UCX is set up for a transport.
#ifndef SOUNDER_COMMON_TRANSPORT_UCX_CONFIG_H_
#define SOUNDER_COMMON_TRANSPORT_UCX_CONFIG_H_

#include "absl/status/statusor.h"
#include "common/transport/ucx_handles.h"
#include "common/transport/ucx_transport.h"

namespace sounder::transport {

// A context for active messages with wake-ups, configured by `options`. A UCX_* variable of the
// environment that names one of the settings wins over ours.
absl::StatusOr<UcxContext> CreateUcxContext(const UcxOptions& options);

}  // namespace sounder::transport

#endif  // SOUNDER_COMMON_TRANSPORT_UCX_CONFIG_H_
