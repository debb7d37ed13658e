// Errors name the node they came from.
#ifndef SOUNDER_GPU_WORKER_KV_NAME_NODE_H_
#define SOUNDER_GPU_WORKER_KV_NAME_NODE_H_

#include <string>

#include "absl/status/status.h"
#include "common/base/absl_text.h"

namespace sounder::gpu_worker {

// The status with the node's address in its message. OK stays OK.
inline absl::Status NameNode(const absl::Status& status, const std::string& address) {
  const bool named = base::MessageOf(status).find(address) != std::string::npos;
  return named ? status : base::Annotate(status, "node " + address);
}

// The same for an answer about a session of ours that is open: a node that does not know it has
// lost it, which is a failure of the node and not of whoever asked.
inline absl::Status NameNodeOfSession(const absl::Status& status, const std::string& address) {
  if (!absl::IsNotFound(status)) return NameNode(status, address);
  return absl::UnavailableError(
      "node " + address +
      " lost the session (was it restarted?); it must be opened and filled anew: " +
      base::MessageOf(status));
}

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_KV_NAME_NODE_H_
