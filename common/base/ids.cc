#include "common/base/ids.h"

#include <charconv>
#include <cstdio>

namespace sounder::base {

std::string SessionId::ToString() const {
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(high),
                static_cast<unsigned long long>(low));
  return text;
}

std::optional<SessionId> SessionId::Parse(std::string_view text) {
  if (text.size() != 32) return std::nullopt;
  SessionId id;
  for (int half = 0; half < 2; ++half) {
    const char* begin = text.data() + half * 16;
    uint64_t& value = half == 0 ? id.high : id.low;
    const auto [end, error] = std::from_chars(begin, begin + 16, value, 16);
    if (error != std::errc() || end != begin + 16) return std::nullopt;
  }
  return id;
}

}  // namespace sounder::base
