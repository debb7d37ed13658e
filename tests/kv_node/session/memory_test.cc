// The memory cap: what is accounted, that it is never passed, and that all of it comes back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <vector>

#include "common/base/philox.h"
#include "kv_node/sampler/lsh_tables_sampler.h"
#include "tests/kv_node/session/session_driver.h"

namespace sounder::kv_node {
namespace {

using ::testing::HasSubstr;
constexpr uint64_t kRowBytes = 16 * 2;  // of one head's keys, or values
const uint64_t kFixed = Session::FixedBytes(SessionDriver::Spec(1));

TEST(MemoryBudgetTest, RefusesWithTheNumbers) {
  MemoryBudget budget(100);
  EXPECT_TRUE(budget.Reserve(60).ok());
  const absl::Status full = budget.Reserve(41);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(full.ToString(), HasSubstr("41 more bytes wanted, 60 of 100 in use"));
  EXPECT_EQ(budget.Reserve(UINT64_MAX).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(budget.Reserve(40).ok());
  budget.Release(100);
  EXPECT_EQ(budget.used(), 0u);
}

TEST(MemoryTest, AccountsWhatIsThere) {
  SessionDriver driver;
  const auto session = driver.Open(SessionDriver::Spec(1));
  ASSERT_TRUE(driver.Append(*session, driver.Item(*session, 1, 0, 0, 20)).status.ok());
  const auto tail = driver.Plan(*session, driver.Query(*session, 1, 0, {16, 20}));
  ASSERT_TRUE(tail->has_value() && (*tail)->ok());
  const auto capacity = static_cast<uint64_t>((**tail)->pieces[0][0].tail->capacity);
  // Per head a segment of 16 rows and a tail.
  EXPECT_EQ(session->Counts().row_bytes, 2 * 2 * (16 + capacity) * kRowBytes);
  EXPECT_EQ(session->Counts().index_bytes, 0u);
  EXPECT_EQ(driver.map.budget().used(), kFixed + session->Counts().row_bytes);

  // Layer 1 is indexed: the room is reserved with the rows, what is not needed comes back.
  wire::AppendItem item = driver.Item(*session, 2, 1, 0, 12);
  item.seal_after = true;
  ASSERT_TRUE(driver.Append(*session, item).status.ok());
  const uint64_t reserved = driver.map.budget().used();
  driver.RunFor(std::chrono::milliseconds(1));
  const auto sampled = driver.Plan(*session, driver.Query(*session, 2, 1, {0, 12}, true));
  ASSERT_TRUE(sampled->has_value() && (*sampled)->ok());
  uint64_t index_bytes = 0;
  for (const auto& pieces : (**sampled)->pieces) index_bytes += pieces[0].segment->index_bytes();
  EXPECT_GT(index_bytes, 0u);
  EXPECT_EQ(session->Counts().index_bytes, index_bytes);
  EXPECT_LE(driver.map.budget().used(), reserved);
  EXPECT_EQ(driver.map.budget().used(), session->Counts().reserved_bytes);
  EXPECT_EQ(driver.map.budget().used(), kFixed + session->Counts().row_bytes + index_bytes);
}

// Copies of rows in eight bits are rows, and there is room for them when a segment is sealed.
TEST(MemoryTest, AccountsCopiesOfRows) {
  for (const bool copies : {false, true}) {
    SessionDriver driver;
    wire::SessionSpec spec = SessionDriver::SketchSpec(1);
    if (!copies) spec.row_format = wire::RowFormat::kAsAppended;
    const auto session = driver.Open(spec);
    ASSERT_TRUE(driver.Append(*session, driver.Item(*session, 1, 1, 0, 48)).status.ok());
    const uint64_t reserved = driver.map.budget().used();
    driver.RunFor(std::chrono::milliseconds(1));
    const auto plan = driver.Plan(*session, driver.Query(*session, 1, 1, {0, 48}, true));
    ASSERT_TRUE(plan->has_value() && (*plan)->ok());
    uint64_t index_bytes = 0;
    uint64_t copied = 0;
    for (const auto& pieces : (**plan)->pieces) {
      for (const Piece& piece : pieces) {
        index_bytes += piece.segment->index_bytes();
        copied += memory::AlignedBuffer::Allocated(piece.segment_rows->copies().size());
      }
    }
    // 3 segments of 2 heads: 16 rows of two scales and 2 x 16 elements each.
    EXPECT_EQ(copied, copies ? 3 * 2 * memory::AlignedBuffer::Allocated(16 * (8 + 32)) : 0);
    const SessionCounts counts = session->Counts();
    EXPECT_EQ(counts.row_bytes, 2 * 2 * 48 * kRowBytes + copied);
    EXPECT_EQ(counts.index_bytes, index_bytes);
    EXPECT_EQ(session->Info().row_bytes, counts.row_bytes);
    EXPECT_EQ(counts.reserved_bytes, kFixed + counts.row_bytes + index_bytes);
    EXPECT_EQ(driver.map.budget().used(), counts.reserved_bytes);
    EXPECT_LE(driver.map.budget().used(), reserved) << "was reserved with the rows";
  }
}

TEST(MemoryTest, AFailedAppendContinuesWhenThereIsRoom) {
  // Room for one large session, so that the second fails half way through its heads.
  const uint64_t cap = 40000 + 2 * kFixed;
  SessionDriver driver(cap);
  const auto first = driver.Open(SessionDriver::Spec(1));
  const auto second = driver.Open(SessionDriver::Spec(2));
  ASSERT_TRUE(driver.Append(*first, driver.Item(*first, 1, 0, 0, 200)).status.ok());
  wire::AppendItem item = driver.Item(*second, 1, 0, 0, 150);
  const std::vector<int32_t> tokens(150, 7);
  item.tokens = tokens;
  item.seal_after = true;
  const AppendResult full = driver.Append(*second, item);
  EXPECT_EQ(full.status.code(), absl::StatusCode::kResourceExhausted) << full.status;
  EXPECT_THAT(full.status.ToString(), HasSubstr("the node's memory is full"));
  EXPECT_THAT(full.status.ToString(), HasSubstr("of " + std::to_string(cap) + " in use"));
  EXPECT_GT(second->Counts().rows, 0u) << "this test wants a failure half way";
  EXPECT_LT(second->Counts().rows, 300u);
  EXPECT_LE(driver.map.budget().used(), cap);
  // The first session is unharmed, and goes on.
  const auto plan = driver.Plan(*first, driver.Query(*first, 1, 0, {0, 200}));
  ASSERT_TRUE(plan->has_value() && (*plan)->ok());
  *plan = std::nullopt;
  first->Close(absl::NotFoundError("closed"));
  const AppendResult retry = driver.Append(*second, item);
  EXPECT_TRUE(retry.status.ok()) << retry.status;
  EXPECT_EQ(retry.applied_sequence, 1u);
  EXPECT_GT(full.rows, 0u);
  EXPECT_EQ(full.rows + retry.rows, 300u);
  EXPECT_EQ(second->Counts().rows, 300u);
  EXPECT_EQ(second->Info().tokens, 150u);
  const auto all = driver.Plan(*second, driver.Query(*second, 1, 0, {0, 150}));
  ASSERT_TRUE(all->has_value() && (*all)->ok()) << (*all)->status();
  for (uint32_t head = 0; head < 2; ++head) {
    EXPECT_EQ((**all)->pieces[head].size(), 10u);
    for (const Piece& piece : (**all)->pieces[head]) {
      for (int64_t row = 0; row < piece.keys.rows; ++row) {
        ASSERT_EQ(piece.keys.At(row, 3),
                  base::RoundTo(base::DType::kBF16,
                                SessionDriver::Element(head, piece.first_position + row)));
      }
    }
  }
}

TEST(MemoryTest, AFailedAppendKeepsNothingOfWhatItDidNotTake) {
  SessionDriver driver(kFixed + 1500);
  const auto session = driver.Open(SessionDriver::Spec(1));
  // Layer 1 reserves index room too; the tail alone would fit, both do not.
  EXPECT_FALSE(driver.Append(*session, driver.Item(*session, 1, 1, 0, 16)).status.ok());
  EXPECT_EQ(session->Counts().rows, 0u);
  EXPECT_EQ(driver.map.budget().used(), session->Counts().reserved_bytes);
  EXPECT_EQ(driver.map.budget().used(), kFixed);
}

TEST(MemoryTest, AnOpenSessionIsAccountedBeforeItHasRows) {
  SessionDriver driver(2 * kFixed + 10);
  const auto first = driver.Open(SessionDriver::Spec(1));
  EXPECT_EQ(driver.map.budget().used(), kFixed);
  EXPECT_EQ(first->Counts().reserved_bytes, kFixed);
  wire::SessionSpec large = SessionDriver::Spec(2);
  large.model.layers = 1000;
  EXPECT_EQ(driver.map.Open(large).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(driver.map.budget().used(), kFixed);
  EXPECT_EQ(driver.map.size(), 1u);
  driver.Open(SessionDriver::Spec(2));
  driver.map.CloseAll(absl::UnavailableError("over"));
  EXPECT_EQ(driver.map.budget().used(), 0u);
}

TEST(MemoryTest, RowsThatWaitForEarlierOnesAreAccounted) {
  // Room for the rows that wait (128 bytes each, over two heads), and their tail later.
  SessionDriver driver(kFixed + 30000);
  const auto session = driver.Open(SessionDriver::Spec(1));
  const auto waits = driver.Send(*session, driver.Item(*session, 2, 0, 10, 150));
  EXPECT_FALSE(waits->has_value());
  EXPECT_EQ(driver.map.budget().used(), kFixed + 150 * 128);
  EXPECT_EQ(session->Counts().reserved_bytes, kFixed + 150 * 128);
  driver.Send(*session, driver.Item(*session, 2, 0, 10, 150));  // a copy takes nothing
  EXPECT_EQ(driver.map.budget().used(), kFixed + 150 * 128);
  const AppendResult full = driver.Append(*session, driver.Item(*session, 3, 0, 160, 100));
  EXPECT_EQ(full.status.code(), absl::StatusCode::kResourceExhausted) << full.status;
  EXPECT_FALSE(waits->has_value());
  // Their turn comes: they fit, because what they took while they waited is given back first.
  EXPECT_TRUE(driver.Append(*session, driver.Item(*session, 1, 0, 0, 10)).status.ok());
  ASSERT_TRUE(waits->has_value());
  EXPECT_TRUE((*waits)->status.ok()) << (*waits)->status;
  EXPECT_EQ(driver.map.budget().used(), kFixed + session->Counts().row_bytes);
  const auto plan = driver.Plan(*session, driver.Query(*session, 2, 0, {0, 160}));
  ASSERT_TRUE(plan->has_value() && (*plan)->ok());
  for (const Piece& piece : (**plan)->pieces[1]) {
    EXPECT_EQ(piece.values.At(piece.keys.rows - 1, 3),
              SessionDriver::Element(1, piece.first_position + piece.keys.rows - 1));
  }
  // Given back by a deadline and by a close, too.
  const auto late = driver.Send(*session, driver.Item(*session, 9, 0, 300, 10));
  driver.RunFor(std::chrono::seconds(2));
  EXPECT_TRUE(late->has_value());
  EXPECT_EQ(driver.map.budget().used(), kFixed + session->Counts().row_bytes);
  const auto closed = driver.Send(*session, driver.Item(*session, 9, 0, 300, 10));
  *plan = std::nullopt;
  session->Close(absl::NotFoundError("closed"));
  EXPECT_TRUE(closed->has_value());
  EXPECT_EQ(driver.map.budget().used(), 0u);
}

TEST(MemoryTest, TokensCount) {
  SessionDriver driver;
  const auto session = driver.Open(SessionDriver::Spec(1));
  wire::AppendItem item = driver.Item(*session, 1, 0, 0, 1000);
  const std::vector<int32_t> tokens(1000, 5);
  item.tokens = tokens;
  ASSERT_TRUE(driver.Append(*session, item).status.ok());
  EXPECT_EQ(session->Info().tokens, 1000u);
  EXPECT_GE(driver.map.budget().used(), session->Counts().row_bytes + 4000);
}

// Plans in flight keep memory, accounted, until they end, also when their session has gone.
TEST(MemoryTest, PlansInFlightAreAccounted) {
  SessionDriver driver;
  const auto session = driver.Open(SessionDriver::Spec(1));
  ASSERT_TRUE(driver.Append(*session, driver.Item(*session, 1, 0, 0, 20)).status.ok());
  const auto plan = driver.Plan(*session, driver.Query(*session, 1, 0, {0, 20}));
  ASSERT_TRUE(plan->has_value() && (*plan)->ok());
  const uint64_t used = driver.map.budget().used();
  session->Close(absl::NotFoundError("closed"));
  EXPECT_EQ(driver.map.budget().used(), used - kFixed);
  for (const auto& pieces : (**plan)->pieces) {
    for (const Piece& piece : pieces) {
      EXPECT_EQ(piece.keys.At(3, 0), piece.values.At(3, 1)) << "the rows are still there";
    }
  }
  *plan = std::nullopt;
  EXPECT_EQ(driver.map.budget().used(), 0u);
}

// A random history of several sessions under a tight cap.
void RandomHistory(uint64_t seed, uint64_t* refusals) {
  SCOPED_TRACE(seed);
  base::PhiloxStream random(seed, 0);
  const uint64_t cap = 20000 + 3 * kFixed + random.NextBelow(200000);
  SessionDriver driver(cap, seed);
  struct Open {
    std::shared_ptr<Session> session;
    uint64_t sequence[2] = {0, 0};
    base::Position end[2] = {0, 0};
    uint64_t operations = 0;
  };
  std::vector<Open> open;
  std::vector<SessionDriver::PlanAnswer> plans;
  uint64_t next_id = 1;
  for (int step = 0; step < 150; ++step) {
    const uint32_t action = random.NextBelow(10);
    if (open.empty() || action == 0) {
      wire::SessionSpec spec = random.NextBelow(3) == 0 ? SessionDriver::SketchSpec(next_id++)
                                                        : SessionDriver::Spec(next_id++);
      if (spec.lsh.num_tables > 0) spec.lsh.num_tables = random.NextBelow(2) * 6;
      if (spec.index() == wire::AttentionKind::kExact) spec.indexed_layers.clear();
      const absl::Status status = driver.map.Open(spec).status();
      if (status.ok()) {
        open.push_back({*driver.map.Find(spec.session.id), {0, 0}, {0, 0}, 0});
      } else {
        ASSERT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
        plans.clear();
        if (!open.empty()) {
          open.back().session->Close(absl::NotFoundError("closed"));
          open.pop_back();
        }
      }
      continue;
    }
    Open& one = open[random.NextBelow(static_cast<uint32_t>(open.size()))];
    if (action < 6) {
      const uint32_t layer = random.NextBelow(2);
      wire::AppendItem item = driver.Item(*one.session, one.operations + 1, layer, one.end[layer],
                                          1 + random.NextBelow(50));
      const std::vector<int32_t> tokens(item.row_count, 3);
      if (layer == 0) item.tokens = tokens;
      item.seal_after = random.NextBelow(3) == 0;
      const AppendResult done = driver.Append(*one.session, item);
      if (done.status.ok()) {
        ++one.operations;
        one.end[layer] += item.row_count;
      } else {
        // Half of it may be there; the session is of no more use, as its worker sees it.
        ASSERT_EQ(done.status.code(), absl::StatusCode::kResourceExhausted) << done.status;
        ++*refusals;
        one.session->Close(absl::NotFoundError("closed"));
        one = std::move(open.back());
        open.pop_back();
      }
    } else if (action < 8) {
      const base::Position end = one.end[1];
      const base::Position begin = random.NextBelow(static_cast<uint32_t>(end) + 1);
      plans.push_back(
          driver.Plan(*one.session, driver.Query(*one.session, one.operations, 1, {begin, end},
                                                 !one.session->spec().indexed_layers.empty())));
      if (plans.size() > 5) plans.erase(plans.begin());
    } else if (action == 8) {
      driver.RunFor(std::chrono::milliseconds(1));
    } else {
      one.session->Close(absl::NotFoundError("closed"));
      one = std::move(open.back());
      open.pop_back();
    }
    ASSERT_LE(driver.map.budget().used(), cap);
    uint64_t sum = 0;
    for (const Open& each : open) sum += each.session->Counts().reserved_bytes;
    ASSERT_GE(driver.map.budget().used(), sum);
    if (random.NextBelow(5) == 0) {
      plans.clear();
      driver.RunFor(std::chrono::milliseconds(1));
      sum = 0;
      for (const Open& each : open) sum += each.session->Counts().reserved_bytes;
      ASSERT_EQ(driver.map.budget().used(), sum) << "nothing is in flight at step " << step;
    }
  }
  driver.map.CloseAll(absl::UnavailableError("over"));
  plans.clear();
  open.clear();
  driver.RunFor(std::chrono::seconds(2));
  EXPECT_EQ(driver.map.budget().used(), 0u);
}

TEST(MemoryTest, RandomHistoriesStayBelowTheCapAndGiveAllBack) {
  uint64_t refusals = 0;
  for (uint64_t seed = 1; seed <= 100 && !testing::Test::HasFailure(); ++seed) {
    RandomHistory(seed, &refusals);
  }
  std::printf("%llu appends were refused\n", static_cast<unsigned long long>(refusals));
  EXPECT_GT(refusals, 50u);
}

}  // namespace
}  // namespace sounder::kv_node
