// What an Attend waits for before it is planned, and what it is refused for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "tests/kv_node/session/busy_executor.h"
#include "tests/kv_node/session/session_driver.h"

namespace sounder::kv_node {
namespace {

using ::testing::HasSubstr;

class PlanTest : public testing::Test {
 protected:
  void Append(uint64_t sequence, uint32_t layer, base::Position first, uint32_t rows) {
    const AppendResult done =
        driver_.Append(*session_, driver_.Item(*session_, sequence, layer, first, rows));
    EXPECT_TRUE(done.status.ok()) << done.status;
  }

  SessionDriver driver_;
  std::shared_ptr<Session> session_ = driver_.Open(SessionDriver::Spec(1));
};

// A request names the index and the row format of its session.
TEST_F(PlanTest, AnotherIndexOrRowFormatIsRefusedByName) {
  Append(1, 1, 0, 16);
  const auto sketched = driver_.Open(SessionDriver::SketchSpec(2));
  ASSERT_TRUE(driver_.Append(*sketched, driver_.Item(*sketched, 1, 1, 0, 16)).status.ok());
  const auto refusal = [&](Session& session, bool sampled,
                           const std::function<void(wire::AttendItem&)>& change) {
    wire::AttendItem item = driver_.Query(session, 1, 1, {0, 16}, sampled);
    change(item);
    const auto plan = driver_.Plan(session, item);
    driver_.RunFor(std::chrono::milliseconds(1));
    const absl::Status status = plan->has_value() ? (*plan)->status() : absl::UnknownError("none");
    EXPECT_TRUE(status.ok() || absl::IsFailedPrecondition(status)) << status;
    return status.ToString();
  };
  const auto int8 = [](wire::AttendItem& item) { item.row_format = wire::RowFormat::kInt8; };
  const auto appended = [](auto& item) { item.row_format = wire::RowFormat::kAsAppended; };
  const auto sketch = [](auto& item) { item.attention = wire::AttentionKind::kSketch; };
  const auto tables = [](auto& item) { item.attention = wire::AttentionKind::kLshTables; };
  const auto nothing = [](wire::AttendItem&) {};
  EXPECT_EQ(refusal(*session_, true, nothing), "OK");
  EXPECT_EQ(refusal(*sketched, true, nothing), "OK");
  EXPECT_EQ(refusal(*sketched, false, nothing), "OK") << "exact, of rows as appended";
  EXPECT_THAT(refusal(*session_, true, int8), HasSubstr("row format 'int8': session"));
  EXPECT_THAT(refusal(*session_, false, int8), HasSubstr("row format 'int8': session"));
  EXPECT_THAT(refusal(*sketched, true, appended), HasSubstr("wants rows as appended"));
  EXPECT_THAT(refusal(*session_, true, sketch),
              HasSubstr("has 6 LSH tables of 4 bits, the request wants 'sketch'"));
  EXPECT_THAT(refusal(*sketched, true, tables),
              HasSubstr("has sketches of 64 bits, the request wants 'lsh_tables'"));
  wire::SessionSpec bare = SessionDriver::Spec(3);
  bare.lsh = {};
  const auto none = driver_.Open(bare);
  ASSERT_TRUE(driver_.Append(*none, driver_.Item(*none, 1, 1, 0, 16)).status.ok());
  EXPECT_THAT(refusal(*none, false, sketch), HasSubstr("has no index, the request wants 'sketch'"));
  EXPECT_THAT(refusal(*sketched, true, [](auto& item) { item.layer = 0; }),
              HasSubstr("has no index; ask for exact"));
}

TEST_F(PlanTest, WaitsForRowsInFlight) {
  Append(1, 0, 0, 10);
  const auto plan = driver_.Plan(*session_, driver_.Query(*session_, 3, 0, {0, 30}));
  EXPECT_FALSE(plan->has_value());
  Append(2, 0, 10, 10);
  EXPECT_FALSE(plan->has_value());
  Append(3, 0, 20, 10);
  ASSERT_TRUE(plan->has_value());
  ASSERT_TRUE((*plan)->ok()) << (*plan)->status();
  EXPECT_EQ((**plan)->pieces.size(), 2u);
}

TEST_F(PlanTest, GivesUpAtItsDeadline) {
  Append(1, 0, 0, 10);
  const auto plan = driver_.Plan(*session_, driver_.Query(*session_, 2, 0, {0, 10}),
                                 std::chrono::milliseconds(300));
  driver_.RunFor(std::chrono::milliseconds(299));
  EXPECT_FALSE(plan->has_value());
  driver_.RunFor(std::chrono::milliseconds(2));
  ASSERT_TRUE(plan->has_value());
  EXPECT_EQ((*plan)->status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT((*plan)->status().ToString(), HasSubstr("rows in flight"));
  Append(2, 0, 10, 10);  // answers nobody twice
  driver_.RunFor(std::chrono::seconds(1));
}

TEST_F(PlanTest, EndsWithTheRefusalOfWhatItWaitsFor) {
  const auto plan = driver_.Plan(*session_, driver_.Query(*session_, 2, 0, {0, 10}));
  Append(1, 0, 0, 10);
  EXPECT_FALSE(driver_.Append(*session_, driver_.Item(*session_, 2, 0, 5, 10)).status.ok());
  ASSERT_TRUE(plan->has_value());
  EXPECT_EQ((*plan)->status().code(), absl::StatusCode::kAlreadyExists);
  const auto later = driver_.Plan(*session_, driver_.Query(*session_, 2, 0, {0, 10}));
  ASSERT_TRUE(later->has_value()) << "does not wait for what was refused";
  EXPECT_FALSE((*later)->ok());
  const auto earlier = driver_.Plan(*session_, driver_.Query(*session_, 1, 0, {0, 10}));
  ASSERT_TRUE(earlier->has_value());
  EXPECT_TRUE((*earlier)->ok()) << "asks only for what is there";
}

TEST(PlanIndexTest, WaitsForTheIndexOfWhatIsSealedThere) {
  base::VirtualExecutor time(1);
  BusyExecutor executor(&time);
  SessionMap map({}, &executor);
  const wire::SessionSpec spec = SessionDriver::Spec(1);
  ASSERT_TRUE(map.Open(spec).ok());
  const auto session = *map.Find(spec.session.id);
  SessionDriver driver;
  ASSERT_TRUE(driver.Append(*session, driver.Item(*session, 1, 1, 0, 40)).status.ok());
  const auto at = [&](base::PositionRange range, base::Position layout, bool sampled) {
    wire::AttendItem item = driver.Query(*session, 1, 1, range, sampled);
    item.layout_position = layout;
    return driver.Plan(*session, item, std::chrono::milliseconds(500));
  };
  const auto exact = at({0, 40}, 40, false);
  EXPECT_TRUE(exact->has_value()) << "exact attention needs no index";
  const auto tail = at({32, 40}, 40, true);
  EXPECT_TRUE(tail->has_value()) << "the tail has none";
  const auto before = at({0, 40}, 15, true);
  EXPECT_TRUE(before->has_value()) << "nothing was sealed at position 15";
  const auto first = at({0, 40}, 16, true);
  const auto second = at({0, 40}, 40, true);
  EXPECT_FALSE(first->has_value());
  EXPECT_FALSE(second->has_value());
  executor.GoOn();
  ASSERT_TRUE(first->has_value() && second->has_value());
  ASSERT_TRUE((*first)->ok() && (*second)->ok());
  for (const std::vector<Piece>& pieces : (**second)->pieces) {
    ASSERT_EQ(pieces.size(), 3u);
    EXPECT_NE(pieces[0].segment->index(), nullptr);
    EXPECT_NE(pieces[1].segment->index(), nullptr);
    EXPECT_TRUE(pieces[0].sealed && pieces[1].sealed && !pieces[2].sealed);
    EXPECT_FALSE((**first)->pieces[0][1].sealed);
  }

  ASSERT_TRUE(driver.Append(*session, driver.Item(*session, 2, 1, 40, 10)).status.ok());
  const auto late = at({0, 50}, 50, true);
  time.RunUntil([&] { return late->has_value(); });
  ASSERT_TRUE(late->has_value());
  EXPECT_EQ((*late)->status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT((*late)->status().ToString(), HasSubstr("being indexed"));

  // An index that is being built when its session ends.
  session->Close(absl::NotFoundError("gone"));
  EXPECT_GT(map.budget().used(), 0u) << "the build still holds its rows";
  executor.GoOn();
  (*exact).reset();
  (*tail).reset();
  (*before).reset();
  (*first).reset();
  (*second).reset();
  EXPECT_EQ(map.budget().used(), 0u);
}

TEST_F(PlanTest, SegmentsTooShortForAnIndexAreReadyToo) {
  wire::AppendItem item = driver_.Item(*session_, 1, 1, 0, 4);
  item.seal_after = true;
  ASSERT_TRUE(driver_.Append(*session_, item).status.ok());
  const auto plan = driver_.Plan(*session_, driver_.Query(*session_, 1, 1, {0, 4}, true));
  driver_.RunFor(std::chrono::milliseconds(1));
  ASSERT_TRUE(plan->has_value());
  ASSERT_TRUE((*plan)->ok()) << (*plan)->status();
  EXPECT_EQ((**plan)->pieces[0][0].segment->index(), nullptr);
}

TEST_F(PlanTest, MissingPositionsAreNamed) {
  const auto refusal = [&](base::PositionRange range) {
    const auto plan = driver_.Plan(
        *session_, driver_.Query(*session_, session_->Info().applied_sequence, 0, range));
    EXPECT_TRUE(plan->has_value());
    return plan->has_value() ? (*plan)->status() : absl::UnknownError("no answer");
  };
  EXPECT_THAT(refusal({0, 1}).ToString(), HasSubstr("position 0 is not held; held are [0, 0)"));
  EXPECT_TRUE(refusal({5, 5}).ok()) << "nothing was asked for";
  Append(1, 0, 0, 20);
  const absl::Status status = refusal({5, 25});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.ToString(), HasSubstr("positions [5, 25) were asked for"));
  EXPECT_THAT(status.ToString(), HasSubstr("position 20 is not held; held are [0, 20)"));
  EXPECT_THAT(status.ToString(), HasSubstr(session_->spec().session.id.ToString()));
  EXPECT_EQ(refusal({40, 41}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(refusal({0, 20}).ok());
}

TEST_F(PlanTest, QueriesThatDoNotFitAreRefused) {
  Append(1, 1, 0, 20);
  const wire::AttendItem good = driver_.Query(*session_, 1, 1, {0, 20}, true);
  const auto refusal = [&](const std::function<void(wire::AttendItem&)>& change) {
    wire::AttendItem item = good;
    change(item);
    const auto plan = driver_.Plan(*session_, item);
    driver_.RunFor(std::chrono::milliseconds(1));
    return plan->has_value() ? (*plan)->status() : absl::UnknownError("no answer");
  };
  using absl::StatusCode;
  EXPECT_TRUE(refusal([](auto&) {}).ok());
  EXPECT_EQ(refusal([](auto& item) { item.session.epoch = 3; }).code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(refusal([](auto& item) { item.layer = 9; }).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal([](auto& item) { item.head_dim = 24; }).code(), StatusCode::kInvalidArgument);
  const absl::Status group = refusal([](auto& item) { item.group = 4; });
  EXPECT_EQ(group.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(group.ToString(), HasSubstr("groups of 4; the session has"));
  EXPECT_EQ(refusal([](auto& item) { item.kv_head_count = 3; }).code(),
            StatusCode::kInvalidArgument);
  const absl::Status words = refusal([](auto& item) { item.signature_words = 2; });
  EXPECT_EQ(words.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(words.ToString(), HasSubstr("6 LSH tables of 4 bits"));
  const absl::Status layer = refusal([](auto& item) { item.layer = 0; });
  EXPECT_EQ(layer.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(layer.ToString(), HasSubstr("layer 0"));
  EXPECT_THAT(layer.ToString(), HasSubstr("ask for exact"));
}

TEST_F(PlanTest, NoMoreThanSoManyWait) {
  std::vector<SessionDriver::PlanAnswer> plans;
  const auto plan = [&](uint64_t sequence) {
    plans.push_back(driver_.Plan(*session_, driver_.Query(*session_, sequence, 0, {0, 10})));
    return plans.back();
  };
  for (int i = 0; i < 4096; ++i) plan(1);
  const auto refused = plan(1);
  ASSERT_TRUE(refused->has_value());
  EXPECT_EQ((*refused)->status().code(), absl::StatusCode::kResourceExhausted);
  bool acknowledged = false;
  session_->WhenCaughtUp(driver_.executor.clock().Now(), [&] { acknowledged = true; });
  EXPECT_TRUE(acknowledged);
  Append(1, 0, 0, 10);
  EXPECT_TRUE(plans.front()->has_value() && (*plans.front())->ok());
  EXPECT_FALSE(plan(2)->has_value()) << "there is room again";
}

TEST_F(PlanTest, CloseEndsWhatWaits) {
  const auto plan = driver_.Plan(*session_, driver_.Query(*session_, 5, 0, {0, 10}));
  const auto queued = driver_.Send(*session_, driver_.Item(*session_, 3, 0, 10, 10));
  session_->Close(absl::UnavailableError("the node is shutting down"));
  ASSERT_TRUE(plan->has_value() && queued->has_value());
  EXPECT_EQ((*plan)->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ((*queued)->status.code(), absl::StatusCode::kUnavailable);
  const auto later = driver_.Plan(*session_, driver_.Query(*session_, 0, 0, {0, 0}));
  ASSERT_TRUE(later->has_value());
  EXPECT_EQ((*later)->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(driver_.Append(*session_, driver_.Item(*session_, 1, 0, 0, 1)).status.code(),
            absl::StatusCode::kUnavailable);
  driver_.RunFor(std::chrono::seconds(5));
}

}  // namespace
}  // namespace sounder::kv_node
