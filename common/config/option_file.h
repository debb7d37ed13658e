// Option files: one flat YAML map of option names to values. Pure functions but for the reading.
#ifndef SOUNDER_COMMON_CONFIG_OPTION_FILE_H_
#define SOUNDER_COMMON_CONFIG_OPTION_FILE_H_

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace sounder::config {

inline constexpr size_t kMaxOptionFileBytes = size_t{1} << 20;

struct FileValue {
  std::string text;    // as a flag would give it; sequences joined by commas
  std::string source;  // "node.yaml:3"
};
using OptionFile = std::map<std::string, FileValue>;

// The file's values. An empty file has none. NOT_FOUND where it cannot be read; INVALID_ARGUMENT,
// with file and line, for text that is not YAML, a key that is unknown (naming the nearest) or
// given twice, and a value that is a map or missing.
absl::StatusOr<OptionFile> ReadOptionFile(const std::string& path,
                                          const std::vector<std::string>& known_keys);
// The same of a text; `name` stands for the path in messages.
absl::StatusOr<OptionFile> ParseOptionFile(const std::string& text, const std::string& name,
                                           const std::vector<std::string>& known_keys);

}  // namespace sounder::config

#endif  // SOUNDER_COMMON_CONFIG_OPTION_FILE_H_
