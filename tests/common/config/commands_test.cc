#include "common/config/commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/config/option_set.h"

namespace sounder::config {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Outcome {
  int status = 0;
  std::string out;
  std::string err;
};

Outcome RunTool(std::vector<const char*> arguments) {
  const std::vector<Command> commands = {
      {"eval", "Evaluates.",
       [](int argc, const char* const* argv, const Environment& environment) {
         int64_t seeds = 8;
         OptionSet set("tool eval", "Evaluates.");
         set.AddInt("seeds", &seeds, "seeds");
         if (const auto exit = set.ParseOrExit(argc, argv, environment)) return *exit;
         return static_cast<int>(seeds);
       }},
      {"status", "Shows.", [](int, const char* const*, const Environment&) { return 4; }}};
  arguments.insert(arguments.begin(), "tool");
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  Outcome outcome;
  outcome.status = RunCommand("tool", "A tool.", commands, static_cast<int>(arguments.size()),
                              arguments.data(), {});
  outcome.out = ::testing::internal::GetCapturedStdout();
  outcome.err = ::testing::internal::GetCapturedStderr();
  return outcome;
}

TEST(Commands, RunsTheOneNamed) {
  EXPECT_EQ(RunTool({"eval", "--seeds=5"}).status, 5);
  EXPECT_EQ(RunTool({"status"}).status, 4);
}

TEST(Commands, UsageErrors) {
  EXPECT_EQ(RunTool({}).status, kExitUsage);
  EXPECT_THAT(RunTool({}).err, HasSubstr("usage: tool COMMAND"));
  const Outcome unknown = RunTool({"evil"});
  EXPECT_EQ(unknown.status, kExitUsage);
  EXPECT_THAT(unknown.err, HasSubstr("unknown command \"evil\"; did you mean eval?"));
  EXPECT_EQ(RunTool({"eval", "--sed=5"}).status, kExitUsage);
}

TEST(Commands, HelpAndVersion) {
  for (const char* help : {"--help", "-h", "help"}) {
    const Outcome outcome = RunTool({help});
    EXPECT_EQ(outcome.status, 0);
    EXPECT_THAT(outcome.out, AllOf(HasSubstr("A tool."), HasSubstr("  eval    Evaluates.")));
  }
  EXPECT_THAT(RunTool({"--version"}).out, HasSubstr("sounder 0."));
  EXPECT_THAT(RunTool({"eval", "--help"}).out, HasSubstr("usage: tool eval"));
}

}  // namespace
}  // namespace sounder::config
