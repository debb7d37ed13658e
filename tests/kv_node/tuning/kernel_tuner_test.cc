#include "kv_node/tuning/kernel_tuner.h"

#include <gtest/gtest.h>

#include <chrono>

#include "kv_node/tuning/kernel_trials.h"

namespace sounder::kv_node {
namespace {

TEST(KernelTunerTest, TriesEveryFieldAndExplainsItsChoice) {
  const TuningReport report = TuneKernels(std::chrono::minutes(5));
  ASSERT_TRUE(report.finished);
  ASSERT_EQ(report.trials.size(), kernels::ScheduleFields().size());
  kernels::KernelSchedule expected;
  for (size_t i = 0; i < report.trials.size(); ++i) {
    const FieldTrial& trial = report.trials[i];
    const kernels::ScheduleField& field = kernels::ScheduleFields()[i];
    EXPECT_EQ(trial.field, field.name);
    EXPECT_EQ(trial.before, kernels::KernelSchedule().*field.value);
    EXPECT_NE(trial.best_other, trial.before);
    if (trial.chosen != trial.before) {
      EXPECT_EQ(trial.chosen, trial.best_other);
      EXPECT_GT(trial.gain, 1 + kTuningMargin);
    }
    expected.*field.value = trial.chosen;
  }
  EXPECT_EQ(report.schedule, expected);
  EXPECT_GT(report.int8_over_appended, 0);
}

TEST(KernelTunerTest, WithoutTimeItKeepsTheDefaults) {
  const TuningReport report = TuneKernels(base::Duration(0));
  EXPECT_FALSE(report.finished);
  EXPECT_TRUE(report.trials.empty());
  EXPECT_EQ(report.schedule, kernels::KernelSchedule());
}

// What is timed is the kernel that a schedule is handed to: a schedule far worse than the default
// shows. (One value at a time against one: a factor, not a time.)
TEST(KernelTrialsTest, ABadScheduleIsSlower) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "times mean nothing under a sanitizer";
#endif
  KernelTrials trials;
  kernels::KernelSchedule bad;
  bad.sampled_tile_rows = 1;
  bad.sampled_rows_ahead = 0;
  int slower = 0;
  for (int round = 0; round < 21; ++round) {
    const double good_us = trials.SampledInt8({});
    slower += trials.SampledInt8(bad) > good_us ? 1 : 0;
  }
  EXPECT_GT(slower, 10) << "of 21 rounds";
}

}  // namespace
}  // namespace sounder::kv_node
