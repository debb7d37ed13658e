#include "cli/table.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "common/base/check.h"

namespace sounder::cli {
namespace {

bool IsNumber(const Value& value) {
  return std::holds_alternative<int64_t>(value) || std::holds_alternative<double>(value);
}

std::string Padded(const std::string& text, size_t width, bool right) {
  const std::string blanks(width - std::min(width, text.size()), ' ');
  return right ? blanks + text : text + blanks;
}

}  // namespace

std::string FormatValue(const Value& value, int digits) {
  if (const bool* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  if (const int64_t* number = std::get_if<int64_t>(&value)) return std::to_string(*number);
  if (const std::string* text = std::get_if<std::string>(&value)) return *text;
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*g", digits, std::get<double>(value));
  return buffer;
}

void Record::Add(std::string name, Value value) {
  for (const auto& [known, _] : values_) CHECK(known != name) << name << " is given twice";
  values_.emplace_back(std::move(name), std::move(value));
}

std::string Record::ToJson() const {
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  for (const auto& [name, value] : values_) {
    std::visit([&object, &key = name](const auto& typed) { object[key] = typed; }, value);
  }
  // Names and texts may hold bytes that are not UTF-8 (file names); they are replaced.
  return object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string Record::ToText() const {
  size_t width = 0;
  for (const auto& [name, _] : values_) width = std::max(width, name.size());
  std::string text;
  for (const auto& [name, value] : values_) {
    text += Padded(name, width + 2, false) + FormatValue(value) + "\n";
  }
  return text;
}

Table::Table(std::vector<std::string> columns) : columns_(std::move(columns)) {}

void Table::AddRow(std::vector<Value> row) {
  CHECK(row.size() == columns_.size()) << row.size() << " values for " << columns_.size();
  rows_.push_back(std::move(row));
}

std::string Table::ToText() const {
  std::vector<size_t> widths;
  for (size_t c = 0; c < columns_.size(); ++c) {
    size_t width = columns_[c].size();
    for (const auto& row : rows_) width = std::max(width, FormatValue(row[c]).size());
    widths.push_back(width);
  }
  const auto line = [&](const auto& cell) {
    std::string text;
    for (size_t c = 0; c < columns_.size(); ++c) {
      text += (c == 0 ? "" : "  ") + cell(c);
    }
    return text.substr(0, text.find_last_not_of(' ') + 1) + "\n";
  };
  std::string text = line([&](size_t c) {
    const bool right = !rows_.empty() && IsNumber(rows_[0][c]);
    return Padded(columns_[c], widths[c], right);
  });
  text += line([&](size_t c) { return std::string(widths[c], '-'); });
  for (const auto& row : rows_) {
    text +=
        line([&](size_t c) { return Padded(FormatValue(row[c]), widths[c], IsNumber(row[c])); });
  }
  return text;
}

}  // namespace sounder::cli
