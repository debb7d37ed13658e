#include "common/config/option_text.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <sstream>
#include <utility>

#include "absl/status/status.h"

namespace sounder::config {
namespace {

struct Unit {
  std::string_view name;
  int64_t size;
};

constexpr std::array kByteUnits = {Unit{"TiB", int64_t{1} << 40},
                                   Unit{"GiB", int64_t{1} << 30},
                                   Unit{"MiB", int64_t{1} << 20},
                                   Unit{"KiB", int64_t{1} << 10},
                                   Unit{"TB", 1'000'000'000'000},
                                   Unit{"GB", 1'000'000'000},
                                   Unit{"MB", 1'000'000},
                                   Unit{"kB", 1'000},
                                   Unit{"KB", 1'000},
                                   Unit{"B", 1},
                                   Unit{"", 1}};
constexpr std::array kTimeUnits = {
    Unit{"h", 3'600'000'000'000}, Unit{"min", 60'000'000'000}, Unit{"s", 1'000'000'000},
    Unit{"ms", 1'000'000},        Unit{"us", 1'000},           Unit{"ns", 1}};

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) {
    text.remove_prefix(1);
  }
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) {
    text.remove_suffix(1);
  }
  return text;
}

absl::Status Bad(std::string_view text, const std::string& expected) {
  return absl::InvalidArgumentError("\"" + std::string(text) + "\" is not " + expected);
}

// The whole of `text` as a number of type T; false where it is not one.
template <typename T>
bool Number(std::string_view text, T* value) {
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *value);
  return !text.empty() && error == std::errc() && stop == end;
}

// "<number><unit>" as a whole number of the smallest unit. `expected` is for the message.
absl::StatusOr<int64_t> ParseScaled(std::string_view text, const Unit* begin, const Unit* end,
                                    const std::string& expected) {
  const std::string_view trimmed = Trimmed(text);
  const size_t digits = std::min(trimmed.find_first_not_of("0123456789."), trimmed.size());
  const std::string_view number = trimmed.substr(0, digits);
  const std::string_view unit_name = Trimmed(trimmed.substr(digits));
  const Unit* unit = std::find_if(begin, end, [&](const Unit& u) { return u.name == unit_name; });
  int64_t whole = 0;
  if (unit == end || number.empty()) return Bad(text, expected);
  if (Number(number, &whole)) {
    int64_t scaled = 0;
    if (__builtin_mul_overflow(whole, unit->size, &scaled)) return Bad(text, "below 2^63");
    return scaled;
  }
  double fraction = 0;
  if (!Number(number, &fraction)) return Bad(text, expected);
  const double scaled = fraction * static_cast<double>(unit->size);
  if (scaled >= 9e15) return Bad(text, "exact: write it without a decimal point");
  if (scaled != std::floor(scaled))
    return Bad(text, "a whole number of " + std::string((end - 1)->name.empty() ? "bytes" : "ns"));
  return static_cast<int64_t>(scaled);
}

// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
int EditDistance(std::string_view a, std::string_view b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  std::vector<int> above;  // one row up
  std::vector<int> twice;  // two rows up
  for (size_t i = 1; i <= a.size(); ++i) {
    twice = std::exchange(above, row);
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int replaced = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, replaced});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], twice[j - 2] + 1);
    }
  }
  return row[b.size()];
}

}  // namespace

absl::StatusOr<int64_t> ParseInt(std::string_view text) {
  int64_t value = 0;
  if (!Number(Trimmed(text), &value)) return Bad(text, "a whole number");
  return value;
}

absl::StatusOr<double> ParseDouble(std::string_view text) {
  double value = 0;
  if (!Number(Trimmed(text), &value) || !std::isfinite(value)) return Bad(text, "a finite number");
  return value;
}

absl::StatusOr<bool> ParseBool(std::string_view text) {
  std::string lower(Trimmed(text));
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const char* yes : {"true", "yes", "on", "1"}) {
    if (lower == yes) return true;
  }
  for (const char* no : {"false", "no", "off", "0"}) {
    if (lower == no) return false;
  }
  return Bad(text, "true or false");
}

absl::StatusOr<int64_t> ParseBytes(std::string_view text) {
  return ParseScaled(text, kByteUnits.data(), kByteUnits.data() + kByteUnits.size(),
                     "a byte count such as 8GiB, 512MiB or 4096");
}

absl::StatusOr<base::Duration> ParseDuration(std::string_view text) {
  if (Trimmed(text) == "0") return base::Duration(0);
  const auto count = ParseScaled(text, kTimeUnits.data(), kTimeUnits.data() + kTimeUnits.size(),
                                 "a duration such as 500ms, 2s or 1.5h");
  if (!count.ok()) return count.status();
  return base::Duration(*count);
}

absl::StatusOr<std::vector<std::string>> ParseList(std::string_view text) {
  std::vector<std::string> items;
  if (Trimmed(text).empty()) return items;
  for (std::string_view rest = text;;) {
    const size_t comma = rest.find(',');
    const std::string_view item = Trimmed(rest.substr(0, comma));
    if (item.empty()) return Bad(text, "a list: it has an empty item");
    items.emplace_back(item);
    if (comma == std::string_view::npos) return items;
    rest.remove_prefix(comma + 1);
  }
}

std::string FormatDouble(double value) {
  std::array<char, 32> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() ? std::string(text.data(), end) : std::to_string(value);
}

std::string FormatBytes(int64_t bytes) {
  for (const Unit& unit : kByteUnits) {
    if (unit.name.ends_with("iB") && bytes != 0 && bytes % unit.size == 0) {
      return std::to_string(bytes / unit.size) + std::string(unit.name);
    }
  }
  return std::to_string(bytes) + "B";
}

std::string FormatDuration(base::Duration duration) {
  for (const Unit& unit : kTimeUnits) {
    if (duration.count() != 0 && duration.count() % unit.size == 0) {
      return std::to_string(duration.count() / unit.size) + std::string(unit.name);
    }
  }
  return "0s";
}

std::string FormatList(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ",") + item;
  return text;
}

std::string NearestWord(std::string_view word, const std::vector<std::string>& known) {
  std::string nearest;
  int fewest = static_cast<int>(std::max<size_t>(word.size(), 3)) / 3 + 1;
  for (const std::string& candidate : known) {
    const int edits = EditDistance(word, candidate);
    if (edits < fewest) {
      fewest = edits;
      nearest = candidate;
    }
  }
  return nearest;
}

std::string FormatColumns(const std::vector<std::pair<std::string, std::string>>& rows) {
  constexpr size_t kWidth = 100;
  constexpr size_t kMaxLeft = 34;  // longer ones get a line of their own
  size_t left_width = 0;
  for (const auto& [left, right] : rows) {
    if (left.size() <= kMaxLeft) left_width = std::max(left_width, left.size());
  }
  const std::string indent(left_width + 4, ' ');
  std::string text;
  for (const auto& [left, right] : rows) {
    std::string line = "  " + left;
    if (line.size() + 2 > indent.size()) {
      text += line + "\n";
      line = indent;
    }
    line.resize(std::max(line.size(), indent.size()), ' ');
    std::istringstream words(right);
    for (std::string word; words >> word;) {
      if (line.size() + word.size() > kWidth && line.size() > indent.size()) {
        text += line + "\n";
        line = indent;
      }
      line += (line.size() > indent.size() ? " " : "") + word;
    }
    text += line + "\n";
  }
  return text;
}

}  // namespace sounder::config
