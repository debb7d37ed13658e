// Admission and turns in virtual time: a server of some threads, clients that ask more than it can
// do, and what becomes of their requests.
#include "common/policy/attend_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <vector>

#include "common/base/philox.h"
#include "common/base/virtual_executor.h"

namespace sounder::policy {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using Refusal = AttendSchedule::Refusal;

constexpr base::Time kStart{};

WorkRows Exact(int64_t rows) { return {rows, 0, 0}; }

// A schedule that knows what a row costs: a microsecond.
AttendSchedule Knowing(const ScheduleOptions& options) {
  AttendSchedule schedule(options);
  const auto first = schedule.Offer(1, Exact(100), 1, kStart, base::kNever);
  schedule.End(first.job, {microseconds(100), {}, {}}, kStart);
  return schedule;
}

TEST(ServiceTimes, AverageOverRequestsByKind) {
  ServiceTimes times;
  EXPECT_EQ(times.Estimate({100, 100, 100}), base::Duration(0));
  times.Measured({100, 0, 50}, {microseconds(100), microseconds(7), microseconds(5)});
  EXPECT_EQ(times.Estimate({10, 99, 10}), microseconds(11));
  for (int i = 0; i < 100; ++i) times.Measured(Exact(100), {microseconds(300), {}, {}});
  EXPECT_NEAR(times.nanos_per_row(0), 3000, 1);
  times.Measured(Exact(100), {});  // nothing was measured
  EXPECT_NEAR(times.nanos_per_row(0), 3000, 1);
  EXPECT_GT(times.Estimate({INT64_MAX, INT64_MAX, INT64_MAX}), base::Duration(0));
}

// What is refused when its turn has come (its rows would be read too late) took nobody's time.
TEST(AttendSchedule, AJobThatIsDroppedCostsNoTurn) {
  AttendSchedule schedule = Knowing({.threads = 1});
  std::vector<uint64_t> expired;
  const auto ready = [&](FlowId flow) {
    const uint64_t job =
        schedule.Offer(flow, Exact(1000), 1, kStart, kStart + milliseconds(999)).job;
    schedule.MakeReady(job, kStart);
    return job;
  };
  std::vector<uint64_t> jobs;
  for (int i = 0; i < 20; ++i) jobs.push_back(ready(1));
  const uint64_t other = ready(2);
  for (int i = 0; i < 19; ++i) {
    ASSERT_EQ(schedule.Take(kStart + microseconds(30 * i), &expired), jobs[static_cast<size_t>(i)]);
    schedule.Drop(jobs[static_cast<size_t>(i)]);
  }
  EXPECT_EQ(schedule.share(), 1);
  EXPECT_EQ(schedule.Take(kStart, &expired), jobs[19]) << "the other has not waited for anything";
  EXPECT_EQ(schedule.Take(kStart, &expired), other);
  EXPECT_TRUE(expired.empty());
}

TEST(AttendSchedule, RefusesWhatCannotBeInTimeAndSaysWhenToComeAgain) {
  AttendSchedule schedule = Knowing({.threads = 2});
  for (int i = 0; i < 8; ++i) {  // 8 ms of work for two threads
    EXPECT_NE(schedule.Offer(1, Exact(1000), 2, kStart, kStart + milliseconds(100)).job, 0u);
  }
  const auto admission = schedule.Offer(1, Exact(1000), 2, kStart, kStart + milliseconds(5));
  EXPECT_EQ(admission.job, 0u);
  EXPECT_EQ(admission.refusal, Refusal::kDeadline);
  EXPECT_EQ(admission.wait, milliseconds(4));
  EXPECT_EQ(admission.work, milliseconds(1));
  // 4 + .5 ms, where 70 % of 5 ms would do.
  EXPECT_EQ(admission.retry_after, milliseconds(1)) << "bounded from below";
  EXPECT_EQ(schedule.Offer(1, Exact(10000), 2, kStart, kStart + milliseconds(5)).retry_after,
            std::chrono::microseconds(5500));
  EXPECT_NE(schedule.Offer(1, Exact(1000), 2, kStart, kStart + milliseconds(7)).job, 0u);
  EXPECT_EQ(schedule.Offer(1, Exact(1), 1, kStart + milliseconds(9), kStart + milliseconds(9)).job,
            0u)
      << "late already";
}

TEST(AttendSchedule, AGlanceRefusesOnlyWhatWouldBeRefusedInAnyCase) {
  AttendSchedule schedule = Knowing({.threads = 2, .max_requests = 16});
  for (int i = 0; i < 4; ++i) schedule.Offer(1, Exact(2000), 2, kStart, base::kNever);
  // 4 ms of work before it, of which 70 % of its time must be left.
  const auto late = schedule.Glance(1, kStart, kStart + milliseconds(5));
  EXPECT_EQ(late.refusal, Refusal::kDeadline);
  EXPECT_EQ(late.wait, milliseconds(4));
  EXPECT_EQ(late.work, base::Duration(0));
  EXPECT_EQ(schedule.Offer(1, Exact(1), 2, kStart, kStart + milliseconds(5)).job, 0u);
  EXPECT_EQ(schedule.Glance(1, kStart, kStart + milliseconds(6)).refusal, Refusal::kNone);
  EXPECT_EQ(schedule.Offer(1, Exact(1000), 2, kStart, kStart + milliseconds(6)).job, 0u);
  for (int i = 0; i < 4; ++i) schedule.Offer(1, Exact(1), 2, kStart, base::kNever);
  EXPECT_EQ(schedule.Glance(1, kStart, base::kNever).refusal, Refusal::kFull);
  EXPECT_EQ(schedule.Glance(2, kStart, base::kNever).refusal, Refusal::kNone);
  EXPECT_EQ(schedule.admitted(), 8u) << "a glance takes nothing";
}

// Otherwise one wrong measurement would make a node refuse everything for ever.
TEST(AttendSchedule, AnIdleNodeTriesWhateverItBelieves) {
  AttendSchedule schedule = Knowing({.threads = 1});
  std::vector<uint64_t> expired;
  for (int i = 0; i < 60; ++i) {
    const auto admission = schedule.Offer(1, Exact(1000000), 1, kStart, kStart + milliseconds(1));
    ASSERT_NE(admission.job, 0u);
    schedule.MakeReady(admission.job, kStart);
    ASSERT_EQ(schedule.Take(kStart, &expired), admission.job);
    schedule.End(admission.job, {microseconds(100), {}, {}}, kStart);
  }
  EXPECT_LT(schedule.times().Estimate(Exact(1000000)), milliseconds(1));
}

TEST(AttendSchedule, ExpiredJobsArePassedOver) {
  AttendSchedule schedule = Knowing({.threads = 1});
  std::vector<uint64_t> jobs;
  for (const int deadline : {10, 20, 30}) {
    jobs.push_back(schedule.Offer(1, Exact(1000), 1, kStart, kStart + milliseconds(deadline)).job);
    schedule.MakeReady(jobs.back(), kStart);
  }
  std::vector<uint64_t> expired;
  // The second would end a moment too late.
  EXPECT_EQ(schedule.Take(kStart + microseconds(19001), &expired), jobs[2]);
  EXPECT_EQ(expired, (std::vector<uint64_t>{jobs[0], jobs[1]}));
  EXPECT_EQ(schedule.admitted(), 1u);
  schedule.End(jobs[2], {}, kStart);
  EXPECT_EQ(schedule.admitted(), 0u);
}

TEST(AttendSchedule, AFlowThatFillsTheQueueLeavesRoomForOthers) {
  AttendSchedule schedule({.threads = 1, .max_requests = 100});
  int taken = 0;
  while (schedule.Offer(1, Exact(1), 1, kStart, base::kNever).job != 0) ++taken;
  EXPECT_EQ(taken, 50);
  const auto refused = schedule.Offer(1, Exact(1), 1, kStart, base::kNever);
  EXPECT_EQ(refused.refusal, Refusal::kFull);
  EXPECT_GT(refused.retry_after, base::Duration(0));
  EXPECT_NE(schedule.Offer(2, Exact(1), 1, kStart, base::kNever).job, 0u);
}

TEST(AttendSchedule, NobodyWaitsForWhatWaitsForItsRows) {
  AttendSchedule schedule = Knowing({.threads = 1});
  const auto wait = [&] {
    const auto asked = schedule.Offer(2, Exact(100000), 1, kStart, base::kNever);
    schedule.End(asked.job, {}, kStart);
    return asked.wait;
  };
  const uint64_t job = schedule.Offer(1, Exact(1000), 1, kStart, base::kNever).job;
  EXPECT_EQ(wait(), milliseconds(1));
  schedule.Park(job);
  schedule.Park(job);
  EXPECT_EQ(wait(), milliseconds(0));
  schedule.MakeReady(job, kStart);
  EXPECT_EQ(wait(), milliseconds(1));
  schedule.Park(job);  // too late
  EXPECT_EQ(wait(), milliseconds(1));
  std::vector<uint64_t> expired;
  EXPECT_EQ(schedule.Take(kStart, &expired), job);
  schedule.End(job, {}, kStart);
  schedule.Park(job);  // over
  EXPECT_EQ(wait(), milliseconds(0));
  const uint64_t parked = schedule.Offer(1, Exact(1000), 1, kStart, base::kNever).job;
  schedule.Park(parked);
  schedule.End(parked, {}, kStart);
  EXPECT_EQ(wait(), milliseconds(0));
}

TEST(AttendSchedule, FlowsTakeTurnsByTheTimeTheyUse) {
  AttendSchedule schedule = Knowing({.threads = 1});
  const auto offer = [&](FlowId flow, int64_t rows, int count) {
    for (int i = 0; i < count; ++i) {
      schedule.MakeReady(schedule.Offer(flow, Exact(rows), 1, kStart, base::kNever).job, kStart);
    }
  };
  offer(1, 1000, 100);  // a huge backlog
  offer(2, 100, 50);
  std::vector<uint64_t> expired;
  std::map<bool, int> done;  // of the second flow
  for (int i = 0; i < 44; ++i) {
    const uint64_t job = schedule.Take(kStart, &expired);
    const bool second = job > 101;
    ++done[second];
    schedule.End(job, {}, kStart);
  }
  EXPECT_NEAR(done[false], 4, 1) << "4 ms of each";
  EXPECT_NEAR(done[true], 40, 1);
  // A newcomer is not paid for the time it was away, and waits for one turn.
  offer(3, 100, 1);
  int turns = 1;
  for (const uint64_t newcomer = 152; schedule.Take(kStart, &expired) != newcomer;) ++turns;
  EXPECT_LE(turns, 3);
}

// Turns of one thread on a job of 100 ms, and what comes in between. A turn is what a unit takes,
// if that is more.
TEST(AttendSchedule, ALongJobYieldsAndIsChargedForItsTurns) {
  for (const base::Duration turn : {kTurn, 3 * kTurn}) {
    AttendSchedule schedule = Knowing({.threads = 1});
    std::vector<uint64_t> expired;
    const auto offer = [&](FlowId flow, int64_t rows) {
      const uint64_t job = schedule.Offer(flow, Exact(rows), 1, kStart, base::kNever).job;
      schedule.MakeReady(job, kStart);
      return job;
    };
    const uint64_t block = offer(1, 100000);
    ASSERT_EQ(schedule.Take(kStart, &expired), block);
    for (int i = 0; i < 200; ++i) offer(2, 1000);
    ASSERT_TRUE(schedule.Yield(block, turn, kStart));
    int turns = 0;
    int steps = 0;
    while (turns < 6) {
      const uint64_t job = schedule.Take(kStart, &expired);
      if (job == block) {
        ++turns;
        ASSERT_TRUE(schedule.Yield(block, turn, kStart));
      } else {
        ++steps;
        schedule.End(job, {}, kStart);
      }
    }
    EXPECT_NEAR(steps, 6 * turn / milliseconds(1), turn / milliseconds(1) + 1)
        << "as much time of each";
  }
}

// A job that waits for a disk between short turns has as much of a thread as one that does not.
TEST(AttendSchedule, AJobThatPausesIsChargedForWhatItUsed) {
  AttendSchedule schedule = Knowing({.threads = 1});
  std::vector<uint64_t> expired;
  const auto offer = [&](FlowId flow, int64_t rows) {
    const uint64_t job = schedule.Offer(flow, Exact(rows), 1, kStart, base::kNever).job;
    schedule.MakeReady(job, kStart);
    return job;
  };
  const uint64_t stored = offer(1, 50);
  ASSERT_EQ(schedule.Take(kStart, &expired), stored);
  schedule.Pause(stored, microseconds(50), /*again=*/false);
  EXPECT_EQ(schedule.ready(), 0u) << "it takes no turn while it waits";
  for (int i = 0; i < 200; ++i) offer(2, 1000);
  base::Duration used{};
  base::Duration others{};
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(schedule.Yield(stored, {}, kStart));
    uint64_t job = 0;
    while ((job = schedule.Take(kStart, &expired)) != stored) {
      others += milliseconds(1);
      schedule.End(job, {}, kStart);
    }
    used += microseconds(500);
    schedule.Pause(stored, microseconds(500), /*again=*/true);
  }
  EXPECT_NEAR(static_cast<double>(others / milliseconds(1)), used / milliseconds(1), 2);
  schedule.End(stored, {used, {}, {}}, kStart);
  EXPECT_FALSE(schedule.Yield(stored, {}, kStart));
  schedule.Pause(stored, microseconds(1), true);  // another thread ended it: nothing happens
}

// By each thread that works on it.
TEST(AttendSchedule, AJobYieldsAsOftenAsItHasThreadsAndEndsWithAllOfIt) {
  AttendSchedule schedule = Knowing({.threads = 3});
  std::vector<uint64_t> expired;
  const base::Time deadline = kStart + milliseconds(50);
  const uint64_t block = schedule.Offer(1, Exact(60000), 3, kStart, deadline).job;
  schedule.MakeReady(block, kStart);
  ASSERT_EQ(schedule.Take(kStart, &expired), block);
  const auto wait = [&] {
    const auto asked = schedule.Offer(1, Exact(1000), 1, kStart, base::kNever);
    schedule.End(asked.job, {}, kStart);
    return asked.wait;
  };
  EXPECT_EQ(wait(), milliseconds(20));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(schedule.Yield(block, kTurn, kStart));
  EXPECT_EQ(wait(), milliseconds(16)) << "what is done is nobody's wait";
  EXPECT_EQ(schedule.ready(), 3u);
  EXPECT_EQ(schedule.Take(deadline + milliseconds(1), &expired), block)
      << "begun, it is never late";
  EXPECT_EQ(schedule.ready(), 2u);
  schedule.End(block, {milliseconds(60), {}, {}}, kStart);
  EXPECT_EQ(schedule.ready(), 0u);
  EXPECT_FALSE(schedule.Yield(block, kTurn, kStart));
  EXPECT_EQ(schedule.Take(kStart, &expired), 0u);
  EXPECT_TRUE(expired.empty());
  EXPECT_EQ(wait(), milliseconds(0));
}

// A long job that works all the time takes nothing from the share.
TEST(AttendSchedule, TurnsCountForTheShareAsTheyEnd) {
  AttendSchedule schedule = Knowing({.threads = 1});
  std::vector<uint64_t> expired;
  base::Time now = kStart;
  const auto offer = [&](FlowId flow, int64_t rows) {
    schedule.MakeReady(schedule.Offer(flow, Exact(rows), 1, now, base::kNever).job, now);
  };
  offer(1, 1000000);
  for (int i = 0; i < 100; ++i) offer(2, 1000);
  for (int i = 0; i < 60; ++i) {
    const uint64_t job = schedule.Take(now, &expired);
    if (job == 2) {
      now += kTurn;
      ASSERT_TRUE(schedule.Yield(job, kTurn, now));
    } else {
      now += milliseconds(1);
      schedule.End(job, {milliseconds(1), {}, {}}, now);
    }
  }
  EXPECT_GT(schedule.share(), 0.9);
}

// Coming back after every answer is no way around one's turn.
TEST(AttendSchedule, AFlowThatWasEmptyForAMomentKeepsItsPlace) {
  AttendSchedule schedule = Knowing({.threads = 1, .max_requests = 10000});
  std::vector<uint64_t> expired;
  std::map<FlowId, int> done;
  std::map<uint64_t, FlowId> flow_of;
  const auto offer = [&](FlowId flow, int64_t rows) {
    const uint64_t job = schedule.Offer(flow, Exact(rows), 1, kStart, base::kNever).job;
    flow_of[job] = flow;
    schedule.MakeReady(job, kStart);
  };
  for (int i = 0; i < 1000; ++i) offer(1, 100);
  offer(2, 1000);
  for (int i = 0; i < 110; ++i) {
    const uint64_t job = schedule.Take(kStart, &expired);
    const FlowId flow = flow_of[job];
    ++done[flow];
    schedule.End(job, {}, kStart);
    if (flow == 2) offer(2, 1000);
  }
  EXPECT_NEAR(done[2], 10, 1);
  EXPECT_NEAR(done[1], 100, 1);
}

// A server in virtual time. What a job really takes varies by the factor `spread` up and down.
class Server {
 public:
  explicit Server(const ScheduleOptions& options, uint64_t seed)
      : schedule_(options), threads_(options.threads), random_(seed, 5), executor_(seed) {}

  struct Counts {
    int asked = 0;
    int good = 0;  // in time
    int late = 0;  // done for nothing
    int refused = 0;
    int expired = 0;
    size_t most_admitted = 0;
  };
  // `flow` asks for jobs of 1,000 rows (about a millisecond) every `interval`, at random.
  void Load(FlowId flow, base::Duration interval, base::Duration deadline, base::Time end) {
    const double wait = -std::log(1 - random_.NextUniform());
    const base::Time when =
        executor_.clock().Now() +
        base::Duration(static_cast<int64_t>(wait * static_cast<double>(interval.count())));
    if (when >= end) return;
    executor_.RunAt(when, [=, this] {
      Ask(flow, deadline);
      Load(flow, interval, deadline, end);
    });
  }
  const std::map<FlowId, Counts>& Run() {
    executor_.RunUntil([] { return false; });
    EXPECT_EQ(schedule_.admitted(), 0u);
    return counts_;
  }
  double share() const { return schedule_.share(); }
  bool admit_all = false;       // a mutant of admission: whatever the deadline
  base::Duration unmeasured{};  // work of a thread beside each job

 private:
  struct Request {
    FlowId flow;
    base::Time deadline;
  };
  void Ask(FlowId flow, base::Duration deadline) {
    const base::Time now = executor_.clock().Now();
    Counts& counts = counts_[flow];
    ++counts.asked;
    const auto admission =
        schedule_.Offer(flow, Exact(1000), 1, now, admit_all ? base::kNever : now + deadline);
    counts.most_admitted = std::max(counts.most_admitted, schedule_.admitted());
    if (admission.job == 0) {
      ++counts.refused;
      return;
    }
    requests_[admission.job] = {flow, now + deadline};
    schedule_.MakeReady(admission.job, now);
    Work();
  }
  void Work() {
    while (busy_ < threads_) {
      std::vector<uint64_t> expired;
      const uint64_t job = schedule_.Take(executor_.clock().Now(), &expired);
      for (const uint64_t each : expired) ++counts_[requests_[each].flow].expired;
      if (job == 0) return;
      ++busy_;
      const base::Duration took(
          static_cast<int64_t>(1e6 * (0.5 + random_.NextUniform())));  // 1 ms in the mean
      executor_.RunAt(executor_.clock().Now() + took + unmeasured, [this, job, took] {
        const Request& request = requests_[job];
        Counts& counts = counts_[request.flow];
        ++(executor_.clock().Now() <= request.deadline ? counts.good : counts.late);
        schedule_.End(job, {took, {}, {}}, executor_.clock().Now());
        --busy_;
        Work();
      });
    }
  }

  AttendSchedule schedule_;
  const int threads_;
  int busy_ = 0;
  base::PhiloxStream random_;
  base::VirtualExecutor executor_;
  std::map<uint64_t, Request> requests_;
  std::map<FlowId, Counts> counts_;
};

Server::Counts Overload(double factor, int threads, uint64_t seed, bool admit_all = false) {
  Server server({.threads = threads, .max_requests = 1024}, seed);
  server.admit_all = admit_all;
  const auto interval = base::Duration(static_cast<int64_t>(4e6 / factor / threads));
  for (FlowId flow = 1; flow <= 4; ++flow) {
    server.Load(flow, interval, milliseconds(20), kStart + std::chrono::seconds(4));
  }
  Server::Counts all;
  for (const auto& [flow, counts] : server.Run()) {
    all.asked += counts.asked;
    all.good += counts.good;
    all.late += counts.late;
    all.refused += counts.refused;
    all.expired += counts.expired;
    all.most_admitted = std::max(all.most_admitted, counts.most_admitted);
  }
  return all;
}

TEST(AttendScheduleOverload, GoodputHoldsAtThreeTimesTheCapacity) {
  for (const int threads : {1, 4}) {
    for (const uint64_t seed : {1, 2}) {
      SCOPED_TRACE(testing::Message() << threads << " threads, seed " << seed);
      int peak = 0;
      for (const double factor : {0.9, 1.0, 2.0, 3.0}) {
        const Server::Counts counts = Overload(factor, threads, seed);
        std::printf(
            "threads %d load %.1f: asked %d good %d late %d refused %d expired %d, at most "
            "%zu admitted\n",
            threads, factor, counts.asked, counts.good, counts.late, counts.refused, counts.expired,
            counts.most_admitted);
        peak = std::max(peak, counts.good);
        EXPECT_EQ(counts.asked, counts.good + counts.late + counts.refused + counts.expired);
        EXPECT_LE(counts.late, counts.good / 50);
        EXPECT_LE(counts.most_admitted, 30u * static_cast<size_t>(threads));
        if (factor > 2.5) {
          EXPECT_GE(counts.good, 0.9 * peak);
        }
      }
      EXPECT_GE(peak, 0.9 * 4000 * threads);
      // The mutant: everything is admitted, and most of it is done for nothing or dropped.
      const Server::Counts mutant = Overload(3, threads, seed, /*admit_all=*/true);
      EXPECT_LT(mutant.good, 0.5 * peak);
    }
  }
}

// Threads that have other things to do.
TEST(AttendScheduleOverload, OtherWorkIsMeasuredToo) {
  Server server({.threads = 2, .max_requests = 1024}, 3);
  server.unmeasured = milliseconds(1);
  server.Load(1, microseconds(333), milliseconds(30), kStart + std::chrono::seconds(4));
  const Server::Counts counts = server.Run().at(1);  // 3 times the capacity of 1000 a second
  std::printf("asked %d good %d late %d refused %d expired %d, share %.2f\n", counts.asked,
              counts.good, counts.late, counts.refused, counts.expired, server.share());
  EXPECT_GE(counts.good, 0.9 * 4000);
  EXPECT_LE(counts.late + counts.expired, 0.1 * counts.asked);
  EXPECT_NEAR(server.share(), 0.5, 0.1);
}

TEST(AttendScheduleOverload, AGreedyClientStarvesNobody) {
  Server server({.threads = 1, .max_requests = 1024}, 3);
  const base::Time end = kStart + std::chrono::seconds(4);
  server.Load(1, microseconds(100), milliseconds(50), end);  // ten times the capacity
  server.Load(2, milliseconds(4), milliseconds(10), end);    // a quarter of it
  const auto counts = server.Run();
  const Server::Counts& modest = counts.at(2);
  std::printf("modest: asked %d good %d refused %d expired %d\n", modest.asked, modest.good,
              modest.refused, modest.expired);
  EXPECT_GE(modest.good, 0.97 * modest.asked);
  EXPECT_GE(counts.at(1).good, 0.65 * 4000) << "the rest is the greedy one's";
}

}  // namespace
}  // namespace sounder::policy
