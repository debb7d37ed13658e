// Which requests a node takes on, and in which order it does them: admission by the time that is
// left, and fairness between those who ask.
#ifndef SOUNDER_COMMON_POLICY_ATTEND_SCHEDULE_H_
#define SOUNDER_COMMON_POLICY_ATTEND_SCHEDULE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <vector>

#include "common/base/clock.h"
#include "common/policy/shared_quota.h"

namespace sounder::policy {

// What a request asks for, in rows to attend, by kind of attention: rows of one kind cost alike.
inline constexpr size_t kWorkKinds = 3;
using WorkRows = std::array<int64_t, kWorkKinds>;
using WorkTimes = std::array<base::Duration, kWorkKinds>;

// What a row of each kind costs: measured, as a moving average over requests. Not thread safe.
class ServiceTimes {
 public:
  // Thread time of such a request; 0 for kinds never measured.
  base::Duration Estimate(const WorkRows& rows) const;
  // A request of these rows took so much thread time for them.
  void Measured(const WorkRows& rows, const WorkTimes& took);
  double nanos_per_row(size_t kind) const { return nanos_per_row_[kind]; }

 private:
  std::array<double, kWorkKinds> nanos_per_row_{};  // 0: not measured yet
};

// A thread that has worked on a job for so long lets others have their turn: far less than a
// deadline, and far more than taking turns costs.
inline constexpr base::Duration kTurn = std::chrono::milliseconds(4);

struct ScheduleOptions {
  int threads = 1;               // that work at the same time
  uint64_t max_requests = 1024;  // admitted and not ended; shared as SharedQuota does
};

// Pure: the time is passed in, and jobs are numbers. Not thread safe.
//
// A request is offered when it arrives, becomes ready (its rows and indexes are there), is taken
// when a thread is free, and ends. A long one yields after each kTurn of a thread, and is taken
// again. Flows take turns by the thread time they use (start-time fair queueing, Goyal et al.
// 1996); requests of one flow are taken in the order they became ready or yielded.
//
// The threads do other work as well (they plan, copy rows, build indexes), and somebody else may
// need the cores: while requests wait, the share of the threads' time that attends get is measured,
// and waits are longer by it.
class AttendSchedule {
 public:
  explicit AttendSchedule(const ScheduleOptions& options)
      : options_(options), requests_(options.max_requests) {}

  enum class Refusal { kNone, kDeadline, kFull };
  struct Admission {
    uint64_t job = 0;  // 0: refused
    Refusal refusal = Refusal::kNone;
    base::Duration wait{};         // expected before its first row is attended
    base::Duration work{};         // of it, thread time
    base::Duration retry_after{};  // if refused: when there may be room for another one like it
  };
  // Refused if it would be late even if the flows behind its own share did nothing, or if its flow
  // has its share of max_requests. parts: how many threads could work on it at once. A node with
  // nothing to do takes everything that is not late yet: so a wrong measurement heals.
  Admission Offer(FlowId flow, const WorkRows& rows, int parts, base::Time now,
                  base::Time deadline);
  // What Offer would say of whatever the flow asks for, before that is known; kNone: it depends.
  Admission Glance(FlowId flow, base::Time now, base::Time deadline) const {
    return Judge(flow, base::Duration(0), /*threads=*/1, now, deadline);
  }
  // The job waits for rows or indexes and needs no thread until it is ready: nobody waits for it
  // meanwhile. Nothing happens if it is ready already, or over.
  void Park(uint64_t job);
  void MakeReady(uint64_t job, base::Time now);
  // The next job to work on; 0: none is ready. Those that cannot be in time any more are passed
  // over, appended to `expired`, and end thereby.
  uint64_t Take(base::Time now, std::vector<uint64_t>* expired);
  // A thread that worked on a taken job for `used` lets the others have their turn: the job is
  // taken again, once for each such thread, and never too late. False if it is over.
  bool Yield(uint64_t job, base::Duration used, base::Time now);
  // A thread stops after `used`, because what is left of the job waits for something else (rows on
  // a disk). When that is there the job Yields once more, having used nothing. `again`: it was not
  // the job's first turn; then what the turn was charged in advance and did not use comes back.
  void Pause(uint64_t job, base::Duration used, bool again);
  // What a job turned out to be worked on, where some of what was asked for is refused.
  void Worked(uint64_t job, const WorkRows& rows) { jobs_.at(job).rows = rows; }
  // A job that was offered or taken is over. `took` of zeros (nothing to do): not measured.
  void End(uint64_t job, const WorkTimes& took, base::Time now);
  // A job that was just taken will not be worked on, and is over: its turn counts for nothing.
  void Drop(uint64_t job);

  FlowId FlowOf(uint64_t job) const { return jobs_.at(job).flow; }
  double share() const { return share_; }           // in (0, 1], see above
  size_t admitted() const { return jobs_.size(); }  // and not ended
  size_t ready() const { return ready_; }
  const ServiceTimes& times() const { return times_; }

 private:
  struct Job {
    FlowId flow = 0;
    WorkRows rows{};
    base::Duration work{};  // that is left when its last turn began
    int threads = 1;        // that can work on it at once
    base::Time deadline{};
    bool ready = false;  // or taken
    bool taken = false;
    size_t waiting = 0;     // how often it is in the flow's `ready`
    base::Duration used{};  // in turns that ended before it did
    bool parked = false;    // its work is not in the flow's `pending`
  };
  struct Flow {
    base::Duration pending{};  // of its jobs, thread time
    size_t jobs = 0;
    base::Duration start{};  // virtual time at which its next job starts
    std::deque<uint64_t> ready;
  };
  Admission Judge(FlowId flow, base::Duration work, int threads, base::Time now,
                  base::Time deadline) const;
  base::Duration Ahead(FlowId flow, base::Duration work) const;
  base::Duration ByThreads(base::Duration work, int threads) const;
  static base::Duration FirstTurn(const Job& job);
  void Used(Job& job, base::Duration used);
  void AddReady(uint64_t job, base::Time now);
  void MeasureShare(base::Duration took, base::Time now);
  bool TooLate(const Job& job, base::Time now) const;
  void Forget(uint64_t job);

  const ScheduleOptions options_;
  SharedQuota requests_;
  ServiceTimes times_;
  uint64_t last_job_ = 0;
  std::map<uint64_t, Job> jobs_;
  std::map<FlowId, Flow> flows_;
  base::Duration virtual_now_{};
  size_t ready_ = 0;
  double share_ = 1;
  bool measuring_ = false;  // requests have been waiting since...
  base::Time measured_from_{};
  base::Duration measured_work_{};
  int measured_jobs_ = 0;
};

}  // namespace sounder::policy

#endif  // SOUNDER_COMMON_POLICY_ATTEND_SCHEDULE_H_
