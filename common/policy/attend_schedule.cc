#include "common/policy/attend_schedule.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/policy/retry.h"
#include "common/policy/usable_time.h"

namespace sounder::policy {
namespace {

// Weight of a new measurement.
constexpr double kNewest = 0.125;
// The share is measured over so many requests, and believed by so much.
constexpr int kShareJobs = 8;
constexpr double kNewestShare = 0.25;
constexpr double kLeastShare = 0.02;
// What a job counts at least, so that flows take turns also while costs are unknown.
constexpr base::Duration kLeastWork = std::chrono::microseconds(1);

}  // namespace

base::Duration ServiceTimes::Estimate(const WorkRows& rows) const {
  double nanos = 0;
  for (size_t kind = 0; kind < kWorkKinds; ++kind) {
    nanos += nanos_per_row_[kind] * static_cast<double>(rows[kind]);
  }
  return base::Duration(static_cast<int64_t>(std::min(nanos, 1e18)));
}

void ServiceTimes::Measured(const WorkRows& rows, const WorkTimes& took) {
  for (size_t kind = 0; kind < kWorkKinds; ++kind) {
    if (rows[kind] <= 0 || took[kind] <= base::Duration(0)) continue;
    const double newest = static_cast<double>(took[kind].count()) / static_cast<double>(rows[kind]);
    double& average = nanos_per_row_[kind];
    average = average == 0 ? newest : average + kNewest * (newest - average);
  }
}

// Thread time of what is done before a new job of the flow: its own jobs, and of every other flow
// as much as its turns allow until then.
base::Duration AttendSchedule::Ahead(FlowId flow, base::Duration work) const {
  const auto found = flows_.find(flow);
  const base::Duration own = found == flows_.end() ? base::Duration(0) : found->second.pending;
  base::Duration ahead = own;
  for (const auto& [other, entry] : flows_) {
    if (other != flow) ahead += std::min(entry.pending, own + work);
  }
  return ahead;
}

base::Duration AttendSchedule::ByThreads(base::Duration work, int threads) const {
  return base::Duration(
      static_cast<int64_t>(static_cast<double>(work.count()) / (share_ * threads)));
}

AttendSchedule::Admission AttendSchedule::Judge(FlowId flow, base::Duration work, int threads,
                                                base::Time now, base::Time deadline) const {
  Admission admission;
  admission.work = work;
  admission.wait = ByThreads(Ahead(flow, work), options_.threads);
  const base::Duration late = admission.wait + ByThreads(work, threads) - UsableTime(now, deadline);
  if (now >= deadline || (late > base::Duration(0) && !jobs_.empty())) {
    admission.refusal = Refusal::kDeadline;
    admission.retry_after = std::clamp(late, kMinRetryAfter, kMaxRetryAfter);
  } else if (!requests_.Allows(flow, 1)) {
    admission.refusal = Refusal::kFull;
    admission.retry_after = std::clamp(admission.wait / 2, kMinRetryAfter, kMaxRetryAfter);
  }
  return admission;
}

AttendSchedule::Admission AttendSchedule::Offer(FlowId flow, const WorkRows& rows, int parts,
                                                base::Time now, base::Time deadline) {
  Job job;
  job.flow = flow;
  job.rows = rows;
  job.work = std::max(times_.Estimate(rows), kLeastWork);
  job.threads = std::clamp(parts, 1, options_.threads);
  job.deadline = deadline;
  Admission admission = Judge(flow, job.work, job.threads, now, deadline);
  if (admission.refusal != Refusal::kNone) return admission;
  CHECK(requests_.Take(flow, 1));
  admission.job = ++last_job_;
  Flow& entry = flows_[flow];
  entry.pending += job.work;
  ++entry.jobs;
  jobs_.emplace(admission.job, job);
  return admission;
}

void AttendSchedule::Park(uint64_t job) {
  const auto found = jobs_.find(job);
  if (found == jobs_.end() || found->second.ready || found->second.parked) return;
  found->second.parked = true;
  flows_.at(found->second.flow).pending -= found->second.work;
}

void AttendSchedule::MakeReady(uint64_t job, base::Time now) {
  Job& entry = jobs_.at(job);
  entry.ready = true;
  if (std::exchange(entry.parked, false)) flows_.at(entry.flow).pending += entry.work;
  AddReady(job, now);
}

// It counts for the share as it is done: the end of a long job may be long after.
void AttendSchedule::Used(Job& job, base::Duration used) {
  job.used += used;
  measured_work_ += used;
  const base::Duration done = std::min(used, job.work);
  flows_.at(job.flow).pending -= done;
  job.work -= done;
}

// What a turn took beyond what it was charged when it began is charged now.
bool AttendSchedule::Yield(uint64_t job, base::Duration used, base::Time now) {
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return false;
  flows_.at(found->second.flow).start += std::max(used - kTurn, base::Duration(0));
  Used(found->second, used);
  AddReady(job, now);
  return true;
}

void AttendSchedule::Pause(uint64_t job, base::Duration used, bool again) {
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return;
  const base::Duration beyond = used - kTurn;
  flows_.at(found->second.flow).start += again ? beyond : std::max(beyond, base::Duration(0));
  Used(found->second, used);
}

void AttendSchedule::AddReady(uint64_t job, base::Time now) {
  Job& entry = jobs_.at(job);
  Flow& flow = flows_.at(entry.flow);
  if (flow.ready.empty()) flow.start = std::max(flow.start, virtual_now_);
  flow.ready.push_back(job);
  ++entry.waiting;
  ++ready_;
  if (measuring_) return;
  measuring_ = true;
  measured_from_ = now;
  measured_work_ = base::Duration(0);
  measured_jobs_ = 0;
}

// Until nobody waits any more: then threads may have nothing to do.
void AttendSchedule::MeasureShare(base::Duration took, base::Time now) {
  if (!measuring_) return;
  measured_work_ += took;
  if (++measured_jobs_ < kShareJobs || now <= measured_from_) return;
  const double newest = static_cast<double>(measured_work_.count()) /
                        (static_cast<double>((now - measured_from_).count()) * options_.threads);
  share_ += kNewestShare * (std::clamp(newest, kLeastShare, 1.0) - share_);
  measured_from_ = now;
  measured_work_ = base::Duration(0);
  measured_jobs_ = 0;
}

// With others waiting, time spent on it would be lost to them.
bool AttendSchedule::TooLate(const Job& job, base::Time now) const {
  return now >= job.deadline ||
         (jobs_.size() > 1 && now + ByThreads(job.work, job.threads) > job.deadline);
}

uint64_t AttendSchedule::Take(base::Time now, std::vector<uint64_t>* expired) {
  while (ready_ > 0) {
    auto next = flows_.end();
    for (auto entry = flows_.begin(); entry != flows_.end(); ++entry) {
      if (entry->second.ready.empty()) continue;
      if (next == flows_.end() || entry->second.start < next->second.start) next = entry;
    }
    const uint64_t id = next->second.ready.front();
    next->second.ready.pop_front();
    --ready_;
    Job& job = jobs_.at(id);
    --job.waiting;
    if (!job.taken && TooLate(job, now)) {
      expired->push_back(id);
      Forget(id);
      continue;
    }
    virtual_now_ = std::max(virtual_now_, next->second.start);
    next->second.start += job.taken ? kTurn : FirstTurn(job);
    job.taken = true;
    if (ready_ == 0) measuring_ = false;
    return id;
  }
  measuring_ = false;
  return 0;
}

void AttendSchedule::End(uint64_t job, const WorkTimes& took, base::Time now) {
  const auto found = jobs_.find(job);
  CHECK(found != jobs_.end()) << "job " << job << " is over already";
  times_.Measured(found->second.rows, took);
  base::Duration all{};
  for (const base::Duration each : took) all += each;
  // Threads that found nothing to do say nothing of what they get.
  if (all > base::Duration(0)) MeasureShare(all - found->second.used, now);
  Forget(job);
}

void AttendSchedule::Drop(uint64_t job) {
  const Job& entry = jobs_.at(job);
  CHECK(entry.taken && entry.used == base::Duration(0)) << "job " << job << " was worked on";
  flows_.at(entry.flow).start -= FirstTurn(entry);
  Forget(job);
}

base::Duration AttendSchedule::FirstTurn(const Job& job) {
  return std::min(job.work, job.threads * kTurn);
}

// A flow without jobs is remembered for as long as it is ahead of the others.
void AttendSchedule::Forget(uint64_t job) {
  const auto found = jobs_.find(job);
  Flow& flow = flows_.at(found->second.flow);
  if (found->second.waiting > 0) ready_ -= std::erase(flow.ready, job);
  if (!found->second.parked) flow.pending -= found->second.work;
  --flow.jobs;
  requests_.Give(found->second.flow, 1);
  jobs_.erase(found);
  if (flow.jobs > 0) return;
  std::erase_if(flows_, [this](const auto& entry) {
    return entry.second.jobs == 0 && (jobs_.empty() || entry.second.start <= virtual_now_);
  });
}

}  // namespace sounder::policy
