// Grants credit to the writers of a node's sessions (common/policy/append_credit.h).
#ifndef SOUNDER_KV_NODE_SERVER_APPEND_CREDITS_H_
#define SOUNDER_KV_NODE_SERVER_APPEND_CREDITS_H_

#include <cstdint>
#include <mutex>

#include "absl/container/flat_hash_map.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "kv_node/server/probe.h"
#include "kv_node/session/session_map.h"

namespace sounder::kv_node {

// Thread safe.
class AppendCredits {
 public:
  // Both outlive it. message_bytes_max: what the node holds of messages at most.
  AppendCredits(const SessionMap* sessions, uint64_t message_bytes_max, ServerProbe* probe)
      : sessions_(sessions), message_bytes_max_(message_bytes_max), probe_(probe) {}

  // Bytes the session's writer may have in flight to this node from now on, having appended
  // `bytes` more.
  uint32_t Grant(const base::SessionId& session, uint64_t bytes, base::Time now);

 private:
  const SessionMap* const sessions_;
  const uint64_t message_bytes_max_;
  ServerProbe* const probe_;
  std::mutex mutex_;  // guards everything below
  // Sessions that appended in this second, and how much: those that decode append a row a step and
  // are no writers to share with.
  base::Time second_begin_{};
  absl::flat_hash_map<base::SessionId, uint64_t> appended_;
  uint64_t writers_ = 0;         // of this second
  uint64_t writers_before_ = 0;  // of the one before
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_APPEND_CREDITS_H_
