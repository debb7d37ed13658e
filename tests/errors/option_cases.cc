// Errors of options, before a program starts.
#include <fstream>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "common/config/environment.h"
#include "common/config/host_port.h"
#include "common/config/option_set.h"
#include "gtest/gtest.h"
#include "tests/errors/error_case.h"

namespace sounder::tests {
namespace {

using enum absl::StatusCode;

// What a program with some options says to a command line.
absl::Status Called(std::vector<const char*> arguments, bool required = false,
                    bool takes_arguments = false) {
  config::OptionSet set("sounder_program", "Does something.");
  int64_t rows = 16;
  std::string level = "info";
  bool color = true;
  std::vector<std::string> files;
  set.AddInt("seal_rows", &rows, "rows of a segment", {.min = 16, .max = 65536});
  set.AddText("log_level", &level, "what to log", {"info", "off"});
  set.AddBool("color", &color, "colors");
  if (required) set.Require("seal_rows");
  if (takes_arguments) set.AddArguments("FILE", &files, "what to read", 2, 2);
  arguments.insert(arguments.begin(), "sounder_program");
  return set.Parse(static_cast<int>(arguments.size()), arguments.data(), config::Environment())
      .status();
}

absl::Status CalledWithFile(const std::string& text) {
  const std::string path = testing::TempDir() + "/sounder_errors_test.yaml";
  std::ofstream(path) << text;
  const std::string flag = "--config=" + path;
  return Called({flag.c_str()});
}

}  // namespace

ErrorGroup OptionErrors() {
  return {
      "Options",
      "A program that is called in a wrong way ends before it starts, with exit status 2 and such "
      "a "
      "message, which begins with\nthe flag, the variable or the line of the file that it is "
      "about. "
      "`--help` lists all options.",
      {
          {kInvalidArgument,
           {{"unknown flag <flag>",
             [] {
               return Called({"--seal-rowz", "16"});
             }},
            {"--no-<name> takes no value", [] { return Called({"--no-color=yes"}); }},
            {"unexpected argument \"<argument>\"", [] { return Called({"file"}); }},
            {"unexpected argument \"<argument>\"",
             [] {
               return Called({"a", "b", "c"}, false, true);
             }},
            {"expected <n> <what>, got <n>", [] { return Called({"a"}, false, true); }},
            {"<flag> was given more than once",
             [] {
               return Called({"--seal-rows", "16", "--seal-rows", "32"});
             }},
            {"<flag> is required (or <variable>)", [] { return Called({}, true); }}},
           "The command line has something the program does not know, or lacks something.",
           "`--help` shows what it takes."},
          {kInvalidArgument,
           {{"<n> is out of range, expected <range>",
             [] {
               return Called({"--seal-rows", "5"});
             }},
            {"\"<text>\" is not <what>",
             [] {
               return Called({"--seal-rows", "many"});
             }},
            {"\"<text>\" is not one of <values>",
             [] {
               return Called({"--log-level", "loud"});
             }},
            {"\"<text>\" is not an address: <reason> (expected host:port or [v6 address]:port)",
             [] { return config::CheckAddresses("--control", {"localhost"}); }}},
           "The value is none the option takes.",
           "Give what the message expects. Sizes take units (`8GiB`), durations need one (`2s`)."},
          {kInvalidArgument,
           {{"<file>:<line>: unknown option <key>",
             [] { return CalledWithFile("seal_rowz: 5\n"); }}},
           "The file named by `--config` has a key that is no option.",
           "Correct it: keys are flags with `_` for `-`."},
          {kNotFound,
           {{"cannot read <file>: <reason>",
             [] {
               return Called({"--config", "/nonexistent"});
             }}},
           "The file named by `--config` or `SOUNDER_CONFIG` is not there, or not readable.",
           "Correct its name or its permissions."},
      }};
}

}  // namespace sounder::tests
