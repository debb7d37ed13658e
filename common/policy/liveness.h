// When a silent peer is asked for a sign of life, when it counts as gone, and when to try it again.
// Both sides of the data plane use this: UCX never reports a peer that was stopped or cut off.
#ifndef SOUNDER_COMMON_POLICY_LIVENESS_H_
#define SOUNDER_COMMON_POLICY_LIVENESS_H_

#include <chrono>

#include "common/base/clock.h"

namespace sounder::policy {

// A peer that falls silent is noticed `interval` + `timeout` later, without other traffic.
struct HeartbeatOptions {
  base::Duration interval{0};  // silence after which a peer is probed; 0: never
  base::Duration timeout = std::chrono::seconds(5);  // how long it may take to answer the probe
};

// The silence of one peer. Value type, not thread safe.
class Heartbeat {
 public:
  enum class Action { kWait, kProbe, kGiveUp };

  explicit Heartbeat(base::Time now) : last_heard_(now) {}

  void Heard(base::Time now) {
    last_heard_ = now;
    probed_ = false;
  }
  // What is to be done now; to be asked again at due(), or more often. Whoever is asked much later
  // than that (half of the timeout) has stood still himself, as by SIGSTOP: what the peer said
  // meanwhile may lie unread, so it is probed again instead of given up.
  Action Check(const HeartbeatOptions& options, base::Time now);

  base::Time last_heard() const { return last_heard_; }
  base::Time due() const { return due_; }  // after the first Check

 private:
  base::Time last_heard_;
  base::Time due_ = base::kNever;
  base::Time give_up_at_{};
  bool probed_ = false;  // and has said nothing since
};

struct BackoffOptions {
  base::Duration first = std::chrono::milliseconds(100);
  base::Duration most = std::chrono::seconds(2);
};

// How long to wait before trying a peer for the `attempt`-th time (0, 1, ...): first * 2^attempt,
// at most `most`, of which `random` in [0, 1) takes off up to a half, so that those who lost the
// same peer do not come back in step. Pure function.
base::Duration BackoffDelay(const BackoffOptions& options, int attempt, double random);

}  // namespace sounder::policy

#endif  // SOUNDER_COMMON_POLICY_LIVENESS_H_
