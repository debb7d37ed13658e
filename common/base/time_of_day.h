// The time of day: to tell apart what programs do at different times. To measure with: clock.h.
#ifndef SOUNDER_COMMON_BASE_TIME_OF_DAY_H_
#define SOUNDER_COMMON_BASE_TIME_OF_DAY_H_

#include <chrono>
#include <cstdint>

namespace sounder::base {

// Microseconds since 1970 as the machine counts them: it may be set forth and back. Thread safe.
inline uint64_t UnixMicros() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(since).count());
}

}  // namespace sounder::base

#endif  // SOUNDER_COMMON_BASE_TIME_OF_DAY_H_
