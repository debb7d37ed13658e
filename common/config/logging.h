// The log: one line per event on stderr,
//   2025-01-31T12:00:00.123456Z info  session opened id=... tenant=...
// lower case, where the event is first detected, with its exact cause. Levels by audience: error
// and warning are for the operator (error: something was lost or refused that should not have
// been), info for the life of the process, debug for developers, one line per request at most.
//
//   LogInfo("session opened id=" + id.ToString());
//   if (LogsAt(LogLevel::kDebug)) LogDebug(Describe(request));   // text that costs something
//
// Line ends and other control bytes inside a message are escaped, so a message cannot forge a
// line. The level is process-wide; SetLogLevel is called by main(). Thread safe.
#ifndef SOUNDER_COMMON_CONFIG_LOGGING_H_
#define SOUNDER_COMMON_CONFIG_LOGGING_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.h"
#include "common/config/option_set.h"

namespace sounder::config {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

// In the order of LogLevel.
std::vector<std::string> LogLevelNames();

// Declares --log-level (default: what `level` holds: debug|info|warning|error|off).
void AddLogOptions(OptionSet& set, std::string* level);

// CHECKs that `level` is one of the names AddLogOptions takes.
void SetLogLevel(std::string_view level);
void SetLogLevel(LogLevel level);
bool LogsAt(LogLevel level);

// While one lives, lines are written by a thread of its own, from a queue of kLogQueueLines: a
// stderr that blocks (a full disk, a pipe nobody reads) holds up nobody. Where the queue is full
// the oldest line is dropped. One at a time, made by main(); without one, lines are written by
// whoever logs. The destructor writes what is queued, for `patience` at most; threads that log must
// have ended.
class AsyncLog {
 public:
  static constexpr size_t kLogQueueLines = 8192;
  explicit AsyncLog(base::Duration patience = std::chrono::seconds(2));
  ~AsyncLog();
  AsyncLog(const AsyncLog&) = delete;
  AsyncLog& operator=(const AsyncLog&) = delete;

 private:
  const base::Duration patience_;
};
// Waits until what was logged before is written, for `patience` at most: for who ends the process
// without destroying its AsyncLog.
void FlushLog(base::Duration patience);
// Since the start; any thread.
uint64_t DroppedLogLines();
size_t QueuedLogLines();

void LogDebug(std::string_view message);
void LogInfo(std::string_view message);
void LogWarning(std::string_view message);
void LogError(std::string_view message);

// The message as it is logged: control bytes and backslashes escaped.
std::string EscapeLogMessage(std::string_view message);

}  // namespace sounder::config

#endif  // SOUNDER_COMMON_CONFIG_LOGGING_H_
