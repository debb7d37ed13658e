#include "common/memory/huge_pages.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <vector>

namespace sounder::memory {
namespace {

constexpr size_t kPage = HugePages::kPageBytes;
constexpr size_t kMin = HugePages::kMinBytes;

// How many small pages of [data, data + bytes) are in memory.
size_t Resident(std::byte* data, size_t bytes) {
  std::vector<unsigned char> pages(bytes / 4096);
  EXPECT_EQ(mincore(data, bytes, pages.data()), 0);
  size_t count = 0;
  for (const unsigned char page : pages) count += page & 1;
  return count;
}

TEST(HugePagesTest, NeighboursShareAPageAndGapsAreFilledFirst) {
  HugePages pages(4 * kPage);
  std::byte* const a = pages.Allocate(kPage / 2);
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % kPage, 0u);
  std::byte* const b = pages.Allocate(kPage / 2);
  std::byte* const c = pages.Allocate(kPage);
  EXPECT_EQ(b, a + kPage / 2);
  EXPECT_EQ(c, a + kPage);
  pages.Free(a);
  EXPECT_EQ(pages.Allocate(kPage / 2), a);
  pages.Free(b);
  pages.Free(a);
  EXPECT_EQ(pages.Allocate(kPage), a) << "gaps beside each other are one";
  EXPECT_TRUE(pages.Owns(c + kPage - 1));
  EXPECT_FALSE(pages.Owns(a - 1));
  EXPECT_FALSE(pages.Owns(a + 4 * kPage));
}

TEST(HugePagesTest, WithoutRoomThereIsNone) {
  HugePages pages(2 * kPage);
  std::byte* const all = pages.Allocate(2 * kPage);
  ASSERT_NE(all, nullptr);
  EXPECT_EQ(pages.Allocate(kMin), nullptr);
  pages.Free(all);
  EXPECT_EQ(pages.Allocate(2 * kPage), all);
  HugePages none(0);
  EXPECT_EQ(none.Allocate(kMin), nullptr);
  EXPECT_FALSE(none.Owns(all));
  EXPECT_FALSE(none.Owns(nullptr));
}

TEST(HugePagesTest, MemoryGoesBackWhenNobodyIsLeftOnAPage) {
  HugePages pages(4 * kPage);
  std::byte* const a = pages.Allocate(kPage + kPage / 2);
  std::byte* const b = pages.Allocate(kPage / 2);
  std::memset(a, 1, kPage + kPage / 2);
  std::memset(b, 2, kPage / 2);
  EXPECT_EQ(Resident(a, 2 * kPage), 2 * kPage / 4096);
  pages.Free(a);
  EXPECT_EQ(Resident(a, kPage), 0u);
  EXPECT_EQ(b[0], std::byte{2}) << "the page it shared stays";
  EXPECT_EQ(b[kPage / 2 - 1], std::byte{2});
  pages.Free(b);
  EXPECT_EQ(Resident(a, 2 * kPage), 0u);
}

// Against a model: blocks never overlap, keep their contents, and all comes back.
TEST(HugePagesTest, RandomHistories) {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    HugePages pages(16 * kPage);
    std::mt19937 random(seed);
    std::map<std::byte*, size_t> blocks;
    for (int step = 0; step < 300; ++step) {
      if (random() % 2 == 0 && !blocks.empty()) {
        const auto victim = std::next(blocks.begin(), random() % blocks.size());
        ASSERT_EQ(victim->first[0], static_cast<std::byte>(victim->second / 64));
        ASSERT_EQ(victim->first[victim->second - 1], static_cast<std::byte>(victim->second / 64));
        pages.Free(victim->first);
        blocks.erase(victim);
        continue;
      }
      const size_t bytes = kMin + random() % (2 * kPage) / 64 * 64;
      std::byte* const data = pages.Allocate(bytes);
      if (data == nullptr) continue;
      const auto after = blocks.lower_bound(data);
      ASSERT_TRUE(after == blocks.end() || data + bytes <= after->first);
      ASSERT_TRUE(after == blocks.begin() ||
                  std::prev(after)->first + std::prev(after)->second <= data);
      data[0] = data[bytes - 1] = static_cast<std::byte>(bytes / 64);
      blocks.emplace(data, bytes);
    }
    for (const auto& [data, bytes] : blocks) pages.Free(data);
    EXPECT_NE(pages.Allocate(16 * kPage), nullptr) << "one piece again";
  }
}

TEST(HugePagesDeathTest, StopsOnBugs) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  HugePages pages(4 * kPage);
  std::byte* const a = pages.Allocate(kPage);
  EXPECT_DEATH(pages.Free(a + 64), "no block begins here");
  EXPECT_DEATH((void)pages.Allocate(64), "CHECK failed");
}

}  // namespace
}  // namespace sounder::memory
