#include "gpu_worker/kv/kv_connection.h"

#include <utility>

#include "common/base/status_macros.h"
#include "common/base/thread_executor.h"
#include "common/base/time_of_day.h"
#include "common/wire/control_client.h"

namespace sounder::gpu_worker {

absl::StatusOr<std::unique_ptr<KvConnection>> KvConnection::Connect(
    const std::vector<std::string>& nodes, KvClientOptions options,
    std::shared_ptr<transport::UcxEngine> engine) {
  std::vector<std::unique_ptr<wire::ControlChannel>> channels;
  for (const std::string& node : nodes) {
    channels.push_back(std::make_unique<wire::ControlClient>(node, options.deadline));
  }
  auto executor = std::make_unique<base::ThreadExecutor>(1, "worker");
  ASSIGN_OR_RETURN(
      std::unique_ptr<KvConnection> connection,
      Create(std::move(options), std::move(channels),
             std::make_unique<transport::UcxTransport>(std::move(engine)), executor.get()));
  connection->own_executor_ = std::move(executor);
  return connection;
}

absl::StatusOr<std::unique_ptr<KvConnection>> KvConnection::Create(
    KvClientOptions options, std::vector<std::unique_ptr<wire::ControlChannel>> nodes,
    std::unique_ptr<transport::Transport> transport, base::Executor* executor) {
  std::unique_ptr<KvConnection> connection(new KvConnection);
  if (options.first_epoch == 0) options.first_epoch = base::UnixMicros();
  connection->executor_ = executor;
  connection->transport_ = std::move(transport);
  ASSIGN_OR_RETURN(connection->client_, KvClient::Create(std::move(options), std::move(nodes),
                                                         connection->transport_.get(), executor));
  return connection;
}

}  // namespace sounder::gpu_worker
