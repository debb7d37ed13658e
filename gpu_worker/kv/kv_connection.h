// A KvClient with all it stands on (executor, transport, control channels), made and destroyed in
// the order they need.
#ifndef SOUNDER_GPU_WORKER_KV_KV_CONNECTION_H_
#define SOUNDER_GPU_WORKER_KV_KV_CONNECTION_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/executor.h"
#include "common/transport/ucx_transport.h"
#include "common/wire/control_channel.h"
#include "gpu_worker/kv/kv_client.h"

namespace sounder::gpu_worker {

// Thread safe. What is in flight when it is destroyed ends without an answer; the destructor must
// not run on a thread of its own transport or executor.
class KvConnection {
 public:
  // Over the network, to nodes at these control addresses ("host:port"); their order decides
  // placement. `engine` may be shared with other transports of the process. Errors as
  // KvClient::Create, and the transport's where the system has nothing for its options.
  static absl::StatusOr<std::unique_ptr<KvConnection>> Connect(
      const std::vector<std::string>& nodes, KvClientOptions options,
      std::shared_ptr<transport::UcxEngine> engine);

  // Of given parts. The executor outlives it. A first epoch of 0 is the time of day, in both.
  static absl::StatusOr<std::unique_ptr<KvConnection>> Create(
      KvClientOptions options, std::vector<std::unique_ptr<wire::ControlChannel>> nodes,
      std::unique_ptr<transport::Transport> transport, base::Executor* executor);

  KvClient& client() { return *client_; }
  base::Executor& executor() { return *executor_; }

 private:
  KvConnection() = default;

  std::unique_ptr<base::Executor> own_executor_;  // null: somebody else's
  base::Executor* executor_ = nullptr;
  std::unique_ptr<KvClient> client_;
  std::unique_ptr<transport::Transport> transport_;  // goes before what its events reach
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_KV_KV_CONNECTION_H_
