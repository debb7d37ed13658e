#include "common/base/check.h"

#include <gtest/gtest.h>

#include <string>

#include "common/base/absl_text.h"
#include "common/base/status_macros.h"

namespace sounder::base {
namespace {

TEST(CheckDeathTest, AFalseConditionStopsTheProcessAndSaysWhereAndWhy) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const int rows = 3;
  EXPECT_EXIT(CHECK(rows == 4) << "rows " << rows, testing::KilledBySignal(SIGABRT),
              "check_test.cc:[0-9]+: CHECK failed: rows == 4 rows 3");
}

TEST(CheckTest, ATrueConditionDoesNothingAndEvaluatesNoMessage) {
  int evaluated = 0;
  const auto message = [&evaluated] {
    ++evaluated;
    return "text";
  };
  CHECK(evaluated == 0) << message();
  EXPECT_EQ(evaluated, 0);
  // A statement like any other: binds to no else of somebody else.
  if (evaluated != 0)
    CHECK(false) << "not reached";
  else
    ++evaluated;
  EXPECT_EQ(evaluated, 1);
}

absl::Status FailIf(bool fail) {
  return fail ? absl::NotFoundError("no such thing") : absl::OkStatus();
}
absl::StatusOr<std::string> TextOr(bool fail) {
  if (fail) return absl::DataLossError("gone");
  return std::string("text");
}
absl::StatusOr<int> Sequence(bool fail_first, bool fail_second) {
  RETURN_IF_ERROR(FailIf(fail_first));
  ASSIGN_OR_RETURN(const std::string text, TextOr(fail_second));
  std::string again;
  ASSIGN_OR_RETURN(again, TextOr(false));
  return static_cast<int>(text.size() + again.size());
}

TEST(StatusMacrosTest, PassOnTheFirstError) {
  EXPECT_EQ(*Sequence(false, false), 8);
  EXPECT_EQ(Sequence(true, true).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Sequence(false, true).status().code(), absl::StatusCode::kDataLoss);
}

TEST(AbslTextTest, AnnotateKeepsTheCode) {
  const absl::Status status = Annotate(absl::NotFoundError("no such thing"), "node a");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(MessageOf(status), "node a: no such thing");
  EXPECT_TRUE(Annotate(absl::OkStatus(), "node a").ok());
  EXPECT_EQ(ToStd(ToAbsl(std::string_view("a\0b", 3))), std::string_view("a\0b", 3));
}

}  // namespace
}  // namespace sounder::base
