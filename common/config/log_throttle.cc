#include "common/config/log_throttle.h"

#include "absl/strings/str_cat.h"

namespace sounder::config {

std::optional<std::string> LogThrottle::Admit(std::string_view cause, std::string_view message,
                                              base::Time now) {
  std::lock_guard lock(mutex_);
  auto found = causes_.find(cause);
  if (found == causes_.end()) found = causes_.emplace(std::string(cause), Cause{now}).first;
  Cause& state = found->second;
  if (now - state.began >= interval_) {
    state.began = now;
    state.logged = 0;
  }
  if (state.logged == burst_) {
    ++state.left_out;
    return std::nullopt;
  }
  ++state.logged;
  std::string line(message);
  if (state.left_out > 0) {
    absl::StrAppend(&line, " (", state.left_out, " more of this cause were not logged)");
    state.left_out = 0;
  }
  return line;
}

}  // namespace sounder::config
