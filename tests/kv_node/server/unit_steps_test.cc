#include "kv_node/server/unit_steps.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <set>

#include "common/base/philox.h"

namespace sounder::kv_node {
namespace {

using Kind = UnitSteps::Kind;
using Left = UnitSteps::Left;

void ExpectStep(UnitSteps& steps, Kind kind, uint32_t unit) {
  const UnitSteps::Step step = steps.Next();
  EXPECT_EQ(step.kind, kind);
  EXPECT_EQ(step.unit, unit);
}

TEST(UnitStepsTest, ReadsBeginFirstAndWhatWasReadComesBeforeTheRest) {
  UnitSteps steps(100);
  steps.Start({7, 3}, {5, 6}, 1);
  ExpectStep(steps, Kind::kChoose, 7);
  EXPECT_TRUE(steps.TakeRoom(7, 40));
  ExpectStep(steps, Kind::kChoose, 3);  // it has nothing to read, and is attended now
  ExpectStep(steps, Kind::kAttend, 5);
  const uint32_t read[] = {7};
  EXPECT_EQ(steps.Arrived(read, 1), 0u) << "the one runner there may be is there";
  ExpectStep(steps, Kind::kAttend, 7);
  steps.GiveRoom(40);
  EXPECT_EQ(steps.Leave(), Left::kWork);
  ExpectStep(steps, Kind::kAttend, 6);
  ExpectStep(steps, Kind::kNone, 0);
  EXPECT_EQ(steps.Leave(), Left::kOver);
}

TEST(UnitStepsTest, RunnersLeaveAndAsManyComeBackAsThereIsWorkFor) {
  UnitSteps steps(100);
  steps.Start({1, 2, 3}, {}, 2);
  for (const uint32_t unit : {1u, 2u, 3u}) {
    ExpectStep(steps, Kind::kChoose, unit);
    EXPECT_TRUE(steps.TakeRoom(unit, 10));
  }
  EXPECT_EQ(steps.Leave(), Left::kWaits);
  EXPECT_EQ(steps.Leave(), Left::kWaits);
  const uint32_t first[] = {2}, others[] = {1, 3};
  EXPECT_EQ(steps.Arrived(first, 2), 1u);
  EXPECT_EQ(steps.Arrived(others, 2), 1u) << "one is on its way";
  for (int i = 0; i < 3; ++i) EXPECT_EQ(steps.Next().kind, Kind::kAttend);
  EXPECT_EQ(steps.Leave(), Left::kOver);
  EXPECT_EQ(steps.Leave(), Left::kOver);
}

TEST(UnitStepsTest, WhatHasNoRoomIsReadWhenThereIs) {
  UnitSteps steps(100);
  steps.Start({1, 2, 3}, {9}, 1);
  ExpectStep(steps, Kind::kChoose, 1);
  EXPECT_TRUE(steps.TakeRoom(1, 500)) << "alone it may be as large as it is";
  ExpectStep(steps, Kind::kAttend, 9);
  const uint32_t one[] = {1}, two[] = {2};
  steps.Arrived(one, 1);
  ExpectStep(steps, Kind::kAttend, 1);
  steps.GiveRoom(500);
  ExpectStep(steps, Kind::kChoose, 2);
  EXPECT_TRUE(steps.TakeRoom(2, 60));
  ExpectStep(steps, Kind::kChoose, 3);
  EXPECT_FALSE(steps.TakeRoom(3, 50));
  ExpectStep(steps, Kind::kNone, 0);
  EXPECT_EQ(steps.Leave(), Left::kWaits);
  EXPECT_EQ(steps.Arrived(two, 1), 1u);
  ExpectStep(steps, Kind::kAttend, 2);
  steps.GiveRoom(60);
  ExpectStep(steps, Kind::kRead, 3);
  const uint32_t three[] = {3};
  EXPECT_EQ(steps.Leave(), Left::kWaits);
  EXPECT_EQ(steps.Arrived(three, 1), 1u);
  ExpectStep(steps, Kind::kAttend, 3);
  steps.GiveRoom(50);
  EXPECT_EQ(steps.Leave(), Left::kOver);
}

// Runners and a disk in random order: every unit is attended once, within the bound, and nobody
// waits for something that does not come.
TEST(UnitStepsTest, EveryUnitIsAttendedOnceInAnyOrderOfEvents) {
  constexpr uint64_t kBound = 1000;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    base::PhiloxStream random(seed, 0);
    const uint32_t threads = 1 + random.NextBelow(3);
    std::vector<uint32_t> stored, in_memory;
    std::vector<uint64_t> bytes;
    for (uint32_t unit = 0; unit < 30; ++unit) {
      (random.NextBelow(3) > 0 ? stored : in_memory).push_back(unit);
      bytes.push_back(random.NextBelow(10) == 0 ? 0 : 1 + random.NextBelow(600));
    }
    if (random.NextBelow(4) == 0 && !stored.empty()) bytes[stored.front()] = 3 * kBound;
    UnitSteps steps(kBound);
    struct Runner {
      UnitSteps::Step step;
      bool working = false;
    };
    std::vector<Runner> runners(threads);
    steps.Start(stored, in_memory, threads);
    std::vector<uint32_t> reading;
    std::set<uint32_t> attended, has_room;
    uint64_t in_flight = 0;
    const auto take = [&](uint32_t unit) {
      in_flight += bytes[unit];
      EXPECT_TRUE(in_flight <= kBound || in_flight == bytes[unit]) << in_flight;
      has_room.insert(unit);
      reading.push_back(unit);
    };
    const auto attend = [&](uint32_t unit) {
      EXPECT_TRUE(attended.insert(unit).second) << unit << " twice";
      if (has_room.contains(unit)) {
        in_flight -= bytes[unit];
        steps.GiveRoom(bytes[unit]);
      }
    };
    while (attended.size() < 30) {
      const uint32_t pick = random.NextBelow(static_cast<uint32_t>(runners.size()) + 1);
      if (pick == runners.size()) {
        if (reading.empty()) {
          ASSERT_FALSE(runners.empty()) << "nothing will ever happen";
          continue;
        }
        const uint32_t which = random.NextBelow(static_cast<uint32_t>(reading.size()));
        const uint32_t arrived[] = {reading[which]};
        reading.erase(reading.begin() + which);
        runners.resize(runners.size() + steps.Arrived(arrived, threads));
        ASSERT_LE(runners.size(), threads);
        continue;
      }
      Runner& runner = runners[pick];
      if (!std::exchange(runner.working, !runner.working)) {
        runner.step = steps.Next();
        continue;
      }
      const uint32_t unit = runner.step.unit;
      switch (runner.step.kind) {
        case Kind::kNone:
          if (steps.Leave() != Left::kWork) runners.erase(runners.begin() + pick);
          break;
        case Kind::kChoose:
          if (bytes[unit] == 0) {
            attend(unit);
          } else if (steps.TakeRoom(unit, bytes[unit])) {
            take(unit);
          }
          break;
        case Kind::kRead:
          take(unit);
          break;
        case Kind::kAttend:
          attend(unit);
          break;
      }
    }
    EXPECT_EQ(in_flight, 0u);
  }
}

}  // namespace
}  // namespace sounder::kv_node
