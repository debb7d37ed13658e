// UCX status codes in our error language.
#ifndef SOUNDER_COMMON_TRANSPORT_UCX_STATUS_H_
#define SOUNDER_COMMON_TRANSPORT_UCX_STATUS_H_

#include <ucs/type/status.h>

#include <string_view>

#include "absl/status/status.h"

namespace sounder::transport {

// OK for UCS_OK; otherwise `what: <UCX's own words>` under the code that fits: everything that
// says the peer or the path to it is gone is UNAVAILABLE.
absl::Status StatusFromUcx(ucs_status_t status, std::string_view what);

}  // namespace sounder::transport

#endif  // SOUNDER_COMMON_TRANSPORT_UCX_STATUS_H_
