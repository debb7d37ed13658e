// What a worker says of a session, to its nodes and back.
#ifndef SOUNDER_GPU_WORKER_KV_SESSION_SPEC_H_
#define SOUNDER_GPU_WORKER_KV_SESSION_SPEC_H_

#include <memory>

#include "absl/status/statusor.h"
#include "common/lsh/projection.h"
#include "common/policy/placement.h"
#include "common/wire/control_service.h"
#include "gpu_worker/kv/remote_session.h"

namespace sounder::gpu_worker {

// How queries of the session are signed; null without tables.
absl::StatusOr<std::shared_ptr<const lsh::Projection>> MakeProjection(
    const RemoteSessionOptions& options);

// Where the session lies on `num_nodes` nodes; `placed_by` as in RemoteSessionStart.
absl::StatusOr<policy::Placement> PlacementOf(const RemoteSessionOptions& options,
                                              const base::SessionId& placed_by, size_t num_nodes);

// The session as a node is to open it: the kv heads are the node's.
wire::SessionSpec SpecOf(const RemoteSession& session, int node, size_t num_nodes);
// The options that such a spec was made from.
RemoteSessionOptions OptionsOf(const wire::SessionSpec& spec);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_KV_SESSION_SPEC_H_
