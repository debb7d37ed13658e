#include "common/config/environment.h"

#include <unistd.h>

#include <string_view>

namespace sounder::config {

Environment EnvironmentFromProcess() {
  Environment environment;
  if (environ == nullptr) return environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    // The first of two equal names counts, as for getenv.
    environment.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return environment;
}

}  // namespace sounder::config
