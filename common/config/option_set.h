// The options of one program or command, declared once and set in three ways: as a flag, as an
// environment variable, as a key of a YAML file. An option named `seal_rows` is the flag
// --seal-rows, the variable SOUNDER_SEAL_ROWS and the key seal_rows. A flag beats a variable, a
// variable beats the file named by --config (or SOUNDER_CONFIG), the file beats the default.
//
//   struct Options { int64_t seal_rows = 4096; base::Duration deadline = 2s; };
//   Options options;
//   config::OptionSet set("sounder_node", "Stores and attends to KV rows.");
//   set.AddInt("seal_rows", &options.seal_rows, "rows per segment", {.min = 64, .max = 65536});
//   set.AddDuration("deadline", &options.deadline, "how long a request may take");
//   if (std::optional<int> exit = set.ParseOrExit(argc, argv, environment)) return *exit;
//
// Every target holds its default when it is declared, and is written only by a Parse that
// succeeds in reading it. A variable that is set but empty counts as not set. Variables that
// belong to no option are ignored (other programs share the environment); unknown keys of a file
// and unknown flags are errors that name the nearest known one. Every set has --config, --help
// (-h) and --version.
//
// Errors are INVALID_ARGUMENT (NOT_FOUND for a file that cannot be read) and name the option,
// where the value came from, and what was expected. Targets must outlive the set. Not thread safe.
#ifndef SOUNDER_COMMON_CONFIG_OPTION_SET_H_
#define SOUNDER_COMMON_CONFIG_OPTION_SET_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/config/environment.h"
#include "common/config/option_file.h"

namespace sounder::config {

inline constexpr int kExitUsage = 2;  // exit status of a program called in a wrong way

// Inclusive bounds of a value.
template <typename T>
struct Range {
  T min = std::numeric_limits<T>::lowest();
  T max = std::numeric_limits<T>::max();
};

enum class Origin { kDefault, kFile, kEnvironment, kFlag };
const char* OriginName(Origin origin);  // "default", "file", "environment", "flag"

// An option and its value after Parse.
struct OptionValue {
  std::string name;           // seal_rows
  std::string value;          // as text; the option reads it back to the same value
  std::string default_value;  // as text
  Origin origin = Origin::kDefault;
  std::string source;  // where exactly: "--seal-rows", "SOUNDER_SEAL_ROWS", "node.yaml:3", ""
  std::string help;
};

enum class ParseResult { kRun, kHelp, kVersion };

class OptionSet {
 public:
  // program: what the user typed, "sounder_node" or "sounder_worker generate". about: what it
  // does, in a sentence.
  OptionSet(std::string program, std::string about);
  OptionSet(const OptionSet&) = delete;
  OptionSet& operator=(const OptionSet&) = delete;

  // Declarations, all before Parse. name: lower_case_with_underscores, once per set (CHECK).
  void AddInt(const std::string& name, int64_t* target, const std::string& help,
              Range<int64_t> range = {});
  void AddDouble(const std::string& name, double* target, const std::string& help,
                 Range<double> range = {});
  // A switch: --name, --name=false, --no-name.
  void AddBool(const std::string& name, bool* target, const std::string& help);
  // choices: the only values taken, any where empty.
  void AddText(const std::string& name, std::string* target, const std::string& help,
               const std::vector<std::string>& choices = {});
  // --name a,b or --name a --name b; a YAML sequence.
  void AddList(const std::string& name, std::vector<std::string>* target, const std::string& help);
  void AddBytes(const std::string& name, int64_t* target, const std::string& help,
                Range<int64_t> range = {.min = 0});
  void AddDuration(const std::string& name, base::Duration* target, const std::string& help,
                   Range<base::Duration> range = {.min = base::Duration(0),
                                                  .max = base::Duration::max()});
  // The option must be set somewhere.
  void Require(const std::string& name);
  // Arguments that are not flags; `name` is for the usage line. At most once. min_count <= n <=
  // max_count arguments.
  void AddArguments(const std::string& name, std::vector<std::string>* target,
                    const std::string& help, size_t min_count, size_t max_count);
  // A relation between options, checked after all are read. Its message names the options.
  void AddCheck(std::function<absl::Status()> check);

  // argv[0] is skipped. kHelp and kVersion: the user asked for them and nothing was set.
  absl::StatusOr<ParseResult> Parse(int argc, const char* const* argv,
                                    const Environment& environment);
  // Parse for main(): prints help or version to stdout, an error and the usage line to stderr.
  // Returns the exit status to leave with, or nothing where the program should run.
  std::optional<int> ParseOrExit(int argc, const char* const* argv, const Environment& environment);

  std::string HelpText() const;
  std::string UsageLine() const;
  // In order of declaration, --config first. After a Parse that returned kRun.
  std::vector<OptionValue> Values() const;

 private:
  struct Option {
    std::string name;
    std::string help;
    std::string value_hint;  // "N", "BYTES", empty for switches
    std::string constraint;  // "64..65536", "exact|lsh", may be empty
    std::string default_text;
    bool is_switch = false;
    bool is_list = false;
    bool required = false;
    std::function<absl::Status(const std::string&)> read;  // checks and stores
    std::function<std::string()> show;
    Origin origin = Origin::kDefault;
    std::string source;
  };
  struct Arguments {
    std::string name;
    std::string help;
    std::vector<std::string>* target = nullptr;
    size_t min_count = 0;
    size_t max_count = 0;
  };
  // Texts of the options that were set, and of the arguments.
  struct Given {
    std::map<std::string, std::vector<std::string>> flags;
    std::vector<std::string> arguments;
    ParseResult result = ParseResult::kRun;
  };
  Option& Declare(const std::string& name, const std::string& help);
  std::vector<std::string> Names() const;
  absl::StatusOr<Given> ReadFlags(int argc, const char* const* argv) const;
  absl::Status Apply(const Given& given, const Environment& environment, const OptionFile& file);
  absl::Status TakeArguments(const Given& given) const;

  const std::string program_;
  const std::string about_;
  std::string config_file_;
  std::vector<Option> options_;
  std::optional<Arguments> arguments_;
  std::vector<std::function<absl::Status()>> checks_;
};

// "--seal-rows" and "SOUNDER_SEAL_ROWS" of "seal_rows".
std::string FlagOf(const std::string& name);
std::string VariableOf(const std::string& name);

}  // namespace sounder::config

#endif  // SOUNDER_COMMON_CONFIG_OPTION_SET_H_
