#include "common/config/commands.h"

#include <cstdio>
#include <utility>

#include "common/config/option_set.h"
#include "common/config/option_text.h"
#include "common/config/version.h"

namespace sounder::config {
namespace {

std::string UsageOf(const std::string& program, const std::string& about,
                    const std::vector<Command>& commands) {
  std::vector<std::pair<std::string, std::string>> rows;
  for (const Command& command : commands) rows.emplace_back(command.name, command.summary);
  return "usage: " + program + " COMMAND [OPTION...]\n\n" + about + "\n\n" + FormatColumns(rows) +
         "\n" + program + " COMMAND --help lists the options of a command.\n";
}

}  // namespace

int RunCommand(const std::string& program, const std::string& about,
               const std::vector<Command>& commands, int argc, const char* const* argv,
               const Environment& environment) {
  const std::string usage = UsageOf(program, about, commands);
  if (argc < 2) {
    std::fputs(usage.c_str(), stderr);
    return kExitUsage;
  }
  const std::string name = argv[1];
  if (name == "--help" || name == "-h" || name == "help") {
    std::fputs(usage.c_str(), stdout);
    return std::fflush(stdout) == 0 ? 0 : 1;
  }
  if (name == "--version") {
    std::fputs((VersionLine() + "\n").c_str(), stdout);
    return std::fflush(stdout) == 0 ? 0 : 1;
  }
  std::vector<std::string> names;
  for (const Command& command : commands) {
    if (command.name == name) return command.run(argc - 1, argv + 1, environment);
    names.push_back(command.name);
  }
  const std::string nearest = NearestWord(name, names);
  std::fprintf(stderr, "%s: unknown command \"%s\"%s\n%s", program.c_str(), name.c_str(),
               nearest.empty() ? "" : ("; did you mean " + nearest + "?").c_str(), usage.c_str());
  return kExitUsage;
}

}  // namespace sounder::config
