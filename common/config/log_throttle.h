// Keeps strangers from filling the log: of the events of one cause, few are logged in an interval.
#ifndef SOUNDER_COMMON_CONFIG_LOG_THROTTLE_H_
#define SOUNDER_COMMON_CONFIG_LOG_THROTTLE_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/clock.h"

namespace sounder::config {

// Thread safe. Causes are words of ours (never text of a peer): each is remembered for good.
class LogThrottle {
 public:
  explicit LogThrottle(int burst = 8, base::Duration interval = std::chrono::seconds(10))
      : burst_(burst), interval_(interval) {}

  // The line to log for an event, or nothing if enough of this cause were logged in the interval.
  // The first line after some were left out says how many those were.
  std::optional<std::string> Admit(std::string_view cause, std::string_view message,
                                   base::Time now);

 private:
  struct Cause {
    base::Time began{};
    int logged = 0;
    uint64_t left_out = 0;
  };
  const int burst_;
  const base::Duration interval_;
  std::mutex mutex_;
  std::map<std::string, Cause, std::less<>> causes_;  // guarded by mutex_
};

}  // namespace sounder::config

#endif  // SOUNDER_COMMON_CONFIG_LOG_THROTTLE_H_
