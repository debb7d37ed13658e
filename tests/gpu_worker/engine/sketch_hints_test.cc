// What a sequence tells the nodes of its earlier steps.
#include "gpu_worker/engine/sketch_hints.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace sounder::gpu_worker {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// 2 kv heads of 2 query heads; 1,000 rows on the nodes, 200 of them attended exactly.
class SketchHintsTest : public testing::Test {
 protected:
  AttendQuery Ask(int64_t step) {
    AttendQuery query;
    query.range = {4, 1004};
    hints_.Ask(step, &query);
    return query;
  }
  // Answers the query with these lse, masses and concentrations, which go to Learn.
  void Answer(AttendQuery query, std::vector<float> lse, std::vector<float> mass,
              std::vector<float> concentration = {}) {
    query.lse = std::move(lse);
    query.head_mass = std::move(mass);
    query.concentration = std::move(concentration);
    query.rows_visible = 4 * 1000;
    query.rows_exact = 4 * 200;
    hints_.Learn(query);
  }
  static constexpr float kFlat = 1 / (.5f * 800);  // spread over half of the rows
  static constexpr float kPeaked = 1 / (.01f * 800);

  const SketchSampling sampling_ = {.rows = .03, .uniform_above = .2, .uniform_rows = .125};
  SketchHints hints_{sampling_, 2, 2};
};

TEST_F(SketchHintsTest, TheFirstStepKnowsNothing) {
  const AttendQuery query = Ask(0);
  EXPECT_EQ(query.attention, wire::AttentionKind::kSketch);
  EXPECT_EQ(query.rows_budget, .03f);
  EXPECT_EQ(query.rows_cap, 60u);
  EXPECT_EQ(query.lse_hints, nullptr);
  EXPECT_TRUE(query.want_concentration);
  for (int head = 0; head < 2; ++head) {
    EXPECT_EQ(query.head_hints[head].mean_size, 0);
    EXPECT_EQ(query.head_hints[head].uniform_fraction, 0);
  }
}

// Hints are of steps that resemble the next one: an lse that has just moved by much says little.
TEST_F(SketchHintsTest, AnLseIsPassedOnWhereItIsSteady) {
  Answer(Ask(1), {5, 6, -7, 8}, {3, 4});
  EXPECT_EQ(Ask(2).lse_hints, nullptr) << "nothing to compare with";
  Answer(Ask(2), {5.001f, 6.4f, -7.26f, 8.6f}, {3, 4});
  AttendQuery query = Ask(3);
  EXPECT_FALSE(query.want_concentration);
  ASSERT_NE(query.lse_hints, nullptr);
  EXPECT_EQ(query.lse_hints[0], 5) << "rounded to 1/64";
  EXPECT_EQ(query.lse_hints[1], 6.40625f);
  EXPECT_EQ(query.lse_hints[2], -1e30f) << "another one of the group moved";
  EXPECT_EQ(query.lse_hints[3], -1e30f);
  Answer(query, {9, 6.4f, -7.26f, 8.6f}, {3, 4});
  query = Ask(4);
  EXPECT_EQ(query.lse_hints[0], -1e30f);
  EXPECT_EQ(query.lse_hints[2], -7.265625f);
  Answer(query, {1, 1, 1, 1}, {3, 4});
  EXPECT_EQ(Ask(5).lse_hints, nullptr);
}

TEST_F(SketchHintsTest, SizesComeWithAnAnswerToSuchAHint) {
  Answer(Ask(1), {5, 6, -7, 8}, {3, 4});
  Answer(Ask(2), {5, 6, -7, 8}, {3, 4});
  AttendQuery query = Ask(3);
  ASSERT_NE(query.lse_hints, nullptr);
  EXPECT_EQ(query.head_hints[0].mean_size, 0) << "shares of what was not known";
  Answer(query, {5, 6, -7, 8}, {1.6f, 0.8f});
  query = Ask(4);
  EXPECT_EQ(query.head_hints[0].mean_size, base::RoundTo(base::DType::kBF16, 1.6f / 800));
  EXPECT_NEAR(query.head_hints[1].mean_size, 0.8 / 800, 1e-5);
  // No mass, nothing new.
  Answer(query, {5, 6, -7, 8}, {0, 2});
  query = Ask(5);
  EXPECT_NEAR(query.head_hints[0].mean_size, 1.6 / 800, 1e-5);
  EXPECT_NEAR(query.head_hints[1].mean_size, 2.0 / 800, 2e-5);
  // Not while the lse is not passed on.
  Answer(query, {5, 6, 0, 8}, {1.6f, 2});
  query = Ask(6);
  EXPECT_GT(query.head_hints[0].mean_size, 0);
  EXPECT_EQ(query.head_hints[1].mean_size, 0);
}

// Against an lse that was too high, all sizes came out too small.
TEST_F(SketchHintsTest, SizesAreCorrectedForTheLseTheyWereMeasuredBy) {
  Answer(Ask(1), {9, 9, 9, 9}, {1, 1});
  Answer(Ask(2), {9, 9, 9, 9}, {1, 1});
  Answer(Ask(3), {8.75f, 8.5f, 9.5f, 8.5f}, {1, 1});
  const AttendQuery query = Ask(4);
  EXPECT_NEAR(query.head_hints[0].mean_size, std::exp(.25) / 800, 1e-5);
  EXPECT_NEAR(query.head_hints[1].mean_size, 1.0 / 800, 1e-5) << "one of the group's was too low";
}

TEST_F(SketchHintsTest, WhatIsNoNumberIsNotPassedOn) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (int step = 1; step < 4; ++step) Answer(Ask(step), {-kInfinity, nan, 3, 3}, {1, 1e20f});
  AttendQuery query = Ask(4);
  EXPECT_EQ(query.lse_hints[0], -1e30f);
  EXPECT_EQ(query.lse_hints[1], -1e30f);
  EXPECT_EQ(query.lse_hints[2], 3);
  EXPECT_EQ(query.head_hints[1].mean_size, 1) << "a size is a share";
  Answer(Ask(16), {1, 1, 1, 1}, {1, 1}, {nan, kFlat, 0, kFlat});
  query = Ask(17);
  EXPECT_EQ(query.head_hints[0].uniform_fraction, 0);
  EXPECT_EQ(query.head_hints[1].uniform_fraction, 0) << "nothing was sampled";
}

TEST_F(SketchHintsTest, SpreadHeadsAreDrawnAlikeUntilTheNextMeasure) {
  Answer(Ask(16), {1, 1, 1, 1}, {1, 1}, {kFlat, kFlat, kFlat, kPeaked});
  for (int64_t step = 17; step < 32; ++step) {
    const AttendQuery query = Ask(step);
    EXPECT_EQ(query.head_hints[0].uniform_fraction, .125f) << step;
    EXPECT_EQ(query.head_hints[1].uniform_fraction, 0) << "not the whole group";
    EXPECT_EQ(hints_.drawn_alike(), 1);
    EXPECT_FALSE(query.want_concentration);
    Answer(query, {1, 1, 1, 1}, {0, 1});
  }
  const AttendQuery measured = Ask(32);
  EXPECT_TRUE(measured.want_concentration);
  EXPECT_EQ(measured.head_hints[0].uniform_fraction, 0);
  EXPECT_EQ(hints_.drawn_alike(), 0);
  Answer(measured, {1, 1, 1, 1}, {1, 1}, {kPeaked, kFlat, kFlat, kFlat});
  EXPECT_EQ(Ask(33).head_hints[0].uniform_fraction, 0);
  EXPECT_EQ(Ask(33).head_hints[1].uniform_fraction, .125f);
}

TEST_F(SketchHintsTest, NothingIsMeasuredWithoutAThreshold) {
  hints_ = SketchHints({.rows = .03, .uniform_above = 0, .uniform_rows = .125}, 2, 2);
  EXPECT_FALSE(Ask(0).want_concentration);
  EXPECT_FALSE(Ask(16).want_concentration);
}

// Where a node failed, or none sampled, the lse is not that of the sampled rows.
TEST_F(SketchHintsTest, AnAnswerThatIsNotWholeIsForgotten) {
  Answer(Ask(1), {1, 1, 1, 1}, {1, 1});
  Answer(Ask(2), {1, 1, 1, 1}, {1, 1});
  AttendQuery failed = Ask(3);
  EXPECT_NE(failed.lse_hints, nullptr);
  failed.status = absl::UnavailableError("gone");
  Answer(failed, {1, 1, 1, 1}, {1, 1});
  EXPECT_EQ(Ask(4).lse_hints, nullptr);
}

}  // namespace
}  // namespace sounder::gpu_worker
