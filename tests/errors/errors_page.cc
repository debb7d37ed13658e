#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/errors/error_case.h"

namespace sounder::tests {
namespace {

// A cell of a table must not hold the sign between cells.
std::string Cell(std::string_view text) {
  std::string cell;
  for (const char c : text) cell += c == '|' ? "\\|" : std::string(1, c);
  return cell;
}

}  // namespace

std::vector<ErrorGroup> AllErrors() {
  std::vector<ErrorGroup> groups;
  for (const auto& group :
       {OptionErrors, StartErrors, OpenErrors, AppendErrors, AttendErrors, BranchErrors, LoadErrors,
        StoreErrors, SilenceErrors, RequestErrors, AnswerErrors}) {
    groups.push_back(group());
  }
  return groups;
}

bool HasForm(std::string_view message, std::string_view form) {
  size_t at = 0;
  bool first = true;
  while (true) {
    const size_t name = form.find('<');
    const std::string_view literal = form.substr(0, name);
    if (name == std::string_view::npos) {
      return message.size() >= at + literal.size() && message.ends_with(literal) &&
             (!first || !literal.empty());
    }
    const size_t found = message.find(literal, at);
    if (found == std::string_view::npos) return false;
    at = found + literal.size();
    first = false;
    const size_t end = form.find('>', name);
    if (end == std::string_view::npos || at >= message.size()) return false;  // a name is not empty
    form.remove_prefix(end + 1);
    ++at;
  }
}

std::string ErrorsPage() {
  std::string page =
      "# Errors\n\n"
      "<!-- Made by scripts/errors_doc.sh from tests/errors, where each is brought about. -->\n\n"
      "What a node or the client library answers when it cannot do what was asked. Search for the "
      "part of the message\nwithout numbers and names; `<...>` stands for those. Before it may "
      "stand "
      "the node and the session it is about. The\ncode is in capitals: UNAVAILABLE, "
      "DEADLINE_EXCEEDED and RESOURCE_EXHAUSTED may pass when tried again, the others come\nagain "
      "as "
      "long as the same is asked.\n";
  for (const ErrorGroup& group : AllErrors()) {
    absl::StrAppend(&page, "\n## ", group.title, "\n", group.text, group.text.empty() ? "" : "\n\n",
                    "| message | code | cause | what to do |\n|---|---|---|---|\n");
    for (const ErrorCase& each : group.cases) {
      std::string messages;
      for (const Way& way : each.ways) {
        const std::string message = absl::StrCat("`", Cell(way.message), "`");
        if (absl::StrCat(messages, "<br>").find(message + "<br>") != std::string::npos) continue;
        absl::StrAppend(&messages, messages.empty() ? "" : "<br>", message);
      }
      absl::StrAppend(&page, "| ", messages, " | ", absl::StatusCodeToString(each.code), " | ",
                      Cell(each.cause), " | ", Cell(each.remedy), " |\n");
    }
  }
  return page;
}

}  // namespace sounder::tests
