#include "common/kernels/kernel_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace sounder::kernels {
namespace {

using testing::HasSubstr;

TEST(KernelScheduleTest, ReadsWhatItWrites) {
  KernelSchedule schedule;
  int value = 1;
  for (const ScheduleField& field : ScheduleFields()) {
    schedule.*field.value = field.min + value++ % (field.max - field.min + 1);
  }
  EXPECT_NE(schedule, KernelSchedule());
  const auto read = ParseSchedule(ScheduleText(schedule));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, schedule);
}

TEST(KernelScheduleTest, FieldsNotNamedKeepTheirDefaults) {
  const auto read = ParseSchedule(" exact_rows_ahead=7 , value_pairs=1 ");
  ASSERT_TRUE(read.ok()) << read.status();
  KernelSchedule expected;
  expected.exact_rows_ahead = 7;
  expected.value_pairs = 1;
  EXPECT_EQ(*read, expected);
  EXPECT_EQ(*ParseSchedule(""), KernelSchedule());
}

TEST(KernelScheduleTest, CandidatesAreInRangeAndHaveTheDefault) {
  for (const ScheduleField& field : ScheduleFields()) {
    EXPECT_THAT(field.candidates, testing::Contains(KernelSchedule().*field.value)) << field.name;
    EXPECT_THAT(field.candidates,
                testing::Each(testing::AllOf(testing::Ge(field.min), testing::Le(field.max))));
  }
}

TEST(KernelScheduleTest, BadTextSaysWhatIsWrong) {
  for (const auto& [text, message] :
       {std::pair{"rows=3", "no field 'rows'"},
        {"rows=3", "scan_bytes_ahead"},
        {"value_pairs=3", "value_pairs='3': expected a whole number, 0 to 2"},
        {"value_pairs=", "value_pairs=''"},
        {"sampled_tile_rows=0", "1 to 64"},
        {"value_pairs", "value_pairs=''"},
        {"exact_rows_ahead=1e3", "'1e3'"}}) {
    const auto read = ParseSchedule(text);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(message)) << text;
  }
}

}  // namespace
}  // namespace sounder::kernels
