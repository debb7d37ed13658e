#include "common/config/logging.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <array>
#include <cstdio>
#include <memory>
#include <utility>

#include "common/base/check.h"

namespace sounder::config {
namespace {

struct LevelName {
  const char* name;
  LogLevel level;
  spdlog::level::level_enum spdlog_level;
};
constexpr std::array kLevels = {
    LevelName{"debug", LogLevel::kDebug, spdlog::level::debug},
    LevelName{"info", LogLevel::kInfo, spdlog::level::info},
    LevelName{"warning", LogLevel::kWarning, spdlog::level::warn},
    LevelName{"error", LogLevel::kError, spdlog::level::err},
    LevelName{"off", LogLevel::kOff, spdlog::level::off},
};

// Built on first use and never destroyed, so that objects which outlive main() may still log.
spdlog::logger& Logger() {
  static spdlog::logger* const logger = [] {
    auto* made = new spdlog::logger("sounder", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_formatter(std::make_unique<spdlog::pattern_formatter>(
        "%Y-%m-%dT%H:%M:%S.%fZ %-7l %v", spdlog::pattern_time_type::utc));
    made->set_level(spdlog::level::info);
    made->flush_on(spdlog::level::trace);
    return made;
  }();
  return *logger;
}

void Log(spdlog::level::level_enum level, std::string_view message) {
  if (!Logger().should_log(level)) return;
  const std::string line = EscapeLogMessage(message);
  Logger().log(level, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace

std::vector<std::string> LogLevelNames() {
  std::vector<std::string> names;
  for (const LevelName& entry : kLevels) names.emplace_back(entry.name);
  return names;
}

void SetLogLevel(std::string_view level) {
  for (const LevelName& entry : kLevels) {
    if (level == entry.name) return SetLogLevel(entry.level);
  }
  CHECK(false) << "no log level \"" << level << "\"";
}

void SetLogLevel(LogLevel level) {
  Logger().set_level(kLevels[static_cast<size_t>(level)].spdlog_level);
}

bool LogsAt(LogLevel level) {
  return Logger().should_log(kLevels[static_cast<size_t>(level)].spdlog_level);
}

void LogDebug(std::string_view message) { Log(spdlog::level::debug, message); }
void LogInfo(std::string_view message) { Log(spdlog::level::info, message); }
void LogWarning(std::string_view message) { Log(spdlog::level::warn, message); }
void LogError(std::string_view message) { Log(spdlog::level::err, message); }

std::string EscapeLogMessage(std::string_view message) {
  std::string escaped;
  escaped.reserve(message.size());
  for (const char c : message) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      escaped += "\\n";
    } else if (c == '\\') {
      escaped += "\\\\";
    } else if (byte < 0x20 || byte == 0x7f) {
      std::array<char, 5> code;
      std::snprintf(code.data(), code.size(), "\\x%02x", byte);
      escaped += code.data();
    } else {
      escaped += c;
    }
  }
  return escaped;
}

}  // namespace sounder::config
