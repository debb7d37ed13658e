// The errors a user can meet: what each says, why, what to do, and how it is reached.
#ifndef SOUNDER_TESTS_ERRORS_ERROR_CASE_H_
#define SOUNDER_TESTS_ERRORS_ERROR_CASE_H_

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace sounder::tests {

// One way to an error, through doors that a user has.
struct Way {
  // The message, with <names> for what varies; other text may stand before it ("node <address>: ").
  std::string message;
  std::function<absl::Status()> reach;
};

// Errors that are one thing to a user.
struct ErrorCase {
  absl::StatusCode code;
  std::vector<Way> ways;
  std::string cause;
  std::string remedy;
};

// A heading of docs/errors.md and what stands below it.
struct ErrorGroup {
  std::string title;
  std::string text;
  std::vector<ErrorCase> cases;
};

ErrorGroup OptionErrors();
ErrorGroup StartErrors();
ErrorGroup OpenErrors();
ErrorGroup AppendErrors();
ErrorGroup AttendErrors();
ErrorGroup BranchErrors();
ErrorGroup LoadErrors();
ErrorGroup StoreErrors();
ErrorGroup SilenceErrors();
ErrorGroup RequestErrors();
ErrorGroup AnswerErrors();
// All of them, in the order of the page.
std::vector<ErrorGroup> AllErrors();

// Places in the sources that make statuses no user meets on their own.
struct Unmet {
  std::string site;  // ErrorSite::Name()
  std::string reason;
};
std::vector<Unmet> UnmetErrors();

// Whether a message is one of that form.
bool HasForm(std::string_view message, std::string_view form);

// docs/errors.md.
std::string ErrorsPage();

}  // namespace sounder::tests

#endif  // SOUNDER_TESTS_ERRORS_ERROR_CASE_H_
