#include "kv_node/server/unit_steps.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <set>
#include <utility>
#include <vector>

#include "common/base/philox.h"

namespace sounder::kv_node {
namespace {

using Kind = UnitSteps::Kind;
using Left = UnitSteps::Left;
using testing::ElementsAre;

void ExpectStep(UnitSteps& steps, Kind kind, uint32_t unit,
                const ByteQuota::Granted& granted = nullptr) {
  const UnitSteps::Step step = steps.Next(granted);
  EXPECT_EQ(step.kind, kind);
  EXPECT_EQ(step.unit, unit);
}

TEST(ByteQuotaTest, WhoWaitsIsServedInOrderAndNotOvertaken) {
  ByteQuota quota(100);
  std::vector<int> granted;
  const auto grant = [&](int who) { return [&granted, who] { granted.push_back(who); }; };
  EXPECT_TRUE(quota.Take(60, grant(0)));
  EXPECT_FALSE(quota.Take(70, grant(1)));
  EXPECT_FALSE(quota.Take(10, grant(2))) << "there is room, but others wait";
  EXPECT_FALSE(quota.Take(20, grant(3)));
  EXPECT_FALSE(quota.Take(30, grant(4)));
  quota.Settle(60, 40);
  EXPECT_THAT(granted, ElementsAre());
  quota.Settle(40, 20);
  EXPECT_THAT(granted, ElementsAre(1, 2));
  EXPECT_EQ(quota.held(), 100u);
  quota.Give(70);
  EXPECT_THAT(granted, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(quota.held(), 80u);
}

TEST(ByteQuotaTest, WhatIsLargerThanTheLimitIsHadAlone) {
  ByteQuota quota(100);
  bool granted = false;
  EXPECT_TRUE(quota.Take(1, nullptr));
  EXPECT_FALSE(quota.Take(500, [&] { granted = true; }));
  quota.Give(1);
  EXPECT_TRUE(granted);
  EXPECT_EQ(quota.held(), 500u);
  quota.Settle(500, 700);
  granted = false;
  EXPECT_FALSE(quota.Take(1, [&] { granted = true; }));
  quota.Give(700);
  EXPECT_TRUE(granted);
}

TEST(UnitStepsTest, ReadsBeginFirstAndWhatWasReadComesBeforeTheRest) {
  ByteQuota quota(100);
  UnitSteps steps(&quota);
  steps.Start({{7, 40}, {3, 40}}, {5, 6}, 1);
  ExpectStep(steps, Kind::kChoose, 7);
  steps.Reads();
  ExpectStep(steps, Kind::kChoose, 3);  // it has nothing to read, and is attended now
  quota.Give(40);
  ExpectStep(steps, Kind::kAttend, 5);
  const uint32_t read[] = {7};
  EXPECT_EQ(steps.Arrived(read, 1), 0u) << "the one runner there may be is there";
  ExpectStep(steps, Kind::kAttend, 7);
  quota.Give(40);
  EXPECT_EQ(steps.Leave(), Left::kWork);
  ExpectStep(steps, Kind::kAttend, 6);
  ExpectStep(steps, Kind::kNone, 0);
  EXPECT_EQ(steps.Leave(), Left::kOver);
}

TEST(UnitStepsTest, RunnersLeaveAndAsManyComeBackAsThereIsWorkFor) {
  ByteQuota quota(100);
  UnitSteps steps(&quota);
  steps.Start({{1, 10}, {2, 10}, {3, 10}}, {}, 2);
  for (const uint32_t unit : {1u, 2u, 3u}) {
    ExpectStep(steps, Kind::kChoose, unit);
    steps.Reads();
  }
  EXPECT_EQ(steps.Leave(), Left::kWaits);
  EXPECT_EQ(steps.Leave(), Left::kWaits);
  const uint32_t first[] = {2}, others[] = {1, 3};
  EXPECT_EQ(steps.Arrived(first, 2), 1u);
  EXPECT_EQ(steps.Arrived(others, 2), 1u) << "one is on its way";
  for (int i = 0; i < 3; ++i) EXPECT_EQ(steps.Next(nullptr).kind, Kind::kAttend);
  EXPECT_EQ(steps.Leave(), Left::kOver);
  EXPECT_EQ(steps.Leave(), Left::kOver);
}

TEST(UnitStepsTest, WhatHasNoRoomIsChosenForWhenThereIs) {
  ByteQuota quota(100);
  UnitSteps steps(&quota), other(&quota);
  const auto granted = [&] { EXPECT_TRUE(steps.OnRoom()) << "nobody works on it"; };
  steps.Start({{1, 60}, {2, 60}, {4, 0}}, {9}, 1);
  other.Start({{3, 40}}, {}, 1);
  ExpectStep(other, Kind::kChoose, 3);
  ExpectStep(steps, Kind::kChoose, 1, granted);
  steps.Reads();
  ExpectStep(steps, Kind::kAttend, 9, granted);
  ExpectStep(steps, Kind::kNone, 0, granted);
  EXPECT_EQ(steps.Leave(), Left::kWaits);
  const uint32_t one[] = {1};
  EXPECT_EQ(steps.Arrived(one, 1), 1u);
  ExpectStep(steps, Kind::kAttend, 1, granted);
  EXPECT_EQ(steps.Leave(), Left::kWaits) << "for room, and nothing is being read";
  quota.Give(60);
  ExpectStep(steps, Kind::kChoose, 2, granted);
  quota.Give(60);
  ExpectStep(steps, Kind::kChoose, 4, granted);  // it needs none
  EXPECT_EQ(steps.Leave(), Left::kOver);
}

TEST(UnitStepsTest, ARunnerThatIsThereFindsTheRoom) {
  ByteQuota quota(100);
  UnitSteps steps(&quota);
  EXPECT_TRUE(quota.Take(100, nullptr));
  steps.Start({{1, 60}}, {9}, 1);
  const auto granted = [&] { EXPECT_FALSE(steps.OnRoom()); };
  ExpectStep(steps, Kind::kAttend, 9, granted);
  quota.Give(100);
  EXPECT_EQ(steps.Leave(), Left::kWork);
  ExpectStep(steps, Kind::kChoose, 1, granted);
}

// Attends with their runners, and a disk, in random order. Each unit that needs more than it asked
// for is one of a thread that chooses.
class Histories {
 public:
  static constexpr uint64_t kBound = 1000;
  static constexpr uint32_t kUnits = 20;
  static constexpr size_t kAttends = 4;

  // In some of them units are larger than the bound.
  explicit Histories(uint64_t seed)
      : random_(seed, 0), largest_(seed % 3 == 0 ? 3 * kBound : kBound) {
    for (size_t i = 0; i < kAttends; ++i) attends_.emplace_back(&quota_);
    for (size_t i = 0; i < kAttends; ++i) {
      Attend& attend = attends_[i];
      attend.granted = [this, &attend] { Granted(attend); };
      std::vector<UnitSteps::Stored> stored;
      std::vector<uint32_t> in_memory;
      for (uint32_t unit = 0; unit < kUnits; ++unit) {
        const uint64_t asked = random_.NextBelow(10) == 0 ? 0 : 1 + random_.NextBelow(600);
        attend.room.push_back(random_.NextBelow(30) == 0 ? largest_ : asked);
        if (random_.NextBelow(3) > 0) {
          stored.push_back({unit, attend.room.back()});
        } else {
          in_memory.push_back(unit);
        }
      }
      threads_.push_back(1 + random_.NextBelow(3));
      attend.runners.resize(threads_.back());
      attend.steps.Start(stored, in_memory, threads_.back());
    }
  }

  void Run() {
    for (int64_t step = 0; left_ > 0; ++step) {
      ASSERT_LT(step, 1'000'000) << "nothing will ever happen";
      const size_t which = random_.NextBelow(kAttends);
      Attend& attend = attends_[which];
      const uint32_t pick = random_.NextBelow(static_cast<uint32_t>(attend.runners.size()) + 1);
      if (pick < attend.runners.size()) {
        Step(attend, pick);
      } else if (!attend.reading.empty()) {
        Arrive(attend, threads_[which]);
      }
      ASSERT_LE(attend.runners.size(), threads_[which]);
      EXPECT_LE(quota_.held(), largest_ + beyond_);
    }
    EXPECT_EQ(quota_.held(), 0u);
    for (const Attend& attend : attends_) EXPECT_EQ(attend.attended.size(), kUnits);
  }

 private:
  struct Runner {
    UnitSteps::Step step;
    bool working = false;
  };
  struct Attend {
    explicit Attend(ByteQuota* quota) : steps(quota) {}
    UnitSteps steps;
    ByteQuota::Granted granted;
    std::vector<Runner> runners;
    std::vector<uint64_t> room;  // of each unit
    std::vector<uint32_t> reading;
    std::set<uint32_t> attended, chosen;
  };

  void Granted(Attend& attend) {
    if (attend.steps.OnRoom()) attend.runners.emplace_back();
  }
  void Arrive(Attend& attend, size_t threads) {
    const uint32_t which = random_.NextBelow(static_cast<uint32_t>(attend.reading.size()));
    const uint32_t arrived[] = {attend.reading[which]};
    attend.reading.erase(attend.reading.begin() + which);
    attend.runners.resize(attend.runners.size() + attend.steps.Arrived(arrived, threads));
  }
  void End(Attend& attend, uint32_t unit) {
    EXPECT_TRUE(attend.attended.insert(unit).second) << unit << " twice";
    --left_;
    if (!attend.chosen.contains(unit) || attend.room[unit] == 0) return;
    quota_.Give(attend.room[unit]);
  }
  void Choose(Attend& attend, uint32_t unit) {
    attend.chosen.insert(unit);
    if (random_.NextBelow(8) == 0) return End(attend, unit);  // it reads nothing
    const uint64_t needed = 1 + attend.room[unit] / (1 + random_.NextBelow(5));
    if (needed > attend.room[unit]) beyond_ += needed - attend.room[unit];
    quota_.Settle(attend.room[unit], needed);
    attend.room[unit] = needed;
    attend.steps.Reads();
    attend.reading.push_back(unit);
  }
  void Step(Attend& attend, uint32_t pick) {
    if (!std::exchange(attend.runners[pick].working, !attend.runners[pick].working)) {
      attend.runners[pick].step = attend.steps.Next(attend.granted);
      return;
    }
    const UnitSteps::Step step = attend.runners[pick].step;
    if (step.kind == Kind::kChoose) return Choose(attend, step.unit);
    if (step.kind == Kind::kAttend) return End(attend, step.unit);
    if (attend.steps.Leave() != Left::kWork) attend.runners.erase(attend.runners.begin() + pick);
  }

  base::PhiloxStream random_;
  const uint64_t largest_;
  ByteQuota quota_{kBound};
  std::deque<Attend> attends_;
  std::vector<uint32_t> threads_;
  size_t left_ = kAttends * kUnits;
  uint64_t beyond_ = 0;  // what they turned out to need beyond what they had asked for
};

// Every unit is attended once, within the bound, and nobody waits for what does not come.
TEST(UnitStepsTest, EveryUnitOfManyAttendsIsAttendedOnceInAnyOrderOfEvents) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    Histories(seed).Run();
    if (testing::Test::HasFailure()) break;
  }
}

}  // namespace
}  // namespace sounder::kv_node
