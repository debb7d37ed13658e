// What an OptionSet says to people: usage, help, version, and the way out of main().
#include <cstdio>
#include <utility>

#include "common/base/absl_text.h"
#include "common/config/option_set.h"
#include "common/config/option_text.h"
#include "common/config/version.h"

namespace sounder::config {

std::optional<int> OptionSet::ParseOrExit(int argc, const char* const* argv,
                                          const Environment& environment) {
  const absl::StatusOr<ParseResult> result = Parse(argc, argv, environment);
  if (!result.ok()) {
    std::fprintf(stderr, "%s: %s\n%s\nTry '%s --help'.\n", program_.c_str(),
                 base::MessageOf(result.status()).c_str(), UsageLine().c_str(), program_.c_str());
    return kExitUsage;
  }
  if (*result == ParseResult::kRun) return std::nullopt;
  const std::string text = *result == ParseResult::kHelp ? HelpText() : VersionLine() + "\n";
  std::fputs(text.c_str(), stdout);
  return std::fflush(stdout) == 0 ? 0 : 1;
}

std::string OptionSet::UsageLine() const {
  std::string line = "usage: " + program_;
  for (const Option& option : options_) {
    if (option.required) line += " " + FlagOf(option.name) + " " + option.value_hint;
  }
  line += " [OPTION...]";
  if (arguments_.has_value()) {
    const bool many = arguments_->max_count > 1;
    const std::string item = arguments_->name + (many ? "..." : "");
    line += arguments_->min_count == 0 ? " [" + item + "]" : " " + item;
  }
  return line;
}

std::string OptionSet::HelpText() const {
  // name and description in two columns, long descriptions wrapped at 100
  std::vector<std::pair<std::string, std::string>> rows;
  if (arguments_.has_value()) rows.emplace_back(arguments_->name, arguments_->help);
  for (const Option& option : options_) {
    std::string left = FlagOf(option.name);
    if (!option.is_switch) left += " " + option.value_hint;
    std::string right = option.help;
    if (!option.constraint.empty()) right += " [" + option.constraint + "]";
    if (option.required) {
      right += " (required)";
    } else if (!option.default_text.empty()) {
      right += " (default: " + option.default_text + ")";
    }
    rows.emplace_back(std::move(left), std::move(right));
  }
  rows.emplace_back("-h, --help", "this text");
  rows.emplace_back("--version", "the version of the program");
  std::string text = UsageLine() + "\n\n" + about_ + "\n\n" + FormatColumns(rows) + "\n";
  text +=
      "Every option may also be set as SOUNDER_<OPTION> in the environment (SOUNDER_CONFIG\n"
      "for --config) or, with underscores, as a key of the --config file. A flag beats the\n"
      "environment, the environment beats the file.\n";
  return text;
}

}  // namespace sounder::config
