// Operations of a session: their order, duplicates, refusals, and where they put seal marks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "tests/kv_node/session/session_driver.h"

namespace sounder::kv_node {
namespace {

using ::testing::HasSubstr;

// "[0,16) [16,20)t": runs of rows of one stream, t for the tail. Checks the rows too.
std::string LayoutOf(SessionDriver& driver, Session& session, uint32_t layer,
                     base::PositionRange range, base::Position layout_position = 1 << 20) {
  wire::AttendItem item = driver.Query(session, 0, layer, range);
  item.layout_position = layout_position;
  const auto plan = driver.Plan(session, item);
  if (!plan->has_value()) return "no answer";
  if (!(*plan)->ok()) return (*plan)->status().ToString();
  std::string text;
  for (size_t head = 0; head < (**plan)->pieces.size(); ++head) {
    std::string runs;
    for (const Piece& piece : (**plan)->pieces[head]) {
      const base::Position first = piece.first_position + piece.row_begin;
      runs += "[" + std::to_string(first) + "," + std::to_string(first + piece.rows()) + ")" +
              (piece.tail != nullptr ? "t" : "") + (piece.sealed ? "s" : "") + " ";
      for (int64_t row = piece.row_begin; row < piece.row_end; ++row) {
        const float wanted =
            SessionDriver::Element(static_cast<uint32_t>(head), piece.first_position + row);
        if (piece.keys.At(row, 0) != wanted || piece.values.At(row, 15) != wanted) {
          return "wrong row at position " + std::to_string(piece.first_position + row);
        }
      }
    }
    if (head > 0 && runs != text) return "heads differ: " + text + "and " + runs;
    text = runs;
  }
  return text;
}

class AppendTest : public testing::Test {
 protected:
  AppendResult Append(uint64_t sequence, base::Position first, uint32_t rows, bool seal = false) {
    wire::AppendItem item = driver_.Item(*session_, sequence, 0, first, rows);
    item.seal_after = seal;
    return driver_.Append(*session_, item);
  }
  std::string Layout(base::PositionRange range, base::Position layout_position = 1 << 20) {
    return LayoutOf(driver_, *session_, 0, range, layout_position);
  }

  SessionDriver driver_;
  std::shared_ptr<Session> session_ = driver_.Open(SessionDriver::Spec(1));
};

TEST_F(AppendTest, SealsAtMultiplesAndWhereTold) {
  EXPECT_TRUE(Append(1, 0, 40).status.ok());
  EXPECT_EQ(Layout({0, 40}), "[0,16)s [16,32)s [32,40)t ");
  EXPECT_TRUE(Append(2, 40, 5, /*seal=*/true).status.ok());
  EXPECT_EQ(Layout({0, 45}), "[0,16)s [16,32)s [32,45)s ");
  EXPECT_TRUE(Append(3, 45, 10).status.ok());
  EXPECT_EQ(Layout({30, 54}), "[30,32)s [32,48)s [48,54)t ") << "merged";
  EXPECT_EQ(session_->Counts().segments, 3u * 2);
  EXPECT_EQ(session_->Counts().rows, 55u * 2);
}

TEST_F(AppendTest, SealOfNothingIsNothing) {
  EXPECT_TRUE(Append(1, 0, 32, /*seal=*/true).status.ok());
  EXPECT_TRUE(Append(2, 32, 0, /*seal=*/true).status.ok());
  EXPECT_EQ(Layout({0, 32}), "[0,16)s [16,32)s ");
  EXPECT_EQ(Layout({7, 7}), "");
}

TEST_F(AppendTest, LayoutPositionDecidesWhatIsSealed) {
  EXPECT_TRUE(Append(1, 0, 40).status.ok());
  EXPECT_EQ(Layout({0, 40}, 40), "[0,16)s [16,32)s [32,40)t ");
  EXPECT_EQ(Layout({0, 40}, 32), "[0,16)s [16,32)s [32,40)t ");
  EXPECT_EQ(Layout({0, 40}, 31), "[0,16)s [16,32) [32,40)t ");
  EXPECT_EQ(Layout({0, 40}, 15), "[0,16) [16,32) [32,40)t ");
  EXPECT_TRUE(Append(2, 40, 10).status.ok());
  EXPECT_EQ(Layout({0, 40}, 40), "[0,16)s [16,32)s [32,40) ") << "sealed since, but not at 40";
}

TEST_F(AppendTest, RowsAreReportedOnceAndOnlyIfTheyWereTaken) {
  EXPECT_EQ(Append(1, 0, 40).rows, 80u);
  EXPECT_EQ(Append(1, 0, 40).rows, 0u) << "applied before";
  const auto first = driver_.Send(*session_, driver_.Item(*session_, 3, 0, 50, 5));
  const auto copy = driver_.Send(*session_, driver_.Item(*session_, 3, 0, 50, 5));
  EXPECT_EQ(Append(2, 40, 10).rows, 20u);
  EXPECT_EQ((*first)->rows + (*copy)->rows, 10u);
  EXPECT_EQ(Append(4, 30, 40).rows, 0u) << "refused";
}

TEST_F(AppendTest, AnyChunksGiveTheSameSegments) {
  Append(1, 0, 100);
  const std::string once = Layout({0, 100});
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(seed);
    base::PhiloxStream random(seed, 0);
    SessionDriver driver;
    const auto session = driver.Open(SessionDriver::Spec(2));
    uint64_t sequence = 0;
    for (base::Position at = 0; at < 100;) {
      const uint32_t rows =
          std::min<uint32_t>(1 + random.NextBelow(40), static_cast<uint32_t>(100 - at));
      ASSERT_TRUE(
          driver.Append(*session, driver.Item(*session, ++sequence, 0, at, rows)).status.ok());
      at += rows;
    }
    EXPECT_EQ(LayoutOf(driver, *session, 0, {0, 100}), once);
  }
}

TEST_F(AppendTest, OutOfOrderOperationsAreAppliedInOrder) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(seed);
    base::PhiloxStream random(seed, 0);
    SessionDriver driver;
    const auto session = driver.Open(SessionDriver::Spec(2));
    std::vector<uint64_t> order;
    for (uint64_t sequence = 1; sequence <= 20; ++sequence) {
      order.insert(order.begin() + random.NextBelow(static_cast<uint32_t>(order.size() + 1)),
                   sequence);
    }
    std::vector<std::shared_ptr<std::optional<AppendResult>>> answers;
    for (const uint64_t sequence : order) {
      const auto first = static_cast<base::Position>(5 * (sequence - 1));
      answers.push_back(driver.Send(*session, driver.Item(*session, sequence, 0, first, 5)));
    }
    for (const auto& answer : answers) {
      ASSERT_TRUE(answer->has_value());
      EXPECT_TRUE((*answer)->status.ok()) << (*answer)->status;
    }
    EXPECT_EQ(LayoutOf(driver, *session, 0, {0, 100}),
              "[0,16)s [16,32)s [32,48)s [48,64)s [64,80)s [80,96)s [96,100)t ");
    EXPECT_EQ(session->Info().applied_sequence, 20u);
  }
}

TEST_F(AppendTest, DuplicatesAreAppendResultWithoutEffect) {
  Append(1, 0, 10);
  Append(2, 10, 10);
  const AppendResult again = Append(1, 0, 10);
  EXPECT_TRUE(again.status.ok()) << again.status;
  EXPECT_EQ(again.applied_sequence, 2u);
  EXPECT_EQ(Layout({0, 20}), "[0,16)s [16,20)t ");
}

// A copy that arrives while the first waits must not be acknowledged before it is applied: the
// worker would forget rows that may never be.
TEST_F(AppendTest, ACopyOfAWaitingOperationIsAnsweredWithIt) {
  const auto first = driver_.Send(*session_, driver_.Item(*session_, 2, 0, 10, 10));
  const auto copy = driver_.Send(*session_, driver_.Item(*session_, 2, 0, 10, 10));
  EXPECT_FALSE(first->has_value());
  EXPECT_FALSE(copy->has_value());
  Append(1, 0, 10);
  ASSERT_TRUE(first->has_value() && copy->has_value());
  EXPECT_TRUE((*first)->status.ok() && (*copy)->status.ok());
  EXPECT_EQ((*copy)->applied_sequence, 2u);

  const auto late = driver_.Send(*session_, driver_.Item(*session_, 4, 0, 30, 10));
  const auto late_copy = driver_.Send(*session_, driver_.Item(*session_, 4, 0, 30, 10));
  driver_.RunFor(std::chrono::seconds(2));
  ASSERT_TRUE(late->has_value() && late_copy->has_value());
  EXPECT_EQ((*late)->status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ((*late_copy)->status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT((*late)->status.ToString(), HasSubstr("operation 3"));
}

TEST_F(AppendTest, TooManyWaitingOperationsDoNotShutOutTheMissingOne) {
  std::vector<std::shared_ptr<std::optional<AppendResult>>> answers;
  uint64_t sequence = 2;
  for (; answers.empty() || !answers.back()->has_value(); ++sequence) {
    ASSERT_LT(sequence, 100000u);
    answers.push_back(driver_.Send(
        *session_, driver_.Item(*session_, sequence, 0, static_cast<int64_t>(sequence) - 1, 1)));
  }
  EXPECT_EQ((*answers.back())->status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Append(1, 0, 1).status.ok());
  EXPECT_EQ(session_->Info().applied_sequence, sequence - 2);
}

TEST_F(AppendTest, OverlapsAreRefusedAlsoWhenTriedAgain) {
  Append(1, 0, 20);
  for (int attempt = 0; attempt < 2; ++attempt) {
    const AppendResult overlap = Append(2, 15, 10);
    EXPECT_EQ(overlap.status.code(), absl::StatusCode::kAlreadyExists) << overlap.status;
    EXPECT_THAT(overlap.status.ToString(), HasSubstr("position 15"));
    EXPECT_THAT(overlap.status.ToString(), HasSubstr("next one is 20"));
    EXPECT_EQ(overlap.applied_sequence, 1u);
  }
  EXPECT_EQ(Layout({0, 20}), "[0,16)s [16,20)t ");
  EXPECT_TRUE(Append(2, 20, 5).status.ok()) << "the right rows, under the same number";
}

TEST_F(AppendTest, GapsMustGoFromASealMarkToAMultiple) {
  Append(1, 0, 20);
  const AppendResult gap = Append(2, 32, 5);
  EXPECT_EQ(gap.status.code(), absl::StatusCode::kFailedPrecondition) << gap.status;
  EXPECT_THAT(gap.status.ToString(), HasSubstr("gap: the next position is 20"));
  EXPECT_TRUE(Append(2, 20, 12).status.ok());
  EXPECT_EQ(Append(3, 70, 5).status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Append(3, 64, 20).status.ok());
  EXPECT_EQ(Layout({64, 84}), "[64,80)s [80,84)t ");
  EXPECT_THAT(Layout({0, 84}), HasSubstr("position 32 is not held"));
  EXPECT_EQ(Layout({3, 32}), "[3,16)s [16,32)s ");
}

TEST_F(AppendTest, ARefusalRefusesWhatIsBehindIt) {
  Append(1, 0, 5);
  const auto behind = driver_.Send(*session_, driver_.Item(*session_, 3, 0, 10, 5));
  EXPECT_FALSE(Append(2, 3, 5).status.ok());
  ASSERT_TRUE(behind->has_value());
  EXPECT_EQ((*behind)->status.code(), absl::StatusCode::kAlreadyExists);
  const auto later = driver_.Send(*session_, driver_.Item(*session_, 4, 0, 15, 5));
  ASSERT_TRUE(later->has_value()) << "does not wait for what was refused";
  EXPECT_EQ((*later)->status.code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(AppendTest, WhatDoesNotFitTheSessionIsRefused) {
  const wire::AppendItem good = driver_.Item(*session_, 1, 0, 0, 4);
  const auto refusal = [&](const std::function<void(wire::AppendItem&)>& change) {
    wire::AppendItem item = good;
    change(item);
    return driver_.Append(*session_, item).status;
  };
  using absl::StatusCode;
  const absl::Status epoch = refusal([](auto& item) { item.session.epoch = 7; });
  EXPECT_EQ(epoch.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(epoch.ToString(), HasSubstr("is at epoch 0, the request at epoch 7"));
  const absl::Status dim = refusal([](auto& item) { item.head_dim = 8; });
  EXPECT_EQ(dim.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(dim.ToString(), HasSubstr("head dim 8"));
  EXPECT_THAT(dim.ToString(), HasSubstr("head dim 16"));
  const absl::Status dtype = refusal([](auto& item) { item.dtype = base::DType::kF32; });
  EXPECT_EQ(dtype.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(dtype.ToString(), HasSubstr("f32; the session has"));
  const absl::Status layer = refusal([](auto& item) { item.layer = 2; });
  EXPECT_EQ(layer.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(layer.ToString(), HasSubstr("layer 2"));
  const absl::Status heads = refusal([](auto& item) { item.kv_head_begin = 1; });
  EXPECT_EQ(heads.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(heads.ToString(), HasSubstr("kv heads [1, 3); this node holds [0, 2)"));
  EXPECT_EQ(refusal([](auto& item) { item.sequence = 0; }).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(refusal([](auto&) {}).ok());
}

}  // namespace
}  // namespace sounder::kv_node
