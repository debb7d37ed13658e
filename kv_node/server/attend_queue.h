// The attends a node has taken on: who is refused at once, whose turn it is, and how many threads
// work on them.
#ifndef SOUNDER_KV_NODE_SERVER_ATTEND_QUEUE_H_
#define SOUNDER_KV_NODE_SERVER_ATTEND_QUEUE_H_

#include <cstdint>
#include <functional>
#include <mutex>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "common/base/executor.h"
#include "common/policy/attend_schedule.h"
#include "common/policy/read_pace.h"
#include "common/transport/transport.h"
#include "common/wire/messages.h"
#include "kv_node/server/byte_quota.h"
#include "kv_node/server/probe.h"

namespace sounder::kv_node {

// What the work in progress may hold at once, all attends and fetches together.
struct WorkRoomOptions {
  uint64_t read_bytes = uint64_t{256} << 20;   // of stored rows: selections, rows, their pages
  uint64_t partial_bytes = uint64_t{1} << 30;  // of attends begun: outputs of their units
};

// Thread safe. policy::AttendSchedule on an executor: no more runners are given to the executor
// than keep its threads busy, so that what else comes (appends, plans, index builds) waits for the
// work in progress and not for the backlog. Destroy it when the executor is idle.
class AttendQueue {
 public:
  // Both outlive the queue.
  AttendQueue(base::Executor* executor, const policy::ScheduleOptions& options, ServerProbe* probe,
              const WorkRoomOptions& room = {})
      : executor_(executor),
        threads_(options.threads),
        probe_(probe),
        reads_(room.read_bytes),
        partials_(room.partial_bytes),
        schedule_(options) {}

  struct Refused {
    absl::Status status;  // RESOURCE_EXHAUSTED, saying what there is too much of
    base::Duration retry_after{};
  };
  // Whether whatever the connection asks for now would be refused, and why: from its header alone.
  bool RefusesUnread(transport::ConnectionId connection, base::Time arrival, base::Time deadline,
                     Refused* refused);
  // The job's number, or 0 and why not. A job that was taken on ends with End or by expiring.
  uint64_t Offer(transport::ConnectionId connection, const wire::AttendRequest& request,
                 base::Time arrival, base::Time deadline, Refused* refused);
  // The job waits for rows or indexes (or has stopped waiting by now): see policy::AttendSchedule.
  void Park(uint64_t job) {
    std::lock_guard lock(mutex_);
    schedule_.Park(job);
  }
  // The job can be worked on: one of the two is called on the executor. `run` counts as a runner;
  // `expire` means that its deadline is too near now, and that it has ended.
  void Ready(uint64_t job, base::Work run, base::Work expire);
  // A job in work uses `count` more runners.
  void AddRunners(size_t count);
  // Of each runner, `run` included, when it has nothing left to do.
  void RunnerEnded();
  // Or when it has worked for policy::kTurn (it took `used`) and more is left: it ends, and `run`
  // is called as a runner when the job's turn has come again, unless the job is over by then.
  void RunnerYields(uint64_t job, base::Duration used, base::Work run);
  // Or when what is left waits for the disk, or for room; `again`: it came by its job's turn, not
  // by Ready or AddRunners. When there is work again, Resume.
  void RunnerPauses(uint64_t job, base::Duration used, bool again);
  // `run` is called as a runner when the job's turn has come, unless the job is over by then. From
  // any thread; does not block.
  void Resume(uint64_t job, base::Work run);
  // Before a job in work reads `bytes` from the disk, by estimate; false if they would come too
  // late: the job is over then, and to be refused. ReadsDone for each part of them.
  bool TakeReads(uint64_t job, uint64_t bytes, base::Time arrival, base::Time deadline,
                 Refused* refused);
  void ReadsDone(uint64_t bytes);
  // reads: that were taken. worked: what of the request was not refused.
  void End(uint64_t job, uint64_t reads, const policy::WorkRows& worked,
           const policy::WorkTimes& took);

  int threads() const { return threads_; }
  // Attends begin with room for their partial outputs, and read with room for what they read: so
  // none that has a part of one waits for what another holds of the other.
  ByteQuota& reads() { return reads_; }
  ByteQuota& partials() { return partials_; }

 private:
  struct Waiting {
    base::Work run;
    base::Work expire;  // of the first turn only
  };
  void Dispatch();
  void Explain(const policy::AttendSchedule::Admission& admission, size_t admitted,
               base::Duration deadline, Refused* refused);

  base::Executor* const executor_;
  const int threads_;
  ServerProbe* const probe_;
  ByteQuota reads_;
  ByteQuota partials_;
  std::mutex mutex_;  // guards everything below
  policy::AttendSchedule schedule_;
  policy::ReadPace read_pace_;
  std::unordered_multimap<uint64_t, Waiting> ready_;  // one for each turn that the job waits for
  size_t runners_ = 0;                                // given to the executor and not ended
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_ATTEND_QUEUE_H_
