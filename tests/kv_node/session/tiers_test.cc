// Sessions larger than memory: what leaves it, what comes back, and that it is the same.
#include "kv_node/session/tiers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/kv_node/session/tier_driver.h"

namespace sounder::kv_node {
namespace {

using ::testing::HasSubstr;
constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint32_t kRows = 64;  // of an append, and of a segment

// Appends rows [begin, end) as operations from `sequence` on. What is refused for want of memory is
// sent again, as a worker does.
void Fill(TierDriver& driver, Session& session, base::Position begin, base::Position end,
          uint64_t sequence = 1) {
  int refused = 0;
  for (base::Position at = begin; at < end;) {
    const AppendResult result =
        driver.Append(session, driver.Item(session, sequence, 0, at, kRows));
    driver.RunFor(std::chrono::milliseconds(5));
    if (absl::IsResourceExhausted(result.status) && ++refused < 20) continue;
    ASSERT_TRUE(result.status.ok()) << at << ": " << result.status;
    at += kRows;
    ++sequence;
    refused = 0;
  }
}

TEST(TiersTest, ASessionFourTimesTheMemoryIsAllThere) {
  TierDriver driver(kMiB);
  const auto session = driver.Open(TierDriver::Spec(1));
  constexpr base::Position kEnd = 4096;  // 2 heads x 2 MiB
  Fill(driver, *session, 0, kEnd);
  EXPECT_LE(driver.map.budget().used(), kMiB);
  const TierCensus counts = driver.map.tiers()->census();
  EXPECT_GT(counts.warm_segments, 64u);
  EXPECT_GT(counts.hot_segments, 8u);
  EXPECT_EQ(counts.cold_segments, 0u) << "the indexes fit";
  EXPECT_EQ(counts.hot_segments + counts.warm_segments, session->Counts().segments);
  for (uint32_t head = 0; head < 2; ++head) {
    const auto read = driver.Read(*session, 64, head, {0, kEnd});
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, TierDriver::Expected(head, {0, kEnd}));
  }
}

TEST(TiersTest, WhatWasAttendedLastStaysAndWhatWasNotGoesFirst) {
  TierDriver driver(kMiB);
  const auto session = driver.Open(TierDriver::Spec(1));
  Fill(driver, *session, 0, 512);
  for (int i = 0; i < 12; ++i) {
    Fill(driver, *session, 512 + i * 64, 512 + (i + 1) * 64, 9 + static_cast<uint64_t>(i));
    ASSERT_TRUE(driver.Read(*session, 0, 0, {0, 64}).ok());
  }
  const auto segments = session->Segments();
  ASSERT_EQ(segments.size(), 2u * 20);
  EXPECT_EQ(segments[0]->residency(), Residency::kHot) << "attended all the time";
  EXPECT_EQ(segments[2]->residency(), Residency::kWarm) << "appended early, never attended";
  EXPECT_EQ(segments[19]->residency(), Residency::kHot) << "just appended";
}

TEST(TiersTest, IdleSessionsGetOutOfTheWayIndexesAndAll) {
  TierDriver driver(kMiB / 4);
  std::vector<std::shared_ptr<Session>> sessions;
  for (uint64_t number = 1; number <= 40; ++number) {
    sessions.push_back(driver.Open(TierDriver::Spec(number)));
    Fill(driver, *sessions.back(), 0, 128);
    driver.RunFor(std::chrono::milliseconds(20));
  }
  EXPECT_GT(driver.map.tiers()->census().cold_segments, 0u);
  for (const auto& session : sessions) {
    const auto read = driver.Read(*session, 2, 1, {0, 128});
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, TierDriver::Expected(1, {0, 128}));
    EXPECT_LE(driver.map.budget().used(), driver.map.budget().limit());
  }
}

TEST(TiersTest, PinnedSegmentsStay) {
  TierDriver driver(kMiB);
  const auto pinned = driver.Open(TierDriver::Spec(1));
  const auto other = driver.Open(TierDriver::Spec(2));
  Fill(driver, *pinned, 0, 256);
  pinned->Pin(std::chrono::hours(1), /*soft=*/false);
  Fill(driver, *other, 0, 2048);
  for (const auto& segment : pinned->Segments()) EXPECT_EQ(segment->residency(), Residency::kHot);
  pinned->Pin({}, /*soft=*/false);
  Fill(driver, *other, 2048, 4096, 33);
  EXPECT_EQ(pinned->Segments()[0]->residency(), Residency::kWarm);
}

TEST(TiersTest, SoftlyPinnedSegmentsLeaveLast) {
  TierDriver driver(kMiB);
  const auto pinned = driver.Open(TierDriver::Spec(1));
  const auto other = driver.Open(TierDriver::Spec(2));
  Fill(driver, *pinned, 0, 256);
  pinned->Pin(std::chrono::hours(1), /*soft=*/true);
  EXPECT_TRUE(pinned->Info().pinned_softly);
  Fill(driver, *other, 0, 2048);
  for (const auto& segment : pinned->Segments()) EXPECT_EQ(segment->residency(), Residency::kHot);
  // Nothing else is left that could.
  other->Pin(std::chrono::hours(1), /*soft=*/false);
  Fill(driver, *pinned, 256, 4096, 5);
  EXPECT_EQ(pinned->Segments()[0]->residency(), Residency::kWarm);
}

TEST(TiersTest, WhatIsAboutToDieIsNotWritten) {
  TierDriver driver(kMiB);
  wire::SessionSpec brief = TierDriver::Spec(1);
  brief.ttl_seconds = 60;
  const auto dying = driver.Open(brief);
  Fill(driver, *dying, 0, 256);
  driver.RunFor(std::chrono::seconds(56));
  const auto other = driver.Open(TierDriver::Spec(2));
  Fill(driver, *other, 0, 2048);
  for (const auto& segment : dying->Segments()) EXPECT_EQ(segment->stored(), nullptr);
  EXPECT_GT(driver.map.tiers()->counters().spilled_segments, 0u);
  dying->Touch();  // so it lives on
  Fill(driver, *other, 2048, 4096, 33);
  EXPECT_NE(dying->Segments()[0]->stored(), nullptr);
}

// Nothing can leave at first, and nobody else does anything.
TEST(TiersTest, WhoWaitsForRoomIsToldWhenItComes) {
  TierDriver driver(kMiB);
  const auto session = driver.Open(TierDriver::Spec(1));
  session->Pin(std::chrono::milliseconds(500), /*soft=*/false);
  uint64_t sequence = 0;
  for (absl::Status status; status.ok(); ++sequence) {
    const auto first = static_cast<base::Position>(sequence) * kRows;
    status = driver.Append(*session, driver.Item(*session, sequence + 1, 0, first, kRows)).status;
  }
  ASSERT_TRUE(driver.map.tiers()->scarce());
  bool told = false;
  session->WhenCaughtUp(driver.executor.clock().Now() + std::chrono::minutes(1),
                        [&] { told = true; });
  driver.RunFor(std::chrono::milliseconds(400));
  EXPECT_FALSE(told);
  driver.RunFor(std::chrono::milliseconds(400));
  EXPECT_TRUE(told);
  EXPECT_FALSE(driver.map.tiers()->scarce());
}

TEST(TiersTest, SpilledSegmentsComeBackWithWhatIsSampledFromThem) {
  TierDriver driver(8 * kMiB);
  wire::SessionSpec spec = TierDriver::Spec(1);
  spec.row_format = wire::RowFormat::kInt8;
  const auto session = driver.Open(spec);
  Fill(driver, *session, 0, 256);
  std::vector<std::vector<std::byte>> copies;
  for (const auto& segment : session->Segments()) {
    const auto bytes = segment->View().segment->copies();
    copies.emplace_back(bytes.begin(), bytes.end());
    ASSERT_FALSE(bytes.empty());
  }
  const uint64_t before = driver.map.budget().used();
  std::optional<absl::Status> spilled;
  driver.map.tiers()->Spill(session->Segments(), [&](absl::Status status) { spilled = status; });
  while (!spilled.has_value()) driver.executor.Step();
  EXPECT_TRUE(spilled->ok()) << *spilled;
  EXPECT_LT(driver.map.budget().used(), before / 4);
  EXPECT_EQ(driver.map.tiers()->census().cold_segments, 8u);
  int loaded = 0;
  for (const auto& segment : session->Segments()) {
    driver.map.tiers()->Load(segment, [&](const absl::Status& status) {
      EXPECT_TRUE(status.ok()) << status;
      ++loaded;
    });
  }
  while (loaded < 8) driver.executor.Step();
  EXPECT_EQ(driver.map.budget().used(), before);
  for (size_t i = 0; i < copies.size(); ++i) {
    const SegmentView view = session->Segments()[i]->View();
    EXPECT_TRUE(SameBytes(view.segment->copies(), copies[i]));
    ASSERT_NE(view.rows, nullptr);
    EXPECT_NE(view.segment->index(), nullptr);
  }
}

TEST(TiersTest, ACutOfASpilledSegmentIsCopiedFromTheStore) {
  TierDriver driver(8 * kMiB);
  const auto session = driver.Open(TierDriver::Spec(1));
  Fill(driver, *session, 0, 128);
  std::optional<absl::Status> spilled;
  driver.map.tiers()->Spill(session->Segments(), [&](absl::Status status) { spilled = status; });
  while (!spilled.has_value()) driver.executor.Step();
  std::optional<AppendResult> cut;
  session->Truncate(session->spec().session, 3, 100,
                    driver.executor.clock().Now() + TierDriver::kPatience,
                    [&](const AppendResult& result) { cut = result; });
  ASSERT_TRUE(cut.has_value() && cut->status.ok());
  const auto appended = driver.Send(*session, driver.Item(*session, 4, 0, 100, 28));
  const auto behind = driver.Send(*session, driver.Item(*session, 5, 0, 128, 64));
  EXPECT_FALSE(appended->has_value()) << "the rows are not there yet";
  while (!behind->has_value() && driver.executor.Step()) {
  }
  ASSERT_TRUE(appended->has_value() && behind->has_value());
  EXPECT_TRUE((*appended)->status.ok()) << (*appended)->status;
  EXPECT_TRUE((*behind)->status.ok()) << (*behind)->status;
  const auto read = driver.Read(*session, 5, 1, {0, 192});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, TierDriver::Expected(1, {0, 192}));
}

TEST(TiersTest, AFullDiskIsAFullMemoryUntilThereIsSpaceAgain) {
  TierDriver driver(kMiB);
  driver.disk->SetCapacity(0);
  const auto session = driver.Open(TierDriver::Spec(1));
  base::Position at = 0;
  uint64_t sequence = 1;
  AppendResult result;
  for (;; at += kRows, ++sequence) {
    result = driver.Append(*session, driver.Item(*session, sequence, 0, at, kRows));
    if (!result.status.ok()) break;
    driver.RunFor(std::chrono::milliseconds(5));
    ASSERT_LT(at, 4096);
  }
  EXPECT_EQ(result.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GT(driver.map.tiers()->counters().failed_writes, 0u);
  const auto read = driver.Read(*session, 0, 0, {0, at});
  ASSERT_TRUE(read.ok()) << "hot sessions go on: " << read.status();
  driver.disk->SetCapacity(uint64_t{1} << 40);
  driver.RunFor(std::chrono::seconds(1));
  Fill(driver, *session, at, at + 2048, sequence);
  const auto all = driver.Read(*session, 0, 1, {0, at + 2048});
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(*all, TierDriver::Expected(1, {0, at + 2048}));
}

TEST(TiersTest, ASegmentThatCannotBeReadFailsWhoAsksAndNobodyElse) {
  TierDriver driver(8 * kMiB);
  const auto session = driver.Open(TierDriver::Spec(1));
  Fill(driver, *session, 0, 128);
  auto segments = session->Segments();
  segments.resize(1);
  std::optional<absl::Status> spilled;
  driver.map.tiers()->Spill(segments, [&](absl::Status status) { spilled = status; });
  while (!spilled.has_value()) driver.executor.Step();
  driver.disk->Arm(DiskFault::kReadFlip);
  const auto broken = driver.Read(*session, 2, 0, {0, 128});
  EXPECT_EQ(broken.status().code(), absl::StatusCode::kDataLoss) << broken.status();
  EXPECT_THAT(broken.status().ToString(), HasSubstr("segment at 0"));
  EXPECT_EQ(*driver.Read(*session, 2, 0, {64, 128}), TierDriver::Expected(0, {64, 128}));
  // The next time the disk may do better.
  EXPECT_EQ(*driver.Read(*session, 2, 0, {0, 128}), TierDriver::Expected(0, {0, 128}));
}

TEST(TiersTest, SpaceComesBackWithTheSession) {
  TierDriver driver(kMiB);
  const auto session = driver.Open(TierDriver::Spec(1));
  Fill(driver, *session, 0, 2048);
  ASSERT_GT(driver.log->counts().live_bytes, kMiB / 4);
  session->Close(absl::NotFoundError("closed"));
  driver.RunFor(std::chrono::seconds(1));
  EXPECT_EQ(driver.log->counts().live_bytes, 0u);
  EXPECT_EQ(driver.store->counts().failed_frees, 0u);
}

}  // namespace
}  // namespace sounder::kv_node
