// Who may read from a disk, in virtual time: a disk that serves all side by side, clients that ask
// more of it than it can read, and what becomes of their requests.
#include "common/policy/read_pace.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <map>
#include <vector>

#include "common/base/philox.h"

namespace sounder::policy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr base::Time kStart{};
constexpr uint64_t kMB = 1'000'000;

// A pace that knows its disk: a megabyte in a millisecond.
ReadPace Knowing() {
  ReadPace pace;
  for (int ms = 0; ms <= 200; ++ms) pace.Read(kMB, /*full=*/true, kStart + milliseconds(ms));
  return pace;
}

TEST(ReadPace, IsMeasuredWhileTheDiskIsFull) {
  ReadPace pace;
  for (int ms = 0; ms <= 200; ++ms) pace.Read(kMB, ms % 40 != 0, kStart + milliseconds(ms));
  EXPECT_EQ(pace.bytes_per_second(), 0) << "never for long enough";
  EXPECT_NEAR(Knowing().bytes_per_second(), 1e9, 1);
  pace = Knowing();
  for (int ms = 300; ms <= 400; ++ms) pace.Read(1000, false, kStart + milliseconds(ms));
  EXPECT_NEAR(pace.bytes_per_second(), 1e9, 1) << "it had nothing better to do";
  for (int ms = 500; ms <= 2000; ++ms) pace.Read(2 * kMB, true, kStart + milliseconds(ms));
  EXPECT_NEAR(pace.bytes_per_second(), 2e9, 1e7);
}

TEST(ReadPace, RefusesWhatWouldBeLateAndSaysWhenToComeAgain) {
  ReadPace pace = Knowing();
  const base::Time deadline = kStart + milliseconds(100);  // of which 70 are for reading
  // Of one flow, half of what there is time for: the other half is free for others.
  EXPECT_TRUE(pace.Offer(1, 30 * kMB, true, kStart, deadline).taken);
  const auto late = pace.Offer(1, 20 * kMB, true, kStart, deadline);
  EXPECT_FALSE(late.taken);
  EXPECT_EQ(late.wait, milliseconds(60));
  EXPECT_EQ(late.work, milliseconds(20));
  EXPECT_EQ(late.retry_after, milliseconds(10));
  EXPECT_EQ(pace.pending(), 30 * kMB);
  EXPECT_TRUE(pace.Offer(2, 20 * kMB, true, kStart, deadline).taken);
  EXPECT_FALSE(pace.Offer(3, 21 * kMB, true, kStart, deadline).taken);
  EXPECT_TRUE(pace.Offer(3, 21 * kMB, true, kStart, kStart + seconds(1)).taken);
  EXPECT_FALSE(pace.Offer(4, 1, true, kStart, kStart).taken) << "its time is over";
  pace.End(1, 30 * kMB);
  pace.End(2, 20 * kMB);
  pace.End(3, 21 * kMB);
  EXPECT_EQ(pace.pending(), 0u);
}

TEST(ReadPace, IsNotMeasuredOverAGap) {
  ReadPace pace = Knowing();
  EXPECT_TRUE(pace.Offer(1, kMB, false, kStart, kStart + seconds(1)).taken);
  pace.Read(kMB, true, kStart + milliseconds(200));
  pace.End(1, kMB);
  pace.Read(kMB, true, kStart + seconds(60));
  EXPECT_NEAR(pace.bytes_per_second(), 1e9, 1);
}

TEST(ReadPace, TakesEverythingWhereNothingWaits) {
  ReadPace pace = Knowing();
  EXPECT_TRUE(pace.Offer(1, 1000 * kMB, true, kStart, kStart + milliseconds(1)).taken)
      << "nothing is before it: so a wrong measurement heals";
  EXPECT_FALSE(pace.Offer(1, kMB, true, kStart, kStart + milliseconds(1)).taken);
  EXPECT_TRUE(pace.Offer(1, kMB, false, kStart, kStart + milliseconds(1)).taken);
  ReadPace unknown;
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(unknown.Offer(1, 1000 * kMB, true, kStart, kStart + milliseconds(1)).taken);
  }
}

// A disk of 1 GB/s, which is full from two requests on; each of its requests gets as much of it.
class SharedDisk {
 public:
  struct Outcome {
    int asked = 0, good = 0, refused = 0, late = 0;
    double share() const { return static_cast<double>(good) / asked; }
  };
  void Ask(FlowId flow, uint64_t bytes) {
    Outcome& outcome = outcomes[flow];
    ++outcome.asked;
    const base::Time deadline = now_ + seconds(1);
    if (pace.Offer(flow, bytes, full(), now_, deadline).taken) {
      jobs_.push_back({flow, bytes, static_cast<double>(bytes), deadline});
    } else {
      ++outcome.refused;
    }
  }
  void Run(base::Duration step) {
    now_ += step;
    const double each = static_cast<double>(step.count()) / static_cast<double>(jobs_.size());
    for (Job& job : jobs_) {
      const double read = std::min(job.left, each);  // a byte in a nanosecond
      job.left -= read;
      pace.Read(static_cast<uint64_t>(read), full(), now_);
      if (job.left > 0) continue;
      pace.End(job.flow, job.bytes);
      ++(now_ <= job.deadline ? outcomes[job.flow].good : outcomes[job.flow].late);
    }
    std::erase_if(jobs_, [](const Job& job) { return job.left <= 0; });
  }

  ReadPace pace;
  std::map<FlowId, Outcome> outcomes;

 private:
  struct Job {
    FlowId flow;
    uint64_t bytes;
    double left;
    base::Time deadline;
  };
  bool full() const { return jobs_.size() >= 2; }
  base::Time now_ = kStart;
  std::vector<Job> jobs_;
};

// Each flow asks so many times a second for 10 MB, of which the disk reads 100 times as much.
void Load(SharedDisk& disk, const std::vector<double>& per_second, int for_seconds) {
  base::PhiloxStream random(1, 0);
  for (int ms = 0; ms < 1000 * for_seconds; ++ms) {
    for (size_t flow = 0; flow < per_second.size(); ++flow) {
      if (random.NextUniform() * 1000 < per_second[flow]) disk.Ask(flow + 1, 10 * kMB);
    }
    disk.Run(milliseconds(1));
  }
}

TEST(ReadPace, AtThreeTimesWhatTheDiskReadsWhatIsTakenOnIsInTime) {
  SharedDisk disk;
  Load(disk, {75, 75, 75, 75}, 20);
  SharedDisk::Outcome sum;
  for (const auto& [flow, one] : disk.outcomes) {
    sum.good += one.good;
    sum.late += one.late;
    sum.refused += one.refused;
  }
  std::printf("%d good of 2000, %d late, %d refused\n", sum.good, sum.late, sum.refused);
  EXPECT_GT(sum.good, 1800);
  EXPECT_LT(sum.late, 150) << "before it knew its pace";
  EXPECT_GT(sum.refused, 3000);
}

TEST(ReadPace, WhoAsksForTooMuchLeavesOthersTheirPart) {
  SharedDisk disk;
  Load(disk, {900, 25}, 20);
  std::printf("%.3f and %.3f of what they asked for\n", disk.outcomes[1].share(),
              disk.outcomes[2].share());
  EXPECT_GT(disk.outcomes[2].share(), .9);
  EXPECT_GT(disk.outcomes[1].good, 1200);
}

TEST(ReadPace, BelowWhatTheDiskReadsHardlyAnythingIsRefused) {
  SharedDisk disk;
  Load(disk, {20, 20, 20}, 20);
  for (const auto& [flow, one] : disk.outcomes) EXPECT_GT(one.share(), .99) << flow;
}

}  // namespace
}  // namespace sounder::policy
