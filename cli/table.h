// Results for people and for programs: one list of named figures, printed as an aligned table or as
// one JSON object; and tables with several columns. Values keep their order. Not thread safe.
#ifndef SOUNDER_CLI_TABLE_H_
#define SOUNDER_CLI_TABLE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace sounder::cli {

using Value = std::variant<bool, int64_t, double, std::string>;

// As in JSON, but for doubles: `digits` significant digits; text without quotes.
std::string FormatValue(const Value& value, int digits = 6);

// Named values, one row each.
class Record {
 public:
  // Names once each (CHECK).
  void Add(std::string name, Value value);

  const std::vector<std::pair<std::string, Value>>& values() const { return values_; }
  // One object on one line, no newline at the end. Doubles keep all their digits; those that are
  // not finite become null, as JSON has no word for them.
  std::string ToJson() const;
  // "name  value\n" with the values in one column.
  std::string ToText() const;

 private:
  std::vector<std::pair<std::string, Value>> values_;
};

// Rows under a header, columns as wide as they need, numbers to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> columns);
  // As many values as columns (CHECK).
  void AddRow(std::vector<Value> row);
  std::string ToText() const;

 private:
  std::vector<std::string> columns_;
  std::vector<std::vector<Value>> rows_;
};

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_TABLE_H_
