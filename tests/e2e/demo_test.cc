// The demo, interrupted, leaves no process behind.
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <ostream>

#include "tests/e2e/processes.h"

namespace sounder::e2e {
namespace {

// Processes of a group that still run (zombies do not).
std::vector<std::string> RunningIn(pid_t group) {
  std::vector<std::string> running;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string stat = ReadFile(entry.path() / "stat");
    const size_t name_end = stat.rfind(") ");
    if (name_end == std::string::npos) continue;
    char state = 0;
    int parent = 0, its_group = 0;
    if (std::sscanf(stat.c_str() + name_end + 2, "%c %d %d", &state, &parent, &its_group) != 3) {
      continue;
    }
    if (its_group == group && state != 'Z') running.push_back(stat.substr(0, name_end + 1));
  }
  return running;
}

bool IsRunningIn(pid_t group, const std::string& program) {
  for (const std::string& process : RunningIn(group)) {
    if (process.find("(" + program + ")") != std::string::npos) return true;
  }
  return false;
}

void ExpectNothingLeft(pid_t group) {
  std::vector<std::string> left;
  const bool gone = Eventually([&] { return (left = RunningIn(group)).empty(); }, seconds(2));
  for (const std::string& process : left) ADD_FAILURE() << "left behind: " << process;
  if (!gone) ::kill(-group, SIGKILL);
}

struct Interrupt {
  const char* line;     // of output, its beginning
  const char* program;  // that runs when the signal comes, after that line
  const char* positions;
  int signal;  // SIGINT: to all processes, as from a terminal; others: to the script
  friend void PrintTo(const Interrupt& moment, std::ostream* out) {
    *out << "signal " << moment.signal << " after \"" << moment.line << "\"";
  }
};

class InterruptedDemoTest : public testing::TestWithParam<Interrupt> {};

TEST_P(InterruptedDemoTest, LeavesNothingBehind) {
  const Interrupt& moment = GetParam();
  const TemporaryFolder folder;
  Process demo("scripts/demo.sh",
               {"--prompts", "2", "--positions", moment.positions, "--output", folder.Path("demo")},
               /*own_group=*/true);
  const pid_t group = demo.pid();
  ASSERT_TRUE(demo.WaitForLine(moment.line, seconds(60)).has_value()) << demo.Errors();
  ASSERT_TRUE(Eventually([&] { return IsRunningIn(group, moment.program); })) << demo.Errors();
  EXPECT_GE(RunningIn(group).size(), 2u);
  ASSERT_EQ(::kill(moment.signal == SIGINT ? -group : group, moment.signal), 0);
  const std::optional<int> exit = demo.Wait(seconds(8));
  EXPECT_EQ(exit, 128 + moment.signal) << demo.Errors();
  ExpectNothingLeft(group);
}

// The positions of part (b) take far longer than a demo may take to end.
INSTANTIATE_TEST_SUITE_P(Moments, InterruptedDemoTest,
                         testing::Values(Interrupt{"starting ", "sounder_node", "8192", SIGINT},
                                         Interrupt{"(a) ", "sounder_worker", "8192", SIGINT},
                                         Interrupt{"(a) ", "sounder_worker", "8192", SIGTERM},
                                         Interrupt{"  exact: ", "sounder_worker", "8192", SIGHUP},
                                         Interrupt{"(b) ", "demo_scale", "10000000", SIGINT},
                                         Interrupt{"(b) ", "demo_scale", "10000000", SIGTERM},
                                         Interrupt{"(c) ", "sounder_worker", "8192", SIGTERM}));

TEST(DemoTest, RunsToItsEnd) {
  const TemporaryFolder folder;
  Process demo("scripts/demo.sh",
               {"--prompts", "2", "--positions", "8192", "--output", folder.Path("demo")},
               /*own_group=*/true);
  const pid_t group = demo.pid();
  EXPECT_EQ(demo.Wait(seconds(90)), 0) << demo.Errors();
  ExpectNothingLeft(group);
  const std::string& output = demo.Output();
  EXPECT_EQ(output.substr(output.rfind('\n', output.size() - 2) + 1), "demo: ok\n");
  for (const char* part : {"\nlsh_10_150  ", "\nsketch_2 ", "\nrecall-1 ", "\nwords-1 ", "\nlsh ",
                           "\nsketch ", "\ntokens from SSD: the same tokens"}) {
    EXPECT_NE(output.find(part), std::string::npos) << part << " is not in\n" << output;
  }
  EXPECT_NE(demo.Errors().find("4 of 4 prompts"), std::string::npos) << demo.Errors();
}

}  // namespace
}  // namespace sounder::e2e
