// Where sources make error statuses, and what the messages of each have in common.
#ifndef SOUNDER_TESTS_ERRORS_ERROR_SITES_H_
#define SOUNDER_TESTS_ERRORS_ERROR_SITES_H_

#include <string>
#include <string_view>
#include <vector>

namespace sounder::tests {

// One expression absl::...Error(...), or absl::Status(code, ...).
struct ErrorSite {
  std::string file;
  int line = 0;
  // The literal parts of its message, in order; those of conditional expressions are left out.
  std::vector<std::string> literals;

  // "wire/codec.cc: item ... : ...", the line left out so that it stays the same when code moves.
  std::string Name() const;
};

// The sites of a source text, comments left out.
std::vector<ErrorSite> SitesOf(const std::string& file, std::string_view source);
// Those of every .h and .cc in the folders, which are relative to the working directory.
std::vector<ErrorSite> SitesIn(const std::vector<std::string>& folders);

// Whether a message can have been made there: it has all literals, in order. False for a site with
// less than ten letters of literals, which would fit too much.
bool MadeAt(const ErrorSite& site, std::string_view message);

}  // namespace sounder::tests

#endif  // SOUNDER_TESTS_ERRORS_ERROR_SITES_H_
