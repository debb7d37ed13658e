#include "bench/suite/machine.h"

#include <cstdio>

namespace sounder::suite {

std::string CommitOf(const std::string& directory) {
  const std::string command =
      "git -C '" + directory + "' describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null";
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return "unknown";
  std::string commit;
  for (int c = std::fgetc(pipe); c != EOF && c != '\n'; c = std::fgetc(pipe)) {
    commit += static_cast<char>(c);
  }
  pclose(pipe);
  return commit.empty() ? "unknown" : commit;
}

}  // namespace sounder::suite
