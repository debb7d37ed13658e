#include "common/config/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/check.h"
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

// Everything written to stderr goes into a pipe that nobody reads until Read.
class BlockedStderr {
 public:
  BlockedStderr() : stderr_(::dup(2)) {
    CHECK(::pipe(pipe_) == 0 && ::dup2(pipe_[1], 2) == 2);
    ::close(pipe_[1]);
  }
  // Reads in the background until no writer is left.
  void Read() {
    reader_ = std::thread([this] {
      char bytes[65536];
      for (ssize_t count; (count = ::read(pipe_[0], bytes, sizeof bytes)) > 0;) {
        text_.append(bytes, static_cast<size_t>(count));
      }
    });
  }
  std::string TakeText() {
    Restore();
    reader_.join();
    return text_;
  }
  ~BlockedStderr() {
    Restore();
    ::close(pipe_[0]);
  }

 private:
  void Restore() {
    if (stderr_ < 0) return;
    ::dup2(stderr_, 2);
    ::close(std::exchange(stderr_, -1));
  }
  int stderr_;
  int pipe_[2];
  std::thread reader_;
  std::string text_;
};

TEST(AsyncLog, ABlockedStderrHoldsUpNobodyAndOnlyTheOldestAreLost) {
  constexpr size_t kLines = 20000;
  const uint64_t dropped_before = DroppedLogLines();
  BlockedStderr blocked;
  std::string text;
  {
    const AsyncLog log(std::chrono::seconds(60));
    for (size_t i = 0; i < kLines; ++i) LogInfo("line " + std::to_string(i));  // 1 MB
    EXPECT_LE(QueuedLogLines(), AsyncLog::kLogQueueLines);
    EXPECT_GT(DroppedLogLines(), dropped_before);
    blocked.Read();
  }  // writes what is queued
  text = blocked.TakeText();
  const auto lines = static_cast<uint64_t>(std::count(text.begin(), text.end(), '\n'));
  EXPECT_EQ(lines + DroppedLogLines() - dropped_before, kLines);
  EXPECT_TRUE(text.ends_with("line 19999\n")) << "the newest are kept";
  EXPECT_EQ(QueuedLogLines(), 0u);
}

TEST(AsyncLog, KeepsTheLevelAndOrder) {
  SetLogLevel(LogLevel::kWarning);
  ::testing::internal::CaptureStderr();
  {
    const AsyncLog log;
    LogInfo("too little");
    LogWarning("first");
    SetLogLevel(LogLevel::kInfo);
    LogInfo("second");
  }
  LogInfo("third");
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3);
  EXPECT_LT(text.find("first"), text.find("second"));
  EXPECT_LT(text.find("second"), text.find("third"));
}

// A process ends though its stderr takes nothing.
TEST(AsyncLogDeathTest, PatienceEnds) {
  EXPECT_EXIT(
      {
        int pipe[2];
        CHECK(::pipe(pipe) == 0);
        {
          const AsyncLog log(std::chrono::milliseconds(50));
          const int said = ::dup(2);
          CHECK(::dup2(pipe[1], 2) == 2);
          for (int i = 0; i < 5000; ++i) LogInfo(std::string(100, 'x'));
          CHECK(::dup2(said, 2) == 2);
        }
        std::exit(0);
      },
      testing::ExitedWithCode(0), "");
}

// What a process logs that ends without destroying anything.
TEST(AsyncLogDeathTest, FlushWritesWhatWasLoggedBefore) {
  EXPECT_EXIT(
      {
        const AsyncLog log;
        for (int i = 0; i < 5000; ++i) LogInfo("line " + std::to_string(i));
        FlushLog(std::chrono::seconds(60));
        ::_exit(7);
      },
      testing::ExitedWithCode(7), "line 4999");
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
