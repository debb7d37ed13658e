#include "kv_node/tuning/schedule_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "common/base/cpu.h"
#include "common/config/version.h"
#include "common/kernels/simd_level.h"
#include "kv_node/tuning/start_schedule.h"

namespace sounder::kv_node {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

class ScheduleCacheTest : public testing::Test {
 protected:
  ScheduleCacheTest() { std::filesystem::remove_all(directory_); }
  ~ScheduleCacheTest() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& text) {
    std::filesystem::create_directories(directory_);
    std::ofstream(path_) << text;
  }

  const std::filesystem::path directory_ =
      std::filesystem::path(testing::TempDir()) /
      ("schedule_cache_" +
       std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
  const std::string path_ = directory_ / "deep" / ".." / "schedule.yaml";
  const ScheduleOrigin origin_ = {.cpu = "A \"fast\" CPU: model 1", .simd = "AVX2", .version = "1"};
};

TEST_F(ScheduleCacheTest, GivesBackWhatWasWritten) {
  EXPECT_EQ(ReadSchedule(path_, origin_).status().code(), absl::StatusCode::kNotFound);
  kernels::KernelSchedule schedule;
  schedule.lsh_rows_ahead = 17;
  const std::string path = directory_ / "a" / "b.yaml";
  ASSERT_TRUE(WriteSchedule(path, origin_, schedule).ok());
  const auto read = ReadSchedule(path, origin_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, schedule);
}

TEST_F(ScheduleCacheTest, IsOfOneCpuLevelAndVersion) {
  const std::string path = directory_ / "a.yaml";
  ASSERT_TRUE(WriteSchedule(path, origin_, {}).ok());
  for (const auto field : {&ScheduleOrigin::cpu, &ScheduleOrigin::simd, &ScheduleOrigin::version}) {
    ScheduleOrigin other = origin_;
    other.*field = "another";
    const absl::Status status = ReadSchedule(path, other).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("another"));
  }
}

TEST_F(ScheduleCacheTest, BadFilesAreNamed) {
  for (const char* text :
       {"cpu: [", "speed: 3\n", "cpu: c\nsimd: s\nversion: v\nschedule: x=1\n"}) {
    std::filesystem::create_directories(directory_ / "deep");
    Write(text);
    const absl::Status status =
        ReadSchedule(path_, {.cpu = "c", .simd = "s", .version = "v"}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("schedule.yaml")) << text;
  }
}

TEST_F(ScheduleCacheTest, SaysWhereItCannotWrite) {
  const absl::Status status = WriteSchedule("/proc/no/such/schedule.yaml", origin_, {});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/proc/no/such/schedule.yaml"));
}

TEST_F(ScheduleCacheTest, HasItsPlaceInTheEnvironment) {
  EXPECT_EQ(DefaultScheduleFile({}), "");
  EXPECT_EQ(DefaultScheduleFile({{"HOME", "/h"}}), "/h/.cache/sounder/kernel_schedule.yaml");
  EXPECT_EQ(DefaultScheduleFile({{"HOME", "/h"}, {"XDG_CACHE_HOME", "/x"}}),
            "/x/sounder/kernel_schedule.yaml");
  EXPECT_EQ(DefaultScheduleFile({{"HOME", "/h"}, {"CACHE_DIRECTORY", "/c"}}),
            "/c/kernel_schedule.yaml");
}

TEST_F(ScheduleCacheTest, AStartTakesWhatItIsTold) {
  EXPECT_EQ(ScheduleAtStart("off", "")->schedule, kernels::KernelSchedule());
  EXPECT_EQ(ScheduleAtStart("value_pairs=1", "")->schedule.value_pairs, 1);
  EXPECT_FALSE(ScheduleAtStart("on", "").ok());
  EXPECT_FALSE(CheckTuning("on").ok());
  EXPECT_TRUE(CheckTuning("auto").ok());
  EXPECT_TRUE(CheckTuning("value_pairs=1").ok());
}

TEST_F(ScheduleCacheTest, AStartTakesTheCachedScheduleOrMakesOne) {
  const ScheduleOrigin here = {
      .cpu = base::CpuModel(), .simd = kernels::CurrentSimdLevel(), .version = config::Version()};
  kernels::KernelSchedule schedule;
  schedule.scan_bytes_ahead = 12345;  // no candidate: only the file has it
  const std::string path = directory_ / "a.yaml";
  ASSERT_TRUE(WriteSchedule(path, here, schedule).ok());
  EXPECT_EQ(ScheduleAtStart("auto", path)->schedule, schedule);
  EXPECT_EQ(ScheduleAtStart("auto", path)->source, "from " + path);
  ASSERT_TRUE(WriteSchedule(path, origin_, schedule).ok());
  const auto found = ScheduleAtStart("auto", path);
  EXPECT_NE(found->schedule, schedule);
  EXPECT_THAT(found->source, StartsWith("measured in "));
  EXPECT_THAT(found->source, HasSubstr("not from the cache"));
}

}  // namespace
}  // namespace sounder::kv_node
