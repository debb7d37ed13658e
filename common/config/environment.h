// Environment variables as a value, so that nothing below main() reads the process's own.
#ifndef SOUNDER_COMMON_CONFIG_ENVIRONMENT_H_
#define SOUNDER_COMMON_CONFIG_ENVIRONMENT_H_

#include <map>
#include <string>

namespace sounder::config {

// Name -> value.
using Environment = std::map<std::string, std::string>;

// A copy of the process's environment. Called once, by main() only, before threads start.
Environment EnvironmentFromProcess();

}  // namespace sounder::config

#endif  // SOUNDER_COMMON_CONFIG_ENVIRONMENT_H_
