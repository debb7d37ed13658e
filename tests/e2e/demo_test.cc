// The demo, interrupted, leaves no process behind.
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>

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

// `moment`: the beginning of the line of output that it is interrupted after.
void InterruptDemo(const std::string& moment, int signal, bool whole_group) {
  const TemporaryFolder folder;
  Process demo("scripts/demo.sh",
               {"--prompts", "2", "--positions", "8192", "--output", folder.Path("demo")},
               /*own_group=*/true);
  const pid_t group = demo.pid();
  ASSERT_TRUE(demo.WaitForLine("  ready ", seconds(20)).has_value()) << demo.Errors();
  ASSERT_TRUE(demo.WaitForLine(moment, seconds(30)).has_value()) << demo.Errors();
  EXPECT_GE(RunningIn(group).size(), 3u);  // the script and two nodes
  ASSERT_EQ(::kill(whole_group ? -group : group, signal), 0);
  const std::optional<int> exit = demo.Wait(seconds(8));
  EXPECT_EQ(exit, 128 + signal) << demo.Errors();
  std::vector<std::string> left;
  const bool gone = Eventually([&] { return (left = RunningIn(group)).empty(); }, seconds(2));
  for (const std::string& process : left) ADD_FAILURE() << "left behind: " << process;
  if (!gone) ::kill(-group, SIGKILL);
}

TEST(DemoTest, ControlC) { InterruptDemo("(a) ", SIGINT, /*whole_group=*/true); }

TEST(DemoTest, ControlCWhileAWorkerRuns) { InterruptDemo("  exact: ", SIGINT, true); }

TEST(DemoTest, Terminated) { InterruptDemo("  exact: ", SIGTERM, /*whole_group=*/false); }

}  // namespace
}  // namespace sounder::e2e
