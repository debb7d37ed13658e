// The rules of the house that a compiler does not know, as pure functions over texts.
#ifndef SOUNDER_TESTS_TIDY_TIDY_H_
#define SOUNDER_TESTS_TIDY_TIDY_H_

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace sounder::tidy {

// The order of the folders, side -> folders, as cmake/house.cmake has it.
struct House {
  std::map<std::string, std::vector<std::string>> sides;
  std::string cli_last_kv_node_folder;
};

// Reads the set(SOUNDER_HOUSE_<side> ...) lines. Empty sides where there are none.
House ParseHouse(std::string_view house_cmake);

struct Violation {
  std::string path;
  size_t line = 0;  // from 1; 0: the whole file
  std::string rule;
  std::string message;

  std::string ToString() const;  // "path:line: rule: message"
};

// All violations of one file. path: from the root of the repository, with '/'.
std::vector<Violation> CheckFile(const House& house, const std::string& path,
                                 std::string_view text);

}  // namespace sounder::tidy

#endif  // SOUNDER_TESTS_TIDY_TIDY_H_
