// sounderctl as a user runs it.
#ifndef SOUNDER_TESTS_CLI_RUN_CTL_H_
#define SOUNDER_TESTS_CLI_RUN_CTL_H_

#include <sys/wait.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/cli/qkv_file.h"

namespace sounder::cli {

struct Outcome {
  int status = -1;
  std::string out;
  std::string err;
};

inline Outcome RunCtl(const std::string& arguments) {
  const std::string err_path = TempPath("stderr");
  const std::string command = std::string(SOUNDERCTL_PATH) + " " + arguments + " 2>" + err_path;
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) {
    outcome.out += static_cast<char>(c);
  }
  const int status = pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  std::ifstream err(err_path);
  outcome.err.assign(std::istreambuf_iterator<char>(err), {});
  std::remove(err_path.c_str());
  return outcome;
}

}  // namespace sounder::cli

#endif  // SOUNDER_TESTS_CLI_RUN_CTL_H_
