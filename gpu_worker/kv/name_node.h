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

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_KV_NAME_NODE_H_
