// Control-plane values to Cap'n Proto structs and back. Private to common/wire. The Get functions
// check bounds and refuse with INVALID_ARGUMENT; they may throw kj::Exception on malformed
// messages, which their callers (RPC method bodies) let the RPC system report.
#ifndef SOUNDER_COMMON_WIRE_CONTROL_CODEC_H_
#define SOUNDER_COMMON_WIRE_CONTROL_CODEC_H_

#include "common/wire/control_service.h"
#include "proto/control.capnp.h"

namespace sounder::wire {

void Put(const absl::Status& status, proto::Status::Builder out);
absl::Status Get(proto::Status::Reader in);

void Put(const SessionSpec& spec, proto::SessionSpec::Builder out);
absl::StatusOr<SessionSpec> Get(proto::SessionSpec::Reader in);

void Put(const SessionInfo& info, proto::SessionInfo::Builder out);
absl::StatusOr<SessionInfo> Get(proto::SessionInfo::Reader in);

// Of more than base::kMaxConnections connections the first are listed.
void Put(const NodeStatus& status, proto::NodeStatus::Builder out);
absl::StatusOr<NodeStatus> Get(proto::NodeStatus::Reader in);

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_CONTROL_CODEC_H_
