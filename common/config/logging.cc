#include "common/config/logging.h"

#include <pthread.h>
#include <spdlog/async_logger.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
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

// File descriptor 2, a line at a time. Not the stream stderr: a thread that blocks in it holds its
// lock, and exit() waits for that when it flushes std::cerr.
class StderrSink final : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    for (size_t at = 0; at < line.size();) {
      const ssize_t written = ::write(STDERR_FILENO, line.data() + at, line.size() - at);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return;  // there is nobody to tell
      at += static_cast<size_t>(written);
    }
  }
  // Called behind the lines that were logged before.
  void flush_() override {
    std::lock_guard lock(flush_mutex_);
    ++flushes_;
    flushed_.notify_all();
  }

 public:
  uint64_t flushes() {
    std::lock_guard lock(flush_mutex_);
    return flushes_;
  }
  void WaitForFlush(uint64_t before, base::Duration patience) {
    std::unique_lock lock(flush_mutex_);
    flushed_.wait_for(lock, patience, [&] { return flushes_ > before; });
  }

 private:
  std::mutex flush_mutex_;  // not the base's, which is held while a line is written
  std::condition_variable flushed_;
  uint64_t flushes_ = 0;
};

void Prepare(spdlog::logger& logger) {
  logger.set_formatter(std::make_unique<spdlog::pattern_formatter>("%Y-%m-%dT%H:%M:%S.%fZ %-7l %v",
                                                                   spdlog::pattern_time_type::utc));
  logger.set_level(spdlog::level::info);
}

const std::shared_ptr<StderrSink>& Sink() {
  static const auto* const sink = new std::shared_ptr(std::make_shared<StderrSink>());
  return *sink;
}

// Built on first use and never destroyed, so that objects which outlive main() may still log.
spdlog::logger& DirectLogger() {
  static spdlog::logger* const logger = [] {
    auto* made = new spdlog::logger("sounder", Sink());
    Prepare(*made);
    return made;
  }();
  return *logger;
}

// Of an AsyncLog.
struct LogQueue {
  std::shared_ptr<spdlog::details::thread_pool> thread;
  std::shared_ptr<spdlog::async_logger> logger;
};
std::mutex queue_mutex;
LogQueue* queue = nullptr;  // guarded by queue_mutex
std::atomic<spdlog::logger*> queue_logger{nullptr};
uint64_t dropped_before = 0;  // guarded by queue_mutex; by logs that have ended

spdlog::logger& Logger() {
  spdlog::logger* const async = queue_logger.load(std::memory_order_acquire);
  return async != nullptr ? *async : DirectLogger();
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
  const spdlog::level::level_enum spdlog_level = kLevels[static_cast<size_t>(level)].spdlog_level;
  DirectLogger().set_level(spdlog_level);
  Logger().set_level(spdlog_level);
}

AsyncLog::AsyncLog(base::Duration patience) : patience_(patience) {
  std::lock_guard lock(queue_mutex);
  CHECK(queue == nullptr) << "a second AsyncLog";
  queue = new LogQueue;
  queue->thread = std::make_shared<spdlog::details::thread_pool>(
      kLogQueueLines, 1, [] { pthread_setname_np(pthread_self(), "log"); });
  queue->logger = std::make_shared<spdlog::async_logger>(
      "sounder", Sink(), queue->thread, spdlog::async_overflow_policy::overrun_oldest);
  Prepare(*queue->logger);
  queue->logger->set_level(DirectLogger().level());
  queue_logger = queue->logger.get();
}

// The thread ends when it has written what is queued, if it ever does: where stderr blocks it is
// left behind with its queue, and goes with the process.
AsyncLog::~AsyncLog() {
  std::promise<void> written;
  std::future<void> done = written.get_future();
  {
    std::lock_guard lock(queue_mutex);
    dropped_before += queue->thread->overrun_counter();
    queue_logger = nullptr;
    std::thread([ending = std::exchange(queue, nullptr), written = std::move(written)]() mutable {
      delete ending;
      written.set_value();
    }).detach();
  }
  done.wait_for(patience_);
}

void FlushLog(base::Duration patience) {
  std::shared_ptr<spdlog::async_logger> logger;
  {
    std::lock_guard lock(queue_mutex);
    if (queue == nullptr) return;
    logger = queue->logger;
  }
  const uint64_t before = Sink()->flushes();
  logger->flush();
  Sink()->WaitForFlush(before, patience);
}

uint64_t DroppedLogLines() {
  std::lock_guard lock(queue_mutex);
  return dropped_before + (queue == nullptr ? 0 : queue->thread->overrun_counter());
}

size_t QueuedLogLines() {
  std::lock_guard lock(queue_mutex);
  return queue == nullptr ? 0 : queue->thread->queue_size();
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
