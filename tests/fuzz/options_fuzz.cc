// Options of a program from all their sources at once. Each line of the input is an argument; lines
// behind "=== environment" are variables, NAME=value; the text behind "=== file" is the option
// file.
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <vector>

#include "common/config/option_report.h"
#include "common/config/option_set.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/target.h"

namespace sounder::fuzz {
namespace {

using config::Environment;
using config::OptionSet;
using config::OptionValue;
using config::Origin;
using config::ParseResult;

struct Options {
  int64_t rows = 4096;
  double ratio = 0.5;
  bool progress = false;
  std::string mode = "exact";
  std::string model;
  std::vector<std::string> nodes;
  int64_t memory = 1 << 30;
  base::Duration deadline = std::chrono::seconds(2);
  std::vector<std::string> files;

  friend bool operator==(const Options&, const Options&) = default;
};

// An option of each kind, one that is required, a relation and arguments.
void Declare(OptionSet& set, Options* options) {
  set.AddInt("rows", &options->rows, "an integer", {.min = -8, .max = 65536});
  set.AddDouble("ratio", &options->ratio, "a number", {.min = 0, .max = 1});
  set.AddBool("progress", &options->progress, "a switch");
  set.AddText("mode", &options->mode, "a choice", {"exact", "lsh"});
  set.AddText("model", &options->model, "a text");
  set.AddList("nodes", &options->nodes, "a list");
  set.AddBytes("memory", &options->memory, "bytes");
  set.AddDuration("deadline", &options->deadline, "a duration",
                  {.min = std::chrono::milliseconds(1), .max = std::chrono::hours(24)});
  set.AddArguments("FILE", &options->files, "files", 0, 3);
  set.Require("mode");
  set.AddCheck([options] {
    if (options->rows % 2 == 0) return absl::OkStatus();
    return absl::InvalidArgumentError("--rows is odd");
  });
}

void CheckBounds(const Options& options) {
  CHECK(options.rows >= -8 && options.rows <= 65536 && options.rows % 2 == 0) << options.rows;
  CHECK(options.ratio >= 0 && options.ratio <= 1) << options.ratio;
  CHECK(options.mode == "exact" || options.mode == "lsh") << options.mode;
  CHECK(options.memory >= 0) << options.memory;
  CHECK(options.deadline >= std::chrono::milliseconds(1));
  CHECK(options.deadline <= std::chrono::hours(24));
  CHECK(options.files.size() <= 3);
}

struct Input {
  std::vector<std::string> arguments = {"program"};
  Environment environment;
  std::string file;
};

// What names a file is left out: the one here is the input's.
Input InputOf(std::string_view text) {
  enum { kArguments, kEnvironment, kFile } section = kArguments;
  Input input;
  while (!text.empty() && section != kFile) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string line(text.substr(0, end));
    line = line.c_str();  // an argument ends at a NUL
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line == "=== environment") {
      section = kEnvironment;
    } else if (line == "=== file") {
      section = kFile;
    } else if (section == kEnvironment) {
      const size_t equals = std::min(line.find('='), line.size());
      const std::string name = line.substr(0, equals);
      if (equals < line.size() && name != config::VariableOf("config")) {
        input.environment[name] = line.substr(equals + 1);
      }
    } else if (!line.starts_with("--config")) {
      input.arguments.push_back(line);
    }
  }
  if (section == kFile) input.file = text;
  return input;
}

absl::StatusOr<ParseResult> Parse(OptionSet& set, const std::vector<std::string>& arguments,
                                  const Environment& environment) {
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  return set.Parse(static_cast<int>(argv.size()), argv.data(), environment);
}

// A file in memory, rewritten by every run.
class MemoryFile {
 public:
  MemoryFile() : file_(memfd_create("options", 0)) { CHECK(file_ >= 0); }
  std::string Write(const std::string& text) const {
    CHECK(ftruncate(file_, 0) == 0);
    CHECK(pwrite(file_, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
    return "/proc/self/fd/" + std::to_string(file_);
  }

 private:
  const int file_;  // as long as the process
};

// Flags beat variables, variables beat the file; the source says which it was.
void CheckOrigin(const OptionValue& value, const Environment& environment) {
  const auto variable = environment.find(config::VariableOf(value.name));
  const bool has_variable = variable != environment.end() && !variable->second.empty();
  switch (value.origin) {
    case Origin::kFlag:
      CHECK(value.source == config::FlagOf(value.name)) << value.source;
      break;
    case Origin::kEnvironment:
      CHECK(has_variable && value.source == variable->first) << value.source;
      break;
    case Origin::kFile:
      CHECK(!has_variable && value.source.starts_with("/proc/self/fd/")) << value.source;
      break;
    case Origin::kDefault:
      CHECK(!has_variable && value.source.empty() && value.value == value.default_value);
  }
}

// Every value as the text that is reported, given as flags (as variables where no argument can hold
// it), comes to the same options.
void CheckReadBack(const Options& options, const std::vector<OptionValue>& values) {
  std::vector<std::string> arguments = {"program"};
  Environment environment;
  for (const OptionValue& value : values) {
    if (value.name == "config") continue;
    if (value.value.find('\0') == value.value.npos) {
      arguments.push_back(config::FlagOf(value.name) + "=" + value.value);
    } else {
      environment[config::VariableOf(value.name)] = value.value;
    }
  }
  arguments.push_back("--");
  arguments.insert(arguments.end(), options.files.begin(), options.files.end());
  Options again;
  OptionSet set("program", "reads options back.");
  Declare(set, &again);
  const auto result = Parse(set, arguments, environment);
  CHECK(result.ok()) << result.status().ToString() << config::ConfJson(values);
  CHECK(*result == ParseResult::kRun);
  CHECK(again == options) << config::ConfJson(values) << config::ConfJson(set.Values());
}

}  // namespace

bool RunTarget(std::span<const std::byte> bytes) {
  static const MemoryFile memory_file;
  Input input = InputOf(AsText(bytes));
  input.arguments.insert(input.arguments.begin() + 1, "--config=" + memory_file.Write(input.file));
  Options options;
  OptionSet set("program", "takes options.");
  Declare(set, &options);
  const auto result = Parse(set, input.arguments, input.environment);
  if (!result.ok()) {
    CheckRefusal(result.status());
    return false;
  }
  if (*result != ParseResult::kRun) {
    CHECK(options == Options()) << "help and version set nothing";
    return false;
  }
  CheckBounds(options);
  const std::vector<OptionValue> values = set.Values();
  for (const OptionValue& value : values) CheckOrigin(value, input.environment);
  CHECK(nlohmann::json::parse(config::ConfJson(values)).size() == values.size());
  CheckReadBack(options, values);
  return true;
}

}  // namespace sounder::fuzz
