#include "common/config/version.h"

namespace sounder::config {

std::string Version() { return SOUNDER_VERSION; }

std::string VersionLine() {
#ifdef __clang__
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "gcc " __VERSION__;
#endif
  std::string line = "sounder " SOUNDER_VERSION " (" + compiler + ", " SOUNDER_BUILD_TYPE;
  const std::string sanitizers = SOUNDER_SANITIZERS;
  if (!sanitizers.empty()) line += ", " + sanitizers;
  return line + ")";
}

}  // namespace sounder::config
