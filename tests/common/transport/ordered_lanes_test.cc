#include "common/transport/ordered_lanes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/base/philox.h"

namespace sounder::transport {
namespace {

Message Numbered(uint8_t lane, uint8_t number) {
  return {{std::byte{lane}, std::byte{number}}, {}};
}

TEST(OrderedLanesTest, AnyArrivalOrderGivesTheOrderSent) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    base::PhiloxStream random(seed, 0);
    constexpr uint8_t kEach = 9;
    std::vector<std::pair<uint8_t, uint8_t>> arrivals;
    for (uint8_t lane = 0; lane < kLanes; ++lane) {
      for (uint8_t i = 0; i < kEach; ++i) arrivals.emplace_back(lane, i);
    }
    for (size_t i = arrivals.size() - 1; i > 0; --i) {
      std::swap(arrivals[i], arrivals[random.NextBelow(static_cast<uint32_t>(i + 1))]);
    }
    OrderedLanes lanes;
    std::vector<Message> out;
    for (const auto& [lane, number] : arrivals) {
      EXPECT_FALSE(lanes.TakenUpTo({kEach, kEach, kEach}));
      EXPECT_TRUE(lanes.Put(lane, number, Numbered(lane, number)));
      EXPECT_FALSE(lanes.Put(lane, number, Numbered(lane, 99))) << "twice";
      lanes.TakeReady(out);
      EXPECT_FALSE(lanes.Put(lane, number, Numbered(lane, 99))) << "twice, seed " << seed;
    }
    EXPECT_EQ(lanes.waiting(), 0u);
    EXPECT_TRUE(lanes.TakenUpTo({kEach, kEach, kEach}));
    EXPECT_FALSE(lanes.TakenUpTo({kEach, kEach + 1, kEach}));
    ASSERT_EQ(out.size(), kLanes * kEach);
    uint8_t next[kLanes] = {};
    for (const Message& message : out) {
      const auto lane = static_cast<uint8_t>(message.header[0]);
      EXPECT_EQ(static_cast<uint8_t>(message.header[1]), next[lane]++) << "seed " << seed;
    }
  }
}

TEST(OrderedLanesTest, CountsWhatWaits) {
  OrderedLanes lanes;
  const auto put = [&](uint64_t sequence) {
    return lanes.Put(0, sequence, {{}, memory::AlignedBuffer(100)});
  };
  std::vector<Message> out;
  EXPECT_TRUE(put(1) && put(2) && put(4));
  EXPECT_FALSE(put(4));
  lanes.TakeReady(out);
  EXPECT_EQ(lanes.waiting(), 3u);
  EXPECT_EQ(lanes.waiting_bytes(), 300u);
  EXPECT_TRUE(put(0));
  lanes.TakeReady(out);
  EXPECT_EQ(out.size(), 3u);
  EXPECT_EQ(lanes.waiting(), 1u);
  EXPECT_EQ(lanes.waiting_bytes(), 100u);
}

}  // namespace
}  // namespace sounder::transport
