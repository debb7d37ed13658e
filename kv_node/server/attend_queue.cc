#include "kv_node/server/attend_queue.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv_node/server/work_split.h"

namespace sounder::kv_node {
namespace {

// With so much on its way a disk has all that it can do at once.
constexpr uint64_t kBusyBytes = uint64_t{16} << 20;

int64_t Micros(base::Duration duration) { return duration.count() / 1000; }

}  // namespace

void AttendQueue::Explain(const policy::AttendSchedule::Admission& admission, size_t admitted,
                          base::Duration deadline, Refused* refused) {
  refused->retry_after = admission.retry_after;
  if (admission.refusal == policy::AttendSchedule::Refusal::kFull) {
    probe_->RequestRefused("queue");
    refused->status = absl::ResourceExhaustedError(
        absl::StrCat("the node has taken on ", admitted,
                     " attends, and as many of this connection as its share allows "
                     "(--max-attends)"));
    return;
  }
  probe_->RequestRefused("deadline");
  const std::string own = admission.work > base::Duration(0)
                              ? absl::StrCat("its own ", Micros(admission.work), " us")
                              : "it";
  refused->status = absl::ResourceExhaustedError(absl::StrCat(
      "the attend would not be done in its ", Micros(deadline), " us: ", Micros(admission.wait),
      " us of work for ", threads_, " threads lie before ", own));
}

bool AttendQueue::RefusesUnread(transport::ConnectionId connection, base::Time arrival,
                                base::Time deadline, Refused* refused) {
  policy::AttendSchedule::Admission admission;
  size_t admitted = 0;
  {
    std::lock_guard lock(mutex_);
    admission = schedule_.Glance(connection, arrival, deadline);
    admitted = schedule_.admitted();
  }
  if (admission.refusal == policy::AttendSchedule::Refusal::kNone) return false;
  Explain(admission, admitted, deadline - arrival, refused);
  return true;
}

uint64_t AttendQueue::Offer(transport::ConnectionId connection, const wire::AttendRequest& request,
                            base::Time arrival, base::Time deadline, Refused* refused) {
  policy::AttendSchedule::Admission admission;
  size_t admitted = 0;
  {
    std::lock_guard lock(mutex_);
    admission = schedule_.Offer(connection, WorkOf(request), PartsOf(request), arrival, deadline);
    admitted = schedule_.admitted();
  }
  probe_->AttendsAdmitted(static_cast<double>(admitted));
  if (admission.job == 0) Explain(admission, admitted, deadline - arrival, refused);
  return admission.job;
}

void AttendQueue::Ready(uint64_t job, base::Work run, base::Work expire) {
  {
    std::lock_guard lock(mutex_);
    ready_.emplace(job, Waiting{std::move(run), std::move(expire)});
    schedule_.MakeReady(job, executor_->clock().Now());
  }
  Dispatch();
}

void AttendQueue::AddRunners(size_t count) {
  std::lock_guard lock(mutex_);
  runners_ += count;
}

void AttendQueue::RunnerEnded() {
  {
    std::lock_guard lock(mutex_);
    --runners_;
  }
  Dispatch();
}

void AttendQueue::RunnerYields(uint64_t job, base::Duration used, base::Work run) {
  {
    std::lock_guard lock(mutex_);
    --runners_;
    if (schedule_.Yield(job, used, executor_->clock().Now())) {
      ready_.emplace(job, Waiting{std::move(run), nullptr});
    }
  }
  Dispatch();
}

void AttendQueue::RunnerPauses(uint64_t job, base::Duration used, bool again) {
  {
    std::lock_guard lock(mutex_);
    --runners_;
    schedule_.Pause(job, used, again);
  }
  Dispatch();
}

void AttendQueue::Resume(uint64_t job, base::Work run) {
  {
    std::lock_guard lock(mutex_);
    if (schedule_.Yield(job, {}, executor_->clock().Now())) {
      ready_.emplace(job, Waiting{std::move(run), nullptr});
    }
  }
  Dispatch();
}

bool AttendQueue::TakeReads(uint64_t job, uint64_t bytes, base::Time arrival, base::Time deadline,
                            Refused* refused) {
  policy::ReadPace::Admission admission;
  size_t admitted = 0;
  {
    std::lock_guard lock(mutex_);
    admission = read_pace_.Offer(schedule_.FlowOf(job), bytes, reads_.Busy(kBusyBytes),
                                 executor_->clock().Now(), deadline);
    if (!admission.taken) schedule_.Drop(job);
    admitted = schedule_.admitted();
  }
  if (admission.taken) {
    probe_->PendingReads(static_cast<double>(bytes));
    return true;
  }
  probe_->AttendsAdmitted(static_cast<double>(admitted));
  probe_->RequestRefused("disk");
  refused->retry_after = admission.retry_after;
  refused->status = absl::ResourceExhaustedError(absl::StrCat(
      "the attend would not be done in its ", Micros(deadline - arrival),
      " us: ", Micros(admission.wait), " us of reading from the disk lie before its own ",
      Micros(admission.work), " us"));
  return false;
}

void AttendQueue::ReadsDone(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  read_pace_.Read(bytes, reads_.Busy(kBusyBytes), executor_->clock().Now());
}

void AttendQueue::End(uint64_t job, uint64_t reads, const policy::WorkRows& worked,
                      const policy::WorkTimes& took) {
  size_t admitted = 0;
  std::array<double, policy::kWorkKinds> row_nanos{};
  double share = 1;
  {
    std::lock_guard lock(mutex_);
    read_pace_.End(schedule_.FlowOf(job), reads);
    schedule_.Worked(job, worked);
    schedule_.End(job, took, executor_->clock().Now());
    ready_.erase(job);  // other runners have done what it waited to go on with
    share = schedule_.share();
    admitted = schedule_.admitted();
    for (size_t kind = 0; kind < row_nanos.size(); ++kind) {
      row_nanos[kind] = schedule_.times().nanos_per_row(kind);
    }
  }
  probe_->AttendsAdmitted(static_cast<double>(admitted));
  probe_->AttendCost(row_nanos, share);
  probe_->PendingReads(-static_cast<double>(reads));
}

void AttendQueue::Dispatch() {
  std::vector<base::Work> work;
  size_t admitted = 0;
  {
    std::lock_guard lock(mutex_);
    const base::Time now = executor_->clock().Now();
    std::vector<uint64_t> expired;
    while (runners_ < static_cast<size_t>(threads_)) {
      const uint64_t job = schedule_.Take(now, &expired);
      if (job == 0) break;
      work.push_back(std::move(ready_.extract(job).mapped().run));
      ++runners_;
    }
    for (const uint64_t job : expired) {
      work.push_back(std::move(ready_.extract(job).mapped().expire));
    }
    admitted = schedule_.admitted();
  }
  if (work.empty()) return;
  probe_->AttendsAdmitted(static_cast<double>(admitted));
  for (base::Work& each : work) executor_->Run(std::move(each));
}

}  // namespace sounder::kv_node
