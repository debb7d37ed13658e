// Programs with commands ("sounderctl eval ..."): picks the command named by the first argument.
#ifndef SOUNDER_COMMON_CONFIG_COMMANDS_H_
#define SOUNDER_COMMON_CONFIG_COMMANDS_H_

#include <functional>
#include <string>
#include <vector>

#include "common/config/environment.h"

namespace sounder::config {

struct Command {
  std::string name;     // "eval"
  std::string summary;  // one line of the program's help
  // Parses its own OptionSet and works. argv[0] is the command's name. Returns the exit status.
  std::function<int(int argc, const char* const* argv, const Environment& environment)> run;
};

// Runs the command that argv[1] names and returns its exit status. Handles --help, -h, help and
// --version itself. No command, or one that does not exist (the nearest is named): the usage on
// stderr, and kExitUsage.
int RunCommand(const std::string& program, const std::string& about,
               const std::vector<Command>& commands, int argc, const char* const* argv,
               const Environment& environment);

}  // namespace sounder::config

#endif  // SOUNDER_COMMON_CONFIG_COMMANDS_H_
