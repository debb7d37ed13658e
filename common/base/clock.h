// Time as the program sees it: monotonic, in nanoseconds, passed in so that tests and the
// simulator can run in virtual time.
#ifndef SOUNDER_COMMON_BASE_CLOCK_H_
#define SOUNDER_COMMON_BASE_CLOCK_H_

#include <chrono>

namespace sounder::base {

using Duration = std::chrono::nanoseconds;
// Nanoseconds since an arbitrary start of the clock; comparable only with times of that clock.
using Time = std::chrono::time_point<std::chrono::steady_clock, Duration>;

inline constexpr Time kNever = Time::max();

// Thread safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual Time Now() const = 0;
};

// The machine's monotonic clock.
class SteadyClock final : public Clock {
 public:
  Time Now() const override { return std::chrono::steady_clock::now(); }
};

}  // namespace sounder::base

#endif  // SOUNDER_COMMON_BASE_CLOCK_H_
