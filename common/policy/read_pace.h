// Which requests get to read rows from a disk: those that it can serve in time.
#ifndef SOUNDER_COMMON_POLICY_READ_PACE_H_
#define SOUNDER_COMMON_POLICY_READ_PACE_H_

#include <cstdint>
#include <map>

#include "common/base/clock.h"
#include "common/policy/shared_quota.h"

namespace sounder::policy {

// Pure: the time is passed in. Not thread safe.
//
// How fast a disk is shows only while it has as much to do at once as it is given (it is full). So
// the pace is measured then, and whoever would be late by it is refused then: before that, all are
// served. Bytes are as estimated beforehand, by whatever rule: the pace is in the same bytes.
// Requests are served side by side: each takes as long as if all of it came after all of what the
// others were taken on with. A flow gets no more of that than is left free (as SharedQuota).
class ReadPace {
 public:
  struct Admission {
    bool taken = false;
    base::Duration wait{};         // expected before its own, what leaves others room included
    base::Duration work{};         // of its own
    base::Duration retry_after{};  // if refused: when there may be room for another one like it
  };
  Admission Offer(FlowId flow, uint64_t bytes, bool full, base::Time now, base::Time deadline);
  // Some of what was taken on has been read.
  void Read(uint64_t bytes, bool full, base::Time now);
  // A request that was taken on with so many bytes is over.
  void End(FlowId flow, uint64_t bytes);

  double bytes_per_second() const { return 1e9 * bytes_per_nano_; }  // 0: not measured yet
  uint64_t pending() const { return pending_; }                      // taken on with, not over

 private:
  base::Duration TimeOf(uint64_t bytes) const;

  double bytes_per_nano_ = 0;
  uint64_t pending_ = 0;
  std::map<FlowId, uint64_t> of_flow_;  // of pending_
  bool measuring_ = false;              // it has been full since...
  base::Time since_{};
  uint64_t read_ = 0;
};

}  // namespace sounder::policy

#endif  // SOUNDER_COMMON_POLICY_READ_PACE_H_
