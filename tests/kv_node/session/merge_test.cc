// Blocks that explicit seal marks divide: what becomes of their segments once they are complete.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/kv_node/session/branch_driver.h"
#include "tests/kv_node/session/tier_driver.h"

namespace sounder::kv_node {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

// "[0,6)s [6,9)s [9,16) ": what kv head 0 of layer 1 of the session consists of.
std::string Layout(SessionDriver& driver, Session& session, uint64_t sequence,
                   base::PositionRange range, base::Position position, bool sampled = true) {
  wire::AttendItem item = SessionDriver::Query(session, sequence, 0, range, sampled);
  item.layout_position = position;
  const auto plan = driver.Plan(session, item);
  if (!plan->has_value()) return "no answer";
  if (!(*plan)->ok()) return std::string((*plan)->status().message());
  std::string text;
  for (const Piece& piece : (**plan)->pieces[0]) {
    absl::StrAppend(&text, "[", piece.first_position + piece.row_begin, ",",
                    piece.first_position + piece.row_end, piece.sealed ? ")s " : ") ");
    for (int64_t row = piece.row_begin; row < piece.row_end; ++row) {
      if (piece.keys.At(row, 0) != SessionDriver::Element(0, piece.first_position + row)) {
        return absl::StrCat("wrong row at position ", piece.first_position + row);
      }
    }
  }
  return text;
}

// Seal marks at 8 and 12 of blocks of 16; sketches for segments of 4 rows.
class MergeTest : public testing::Test {
 protected:
  MergeTest() {
    wire::SessionSpec spec = SessionDriver::SketchSpec(1);
    spec.row_format = wire::RowFormat::kAsAppended;
    spec.min_indexed_rows = 4;
    spec.model.layers = 1;
    spec.indexed_layers = {0};
    session_ = driver_.Open(spec);
    Append(0, 8, true);
    Append(8, 4, true);
    Append(12, 2);
    driver_.RunFor(milliseconds(1));
  }
  absl::Status TryAppend(base::Position first, uint32_t rows, bool seal = false) {
    wire::AppendItem item = driver_.Item(*session_, sequence_ + 1, 0, first, rows);
    item.seal_after = seal;
    const absl::Status status = driver_.Append(*session_, item).status;
    if (status.ok()) ++sequence_;
    return status;
  }
  void Append(base::Position first, uint32_t rows, bool seal = false) {
    const absl::Status status = TryAppend(first, rows, seal);
    ASSERT_TRUE(status.ok()) << status;
  }
  absl::Status Truncate(base::Position position) {
    std::optional<AppendResult> cut;
    session_->Truncate(session_->spec().session, ++sequence_, position,
                       driver_.executor.clock().Now(),
                       [&](const AppendResult& result) { cut = result; });
    return cut.has_value() ? cut->status : absl::UnknownError("not answered at once");
  }
  std::string LayoutAt(base::Position position, bool sampled = true) {
    return Layout(driver_, *session_, sequence_, {0, end_}, position, sampled);
  }

  SessionDriver driver_;
  std::shared_ptr<Session> session_;
  uint64_t sequence_ = 0;
  base::Position end_ = 14;
};

TEST_F(MergeTest, ACompleteBlockIsOneSegment) {
  EXPECT_EQ(LayoutAt(14), "[0,8)s [8,12)s [12,14) ");
  Append(14, 10, /*seal=*/true);
  EXPECT_EQ(driver_.map.lane().merged_segments(), 3u * 2) << "of two heads";
  driver_.RunFor(milliseconds(1));
  EXPECT_EQ(Layout(driver_, *session_, sequence_, {0, 24}, 24), "[0,16)s [16,24)s ");
  EXPECT_EQ(Layout(driver_, *session_, sequence_, {3, 15}, 24), "[3,15)s ");
  EXPECT_EQ(session_->Counts().segments, 2u * 2);
  EXPECT_EQ(session_->Counts().rows, 24u * 2);
}

TEST_F(MergeTest, AtEarlierLayoutPositionsItIsAsItWas) {
  const auto expect_as_before = [&] {
    EXPECT_EQ(LayoutAt(14), "[0,8)s [8,12)s [12,14) ");
    EXPECT_EQ(LayoutAt(15), "[0,8)s [8,12)s [12,14) ");
    EXPECT_EQ(LayoutAt(11), "[0,8)s [8,12) [12,14) ");
    EXPECT_EQ(LayoutAt(7), "[0,8) [8,12) [12,14) ");
    EXPECT_EQ(LayoutAt(14, /*sampled=*/false), "[0,8) [8,12) [12,14) ");
    EXPECT_EQ(LayoutAt(16), "[0,14)s ");
    EXPECT_EQ(LayoutAt(16, /*sampled=*/false), "[0,14)s ");
  };
  Append(14, 2);
  driver_.RunFor(milliseconds(1));
  const uint64_t used = driver_.map.budget().used();
  expect_as_before();
  for (int i = 0; i < 40; ++i) {
    Append(16 + i, 1);
    driver_.RunFor(milliseconds(1));
    expect_as_before();
  }
  for (int i = 0; i < 5; ++i) Append(56 + i, 1);  // nobody wants the parts any more
  EXPECT_LT(driver_.map.budget().used(), used + 2 * 61 * 64) << "but for rows";
  EXPECT_EQ(LayoutAt(14), "no answer") << "indexes are built anew";
  driver_.RunFor(milliseconds(1));
  expect_as_before();
  driver_.RunFor(milliseconds(1));
  EXPECT_EQ(driver_.map.budget().used(), session_->Counts().reserved_bytes);
}

TEST_F(MergeTest, PartsAreKeptUntilWhatTheyBecameIsBuilt) {
  Append(14, 2);
  for (int i = 0; i < 8; ++i) Append(16 + i, 1);  // and no time for builds
  EXPECT_EQ(LayoutAt(14), "[0,8)s [8,12)s [12,14) ");
}

TEST_F(MergeTest, ACutIntoACompleteBlockBringsItsPartsBack) {
  for (const bool gone : {false, true}) {
    Append(14, 4);
    for (int i = 0; gone && i < 5; ++i) Append(18 + i, 1);
    driver_.RunFor(milliseconds(1));
    ASSERT_TRUE(Truncate(13).ok());
    end_ = 13;
    driver_.RunFor(milliseconds(1));
    EXPECT_EQ(LayoutAt(13), "[0,8)s [8,12)s [12,13) ") << gone;
    ASSERT_TRUE(Truncate(12).ok());
    end_ = 12;
    EXPECT_EQ(LayoutAt(12), "[0,8)s [8,12)s ") << gone;
    Append(12, 2);
    end_ = 14;
  }
  EXPECT_EQ(driver_.map.lane().merged_segments(), 2u * 3 * 2);
  Append(14, 3);
  ASSERT_TRUE(Truncate(4).ok());
  end_ = 4;
  EXPECT_EQ(LayoutAt(4), "[0,4) ");
  driver_.RunFor(milliseconds(1));
  EXPECT_EQ(driver_.map.budget().used(), session_->Counts().reserved_bytes);
}

TEST_F(MergeTest, AForkStartsWithWhatIsMerged) {
  Append(14, 4);
  const base::SessionId id{9, 9};
  driver_.map.Fork({{session_->spec().session, sequence_}, 18, id}, driver_.executor.clock().Now(),
                   [](const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; });
  driver_.RunFor(milliseconds(1));
  const auto child = *driver_.map.Find(id);
  EXPECT_EQ(Layout(driver_, *child, 0, {0, 18}, 18), "[0,16)s [16,18) ");
  EXPECT_EQ(Layout(driver_, *child, 0, {0, 12}, 12), "[0,8)s [8,12)s ");
}

TEST_F(MergeTest, AForkWithinACompleteBlockHasItsParts) {
  Append(14, 4);
  for (int i = 0; i < 5; ++i) Append(18 + i, 1);
  for (uint64_t number = 1; number <= 2; ++number) {
    const base::SessionId id{9, number};
    driver_.map.Fork({{session_->spec().session, sequence_}, 13, id},
                     driver_.executor.clock().Now(),
                     [](const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; });
    driver_.RunFor(milliseconds(1));
    const auto child = *driver_.map.Find(id);
    EXPECT_EQ(Layout(driver_, *child, 0, {0, 13}, 13), "[0,8)s [8,12)s [12,13) ");
    if (number == 2) {
      EXPECT_LT(child->Counts().reserved_bytes - child->Counts().shared_bytes, 2048u)
          << "the parts were made once";
    }
  }
  EXPECT_EQ(LayoutAt(23), "[0,14)s ") << "of the parent";
}

// What is refused for memory has merged nothing, of no head.
TEST(MergeMemoryTest, ARefusedMergeIsTriedAgain) {
  int refused = 0;
  for (uint64_t bytes = 20000; bytes < 60000; bytes += 64) {
    SCOPED_TRACE(bytes);
    SessionDriver driver(bytes);
    wire::SessionSpec spec = SessionDriver::Spec(1);
    spec.seal_rows = 64;
    if (!driver.map.Open(spec).ok()) continue;
    const auto session = *driver.map.Find(spec.session.id);
    uint64_t sequence = 0;
    absl::Status status;
    for (const auto& [first, rows] : std::vector<std::pair<int, uint32_t>>{{0, 30}, {30, 20}}) {
      wire::AppendItem item = driver.Item(*session, ++sequence, 1, first, rows);
      item.seal_after = true;
      if (status.ok()) status = driver.Append(*session, item).status;
    }
    if (!status.ok()) continue;
    const wire::AppendItem last = driver.Item(*session, 3, 1, 50, 14);
    status = driver.Append(*session, last).status;
    if (!status.ok()) {
      ++refused;
      ASSERT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
      EXPECT_EQ(driver.map.lane().merged_segments(), 0u);
      driver.RunFor(milliseconds(1));  // indexes give back what they do not need
      status = driver.Append(*session, last).status;
    }
    EXPECT_EQ(driver.map.lane().merged_segments(), status.ok() ? 3u * 2 : 0u);
    EXPECT_LE(driver.map.budget().used(), bytes);
    driver.RunFor(milliseconds(1));
    session->Close(absl::CancelledError("over"));
    driver.RunFor(milliseconds(1));
  }
  EXPECT_GT(refused, 20);
}

TEST(MergeTierTest, PartsThatAreNotInMemoryAreReadFirst) {
  TierDriver driver(uint64_t{8} << 20);
  const auto session = driver.Open(TierDriver::Spec(1));
  for (uint64_t i = 0; i < 3; ++i) {
    wire::AppendItem item =
        driver.Item(*session, i + 1, 0, static_cast<base::Position>(i) * 20, 20);
    item.seal_after = true;
    ASSERT_TRUE(driver.Append(*session, item).status.ok());
  }
  driver.RunFor(milliseconds(5));
  std::optional<absl::Status> spilled;
  driver.map.tiers()->Spill(session->Segments(), [&](absl::Status status) { spilled = status; });
  while (!spilled.has_value()) driver.executor.Step();
  ASSERT_TRUE(spilled->ok()) << *spilled;
  ASSERT_EQ(driver.map.tiers()->census().cold_segments, 3u * 2);
  const auto appended = driver.Send(*session, driver.Item(*session, 4, 0, 60, 30));
  EXPECT_FALSE(appended->has_value()) << "the rows are not there yet";
  while (!appended->has_value() && driver.executor.Step()) {
  }
  ASSERT_TRUE(appended->has_value());
  ASSERT_TRUE((*appended)->status.ok()) << (*appended)->status;
  EXPECT_EQ(driver.map.lane().merged_segments(), 4u * 2);
  for (uint32_t head = 0; head < 2; ++head) {
    const auto read = driver.Read(*session, 4, head, {0, 90});
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, TierDriver::Expected(head, {0, 90}));
  }
}

// Whoever comes after an append that was refused for rows that cannot be read starts anew.
TEST(MergeTierTest, WhatARefusedAppendHeldIsLetGo) {
  TierDriver driver(uint64_t{8} << 20);
  const auto session = driver.Open(TierDriver::Spec(1));
  const auto append = [&](uint64_t sequence, base::Position first, uint32_t rows, bool seal) {
    wire::AppendItem item = driver.Item(*session, sequence, 0, first, rows);
    item.seal_after = seal;
    const auto answer = driver.Send(*session, item);
    while (!answer->has_value() && driver.executor.Step()) {
    }
    return answer->has_value() ? (*answer)->status : absl::UnknownError("no answer");
  };
  ASSERT_TRUE(append(1, 0, 20, true).ok());
  ASSERT_TRUE(append(2, 20, 20, true).ok());
  driver.RunFor(milliseconds(5));
  std::optional<absl::Status> spilled;
  driver.map.tiers()->Spill(session->Segments(), [&](absl::Status status) { spilled = status; });
  while (!spilled.has_value()) driver.executor.Step();
  driver.disk->Arm(DiskFault::kReadError);
  EXPECT_EQ(append(3, 40, 30, false).code(), absl::StatusCode::kDataLoss);
  driver.RunFor(milliseconds(5));  // other reads end
  EXPECT_TRUE(append(3, 40, 1, true).ok()) << "needs none of them";
  EXPECT_TRUE(append(4, 41, 30, false).ok());
  for (uint32_t head = 0; head < 2; ++head) {
    const auto read = driver.Read(*session, 4, head, {0, 71});
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, TierDriver::Expected(head, {0, 71}));
  }
}

// Spills a session of 100 rows, marked at 20 and 40 of 64, whose parts are gone.
std::shared_ptr<Session> OpenSpilled(TierDriver& driver) {
  auto session = driver.Open(TierDriver::Spec(1));
  base::Position end = 0;
  uint64_t sequence = 0;
  for (const uint32_t rows : {20, 20, 56, 1, 1, 1, 1, 1}) {
    wire::AppendItem item = driver.Item(*session, ++sequence, 0, end, rows);
    item.seal_after = rows == 20;
    EXPECT_TRUE(driver.Append(*session, item).status.ok());
    end += rows;
    driver.RunFor(milliseconds(5));
  }
  std::optional<absl::Status> spilled;
  driver.map.tiers()->Spill(session->Segments(), [&](absl::Status status) { spilled = status; });
  while (!spilled.has_value()) driver.executor.Step();
  EXPECT_EQ(driver.map.tiers()->census().cold_segments, 2u);
  return session;
}

TEST(MergeTierTest, ACutReadsWhatItSplits) {
  TierDriver driver(uint64_t{8} << 20);
  const auto session = OpenSpilled(driver);
  std::optional<AppendResult> cut;
  session->Truncate(session->spec().session, 9, 50, driver.executor.clock().Now() + seconds(1),
                    [&](const AppendResult& result) { cut = result; });
  EXPECT_FALSE(cut.has_value()) << "the rows are not there yet";
  while (!cut.has_value() && driver.executor.Step()) {
  }
  ASSERT_TRUE(cut.has_value() && cut->status.ok());
  EXPECT_EQ(session->Counts().segments, 2u * 2) << "and a tail";
  const auto read = driver.Read(*session, 9, 1, {0, 50});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, TierDriver::Expected(1, {0, 50}));
}

TEST(MergeTierTest, AnAttendReadsWhatItSplits) {
  for (const bool fails : {false, true}) {
    TierDriver driver(uint64_t{8} << 20);
    const auto session = OpenSpilled(driver);
    wire::AttendItem item = driver.Query(*session, 8, 0, {0, 40}, /*sampled=*/true);
    if (fails) driver.disk->Arm(DiskFault::kReadError);
    const auto plan = driver.Plan(*session, item);
    EXPECT_FALSE(plan->has_value()) << "the rows are not there yet";
    while (!plan->has_value() && driver.executor.Step()) {
    }
    ASSERT_TRUE(plan->has_value());
    driver.RunFor(milliseconds(5));  // other reads end
    ASSERT_EQ((*plan)->ok(), !fails) << (*plan)->status();
    if (!fails) {
      EXPECT_EQ((**plan)->pieces[1].size(), 2u);
    }
  }
}

TEST(MergeTierTest, AForkReadsWhatItSplits) {
  for (const bool fails : {false, true}) {
    TierDriver driver(uint64_t{8} << 20);
    const auto session = OpenSpilled(driver);
    if (fails) driver.disk->Arm(DiskFault::kReadError);
    std::optional<absl::Status> forked;
    driver.map.Fork({{session->spec().session, 8}, 50, {7, 7}},
                    driver.executor.clock().Now() + seconds(1),
                    [&](const absl::Status& status) { forked = status; });
    EXPECT_FALSE(forked.has_value()) << "the rows are not there yet";
    while (!forked.has_value() && driver.executor.Step()) {
    }
    driver.RunFor(milliseconds(5));  // other reads end
    ASSERT_TRUE(forked.has_value());
    ASSERT_EQ(forked->ok(), !fails) << *forked;
    if (fails) continue;
    const auto read = driver.Read(**driver.map.Find({7, 7}), 0, 1, {0, 50});
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, TierDriver::Expected(1, {0, 50}));
  }
}

}  // namespace
}  // namespace sounder::kv_node
