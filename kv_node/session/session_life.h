// Until when a session lives that hears nothing more of its writer.
#ifndef SOUNDER_KV_NODE_SESSION_SESSION_LIFE_H_
#define SOUNDER_KV_NODE_SESSION_SESSION_LIFE_H_

#include <atomic>
#include <cstdint>

#include "common/base/clock.h"

namespace sounder::kv_node {

// Thread safe. Shared with the segments that the session holds.
class SessionLife {
 public:
  // `ttl` 0: for ever.
  SessionLife(base::Duration ttl, base::Time now) : ttl_(ttl) { Touch(now); }

  void Touch(base::Time now) { touched_.store(now.time_since_epoch().count()); }
  base::Time touched() const { return base::Time(base::Duration(touched_.load())); }
  base::Time end() const { return ttl_ == base::Duration(0) ? base::kNever : touched() + ttl_; }

 private:
  const base::Duration ttl_;
  std::atomic<int64_t> touched_{0};
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_SESSION_LIFE_H_
