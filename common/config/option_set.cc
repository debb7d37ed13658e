#include "common/config/option_set.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "CLI/App.hpp"
#include "CLI/Config.hpp"
#include "CLI/Formatter.hpp"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/config/option_file.h"
#include "common/config/option_text.h"

namespace sounder::config {
namespace {

bool IsOptionName(const std::string& name) {
  if (name.empty() || name.front() < 'a' || name.front() > 'z' || name.back() == '_') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

// "min..max", ">= min", "<= max" or nothing, for messages and help.
template <typename T, typename Format>
std::string RangeText(const Range<T>& range, const Format& format) {
  const Range<T> open;
  if (range.min == open.min && range.max == open.max) return "";
  if (range.max == open.max) return ">= " + format(range.min);
  if (range.min == open.min) return "<= " + format(range.max);
  return format(range.min) + ".." + format(range.max);
}

// Stores what `parse` makes of a text, if it lies in the range.
template <typename T, typename Parse>
std::function<absl::Status(const std::string&)> RangedRead(T* target, Range<T> range,
                                                           const std::string& range_text,
                                                           Parse parse) {
  return [=](const std::string& text) -> absl::Status {
    ASSIGN_OR_RETURN(const T value, parse(text));
    if (value < range.min || value > range.max) {
      return absl::InvalidArgumentError(text + " is out of range, expected " + range_text);
    }
    *target = value;
    return absl::OkStatus();
  };
}

absl::Status UnknownFlag(const std::string& flag, const std::vector<std::string>& names) {
  const std::string bare = flag.substr(0, flag.find('='));
  std::vector<std::string> flags = {"--help", "--version"};
  for (const std::string& name : names) flags.push_back(FlagOf(name));
  const std::string nearest = NearestWord(bare, flags);
  return absl::InvalidArgumentError("unknown flag " + bare +
                                    (nearest.empty() ? "" : "; did you mean " + nearest + "?"));
}

// The message without CLI11's trailing line ends.
std::string ParserMessage(const CLI::ParseError& error) {
  std::string text = error.what();
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  return text;
}

// "false" to `texts` for every --no-NAME.
absl::Status AddNegations(const CLI::Option& negated, const std::string& name,
                          std::vector<std::string>& texts) {
  for (const std::string& value : negated.results()) {
    if (value != "true") {
      return absl::InvalidArgumentError("--no-" + FlagOf(name).substr(2) + " takes no value");
    }
    texts.push_back("false");
  }
  return absl::OkStatus();
}

// The arguments as CLI11 takes a vector of them, the last first. It would read "--name=" as a flag
// whose value is the next argument; "--name" and "" say what was meant.
std::vector<std::string> ReversedArguments(int argc, const char* const* argv) {
  std::vector<std::string> arguments;
  bool flags = true;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    if (argument == "--") flags = false;
    if (flags && argument.size() > 3 && argument.starts_with("--") &&
        argument.find('=') == argument.size() - 1) {
      argument.pop_back();
      arguments.push_back(std::move(argument));
      argument.clear();
    }
    arguments.push_back(std::move(argument));
  }
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

}  // namespace

const char* OriginName(Origin origin) {
  switch (origin) {
    case Origin::kDefault:
      return "default";
    case Origin::kFile:
      return "file";
    case Origin::kEnvironment:
      return "environment";
    case Origin::kFlag:
      return "flag";
  }
  return "";
}

std::string FlagOf(const std::string& name) {
  std::string flag = "--" + name;
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

std::string VariableOf(const std::string& name) {
  std::string variable = "SOUNDER_" + name;
  for (char& c : variable) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return variable;
}

OptionSet::OptionSet(std::string program, std::string about)
    : program_(std::move(program)), about_(std::move(about)) {
  AddText("config", &config_file_, "YAML file with values for the options below");
  options_.back().value_hint = "FILE";
}

OptionSet::Option& OptionSet::Declare(const std::string& name, const std::string& help) {
  CHECK(IsOptionName(name)) << "\"" << name << "\"";
  CHECK(name != "help" && name != "version") << name << " exists in every set";
  for (const Option& option : options_) CHECK(option.name != name) << name << " declared twice";
  Option& option = options_.emplace_back();
  option.name = name;
  option.help = help;
  return option;
}

void OptionSet::AddInt(const std::string& name, int64_t* target, const std::string& help,
                       Range<int64_t> range) {
  Option& option = Declare(name, help);
  option.value_hint = "N";
  option.constraint = RangeText(range, [](int64_t v) { return std::to_string(v); });
  option.read = RangedRead(target, range, option.constraint, ParseInt);
  option.show = [target] { return std::to_string(*target); };
  option.default_text = option.show();
}

void OptionSet::AddDouble(const std::string& name, double* target, const std::string& help,
                          Range<double> range) {
  Option& option = Declare(name, help);
  option.value_hint = "X";
  option.constraint = RangeText(range, FormatDouble);
  option.read = RangedRead(target, range, option.constraint, ParseDouble);
  option.show = [target] { return FormatDouble(*target); };
  option.default_text = option.show();
}

void OptionSet::AddBool(const std::string& name, bool* target, const std::string& help) {
  Option& option = Declare(name, help);
  option.is_switch = true;
  option.read = [target](const std::string& text) -> absl::Status {
    ASSIGN_OR_RETURN(*target, ParseBool(text));
    return absl::OkStatus();
  };
  option.show = [target] { return std::string(*target ? "true" : "false"); };
  option.default_text = option.show();
}

void OptionSet::AddText(const std::string& name, std::string* target, const std::string& help,
                        const std::vector<std::string>& choices) {
  Option& option = Declare(name, help);
  option.value_hint = "TEXT";
  for (const std::string& choice : choices) {
    option.constraint += (option.constraint.empty() ? "" : "|") + choice;
  }
  option.read = [target, choices, expected = option.constraint](const std::string& text) {
    if (!choices.empty() && std::find(choices.begin(), choices.end(), text) == choices.end()) {
      const std::string nearest = NearestWord(text, choices);
      return absl::InvalidArgumentError("\"" + text + "\" is not one of " + expected +
                                        (nearest.empty() ? "" : "; did you mean " + nearest + "?"));
    }
    *target = text;
    return absl::OkStatus();
  };
  option.show = [target] { return *target; };
  option.default_text = option.show();
}

void OptionSet::AddList(const std::string& name, std::vector<std::string>* target,
                        const std::string& help) {
  Option& option = Declare(name, help);
  option.value_hint = "A,B";
  option.is_list = true;
  option.read = [target](const std::string& text) -> absl::Status {
    ASSIGN_OR_RETURN(*target, ParseList(text));
    return absl::OkStatus();
  };
  option.show = [target] { return FormatList(*target); };
  option.default_text = option.show();
}

void OptionSet::AddBytes(const std::string& name, int64_t* target, const std::string& help,
                         Range<int64_t> range) {
  Option& option = Declare(name, help);
  option.value_hint = "BYTES";
  option.constraint = range.min == 0 && range.max == Range<int64_t>().max
                          ? ""  // every byte count
                          : RangeText(range, FormatBytes);
  option.read = RangedRead(target, range, option.constraint, ParseBytes);
  option.show = [target] { return FormatBytes(*target); };
  option.default_text = option.show();
}

void OptionSet::AddDuration(const std::string& name, base::Duration* target,
                            const std::string& help, Range<base::Duration> range) {
  Option& option = Declare(name, help);
  option.value_hint = "TIME";
  option.constraint = range.min.count() == 0 && range.max == base::Duration::max()
                          ? ""  // every duration
                          : RangeText(range, FormatDuration);
  option.read = RangedRead(target, range, option.constraint, ParseDuration);
  option.show = [target] { return FormatDuration(*target); };
  option.default_text = option.show();
}

void OptionSet::Require(const std::string& name) {
  const auto found = std::find_if(options_.begin(), options_.end(),
                                  [&](const Option& option) { return option.name == name; });
  CHECK(found != options_.end()) << name << " is not declared";
  found->required = true;
}

void OptionSet::AddArguments(const std::string& name, std::vector<std::string>* target,
                             const std::string& help, size_t min_count, size_t max_count) {
  CHECK(!arguments_.has_value() && min_count <= max_count && max_count > 0);
  arguments_ = Arguments{name, help, target, min_count, max_count};
}

void OptionSet::AddCheck(std::function<absl::Status()> check) {
  checks_.push_back(std::move(check));
}

std::vector<std::string> OptionSet::Names() const {
  std::vector<std::string> names;
  for (const Option& option : options_) names.push_back(option.name);
  return names;
}

absl::StatusOr<OptionSet::Given> OptionSet::ReadFlags(int argc, const char* const* argv) const {
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  Given given;
  const CLI::Option* help = app.add_flag("-h,--help");
  const CLI::Option* version = app.add_flag("--version");
  std::map<std::string, CLI::Option*> parsed;
  std::map<std::string, CLI::Option*> negated;
  for (const Option& option : options_) {
    const std::string flag = FlagOf(option.name);
    if (option.is_switch) {
      // Not as one flag, "--x,!--no-x": CLI11 would negate a number given to --no-x, whatever it
      // is.
      parsed[option.name] = app.add_flag(flag);
      negated[option.name] = app.add_flag("--no-" + flag.substr(2));
    } else {
      parsed[option.name] = app.add_option(flag, given.flags[option.name])
                                ->expected(1)
                                ->allow_extra_args(false)
                                ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    }
  }
  try {
    app.parse(ReversedArguments(argc, argv));
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(ParserMessage(error));
  }
  if (help->count() > 0) given.result = ParseResult::kHelp;
  if (help->count() == 0 && version->count() > 0) given.result = ParseResult::kVersion;
  if (given.result != ParseResult::kRun) return given;
  // What the parser did not know, in order: arguments, unknown flags, and "--", after which
  // everything is an argument.
  bool only_arguments = false;
  for (const std::string& extra : app.remaining()) {
    if (!only_arguments && extra == "--") {
      only_arguments = true;
    } else if (!only_arguments && extra.size() > 1 && extra.front() == '-') {
      return UnknownFlag(extra, Names());
    } else if (!arguments_.has_value()) {
      return absl::InvalidArgumentError("unexpected argument \"" + extra + "\"");
    } else {
      given.arguments.push_back(extra);
    }
  }
  for (const Option& option : options_) {
    std::vector<std::string>& texts = given.flags[option.name];
    texts = parsed[option.name]->results();
    if (option.is_switch) RETURN_IF_ERROR(AddNegations(*negated[option.name], option.name, texts));
    if (texts.size() > 1 && !option.is_list) {
      return absl::InvalidArgumentError(FlagOf(option.name) + " was given more than once");
    }
  }
  return given;
}

absl::Status OptionSet::Apply(const Given& given, const Environment& environment,
                              const OptionFile& file) {
  for (Option& option : options_) {
    const std::vector<std::string>& flag = given.flags.at(option.name);
    const auto variable = environment.find(VariableOf(option.name));
    const auto key = file.find(option.name);
    std::string text;
    if (!flag.empty()) {
      text = FormatList(flag);
      option.origin = Origin::kFlag;
      option.source = FlagOf(option.name);
    } else if (variable != environment.end() && !variable->second.empty()) {
      text = variable->second;
      option.origin = Origin::kEnvironment;
      option.source = variable->first;
    } else if (key != file.end()) {
      text = key->second.text;
      option.origin = Origin::kFile;
      option.source = key->second.source;
    } else if (option.required) {
      return absl::InvalidArgumentError(FlagOf(option.name) + " is required (or " +
                                        VariableOf(option.name) + ")");
    } else {
      continue;
    }
    if (absl::Status status = option.read(text); !status.ok()) {
      const std::string from = option.origin == Origin::kFlag ? "" : " (" + option.source + ")";
      return base::Annotate(status, FlagOf(option.name) + from);
    }
  }
  return absl::OkStatus();
}

absl::Status OptionSet::TakeArguments(const Given& given) const {
  if (!arguments_.has_value()) return absl::OkStatus();
  const size_t count = given.arguments.size();
  if (count < arguments_->min_count) {
    return absl::InvalidArgumentError("expected " + std::to_string(arguments_->min_count) + " " +
                                      arguments_->name + ", got " + std::to_string(count));
  }
  if (count > arguments_->max_count) {
    return absl::InvalidArgumentError("unexpected argument \"" +
                                      given.arguments[arguments_->max_count] + "\"");
  }
  *arguments_->target = given.arguments;
  return absl::OkStatus();
}

absl::StatusOr<ParseResult> OptionSet::Parse(int argc, const char* const* argv,
                                             const Environment& environment) {
  ASSIGN_OR_RETURN(const Given given, ReadFlags(argc, argv));
  if (given.result != ParseResult::kRun) return given.result;
  std::string path;
  if (const auto found = environment.find(VariableOf("config")); found != environment.end()) {
    path = found->second;
  }
  if (!given.flags.at("config").empty()) path = given.flags.at("config").front();
  OptionFile file;
  if (!path.empty()) {
    std::vector<std::string> keys = Names();
    keys.erase(keys.begin());  // a file does not name another
    ASSIGN_OR_RETURN(file, ReadOptionFile(path, keys));
  }
  RETURN_IF_ERROR(Apply(given, environment, file));
  RETURN_IF_ERROR(TakeArguments(given));
  for (const auto& check : checks_) RETURN_IF_ERROR(check());
  return ParseResult::kRun;
}

std::vector<OptionValue> OptionSet::Values() const {
  std::vector<OptionValue> values;
  for (const Option& option : options_) {
    values.push_back({option.name, option.show(), option.default_text, option.origin, option.source,
                      option.help});
  }
  return values;
}

}  // namespace sounder::config
