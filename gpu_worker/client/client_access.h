// What is behind the public client.h: the conversions, and a door for tests.
#ifndef SOUNDER_GPU_WORKER_CLIENT_CLIENT_ACCESS_H_
#define SOUNDER_GPU_WORKER_CLIENT_CLIENT_ACCESS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/client/client.h"
#include "gpu_worker/kv/kv_connection.h"

namespace sounder::gpu_worker {

// The same status in the public type.
client::Status ToPublic(const absl::Status& status);

// What Open is asked for, in the types of the house. INVALID_ARGUMENT for values these cannot hold;
// the nodes judge the rest.
absl::StatusOr<RemoteSessionOptions> FromPublic(const client::SessionOptions& options);

// Why a block of queries cannot be sent: what would be our own bug further down.
absl::Status CheckQuery(const client::Query& query, uint32_t layer, const RemoteSession& session);

// Signatures of queries as the nodes see them, [T, query heads, words]. The session has tables.
std::vector<uint64_t> Sign(const client::Query& query, const RemoteSession& session);

struct ClientAccess {
  // A client over a connection that is there already.
  static std::unique_ptr<client::Client> Make(std::shared_ptr<KvConnection> connection);
};

}  // namespace sounder::gpu_worker

namespace sounder::client {

struct [[gnu::visibility("hidden")]] Session::State {
  State(std::shared_ptr<gpu_worker::KvConnection> over,
        std::shared_ptr<gpu_worker::RemoteSession> session)
      : connection(std::move(over)), remote(std::move(session)) {}

  const std::shared_ptr<gpu_worker::KvConnection> connection;
  const std::shared_ptr<gpu_worker::RemoteSession> remote;
  std::atomic<bool> closed{false};
};

}  // namespace sounder::client

#endif  // SOUNDER_GPU_WORKER_CLIENT_CLIENT_ACCESS_H_
