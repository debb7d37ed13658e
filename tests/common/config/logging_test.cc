#include "common/config/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "common/config/environment.h"

namespace sounder::config {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

// What `log` writes to stderr at this level.
template <typename Log>
std::string Logged(LogLevel level, const Log& log) {
  SetLogLevel(level);
  ::testing::internal::CaptureStderr();
  log();
  SetLogLevel(LogLevel::kInfo);
  return ::testing::internal::GetCapturedStderr();
}

TEST(Logging, OneLineAnEvent) {
  const std::string text = Logged(LogLevel::kInfo, [] { LogInfo("node started id=7"); });
  EXPECT_THAT(text, ContainsRegex("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\\.[0-9]{6}Z info    "
                                  "node started id=7\n$"));
}

TEST(Logging, LevelsAreKept) {
  const auto all = [] {
    LogDebug("dd");
    LogInfo("ii");
    LogWarning("ww");
    LogError("ee");
  };
  const std::string warning = Logged(LogLevel::kWarning, all);
  EXPECT_THAT(warning, HasSubstr("ww"));
  EXPECT_THAT(warning, HasSubstr("ee"));
  EXPECT_THAT(warning, Not(HasSubstr("ii")));
  EXPECT_THAT(Logged(LogLevel::kDebug, all), HasSubstr("dd"));
  EXPECT_EQ(Logged(LogLevel::kOff, all), "");
  SetLogLevel("error");
  EXPECT_FALSE(LogsAt(LogLevel::kWarning));
  EXPECT_TRUE(LogsAt(LogLevel::kError));
  SetLogLevel(LogLevel::kInfo);
}

TEST(Logging, MessagesCannotForgeLines) {
  const std::string text =
      Logged(LogLevel::kInfo, [] { LogInfo("peer said \"x\n2025 info all well\x1b[31m\" {} \\"); });
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  EXPECT_THAT(text, HasSubstr("\"x\\n2025 info all well\\x1b[31m\" {} \\\\"));
}

TEST(Logging, ThreadsDoNotMixLines) {
  const std::string text = Logged(LogLevel::kInfo, [] {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([] {
        for (int i = 0; i < 200; ++i) LogInfo(std::string(100, 'x'));
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  size_t lines = 0;
  for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    EXPECT_TRUE(text.substr(at, end - at).ends_with(" " + std::string(100, 'x')));
    ++lines;
  }
  EXPECT_EQ(lines, 800u);
}

TEST(Logging, OptionNamesTheLevels) {
  std::string level = "info";
  OptionSet set("program", "about");
  AddLogOptions(set, &level);
  const char* good[] = {"program", "--log-level=debug"};
  EXPECT_TRUE(set.Parse(2, good, {}).ok());
  EXPECT_EQ(level, "debug");
  const char* bad[] = {"program", "--log-level=loud"};
  EXPECT_FALSE(set.Parse(2, bad, {}).ok());
}

TEST(Environment, IsTheProcesss) {
  const Environment environment = EnvironmentFromProcess();
  EXPECT_EQ(environment.at("UCX_MEM_MMAP_HOOK_MODE"), "none") << "set for every test";
}

}  // namespace
}  // namespace sounder::config
