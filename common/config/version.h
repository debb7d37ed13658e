// What this program is. Pure functions.
#ifndef SOUNDER_COMMON_CONFIG_VERSION_H_
#define SOUNDER_COMMON_CONFIG_VERSION_H_

#include <string>

namespace sounder::config {

// "0.1.0"
std::string Version();
// One line for people: version, compiler, build type, sanitizers where there are any.
std::string VersionLine();

}  // namespace sounder::config

#endif  // SOUNDER_COMMON_CONFIG_VERSION_H_
