// Option values as text: numbers, switches, byte counts ("8GiB"), durations ("500ms"), lists.
// One spelling for flags, files and variables. Pure functions; every Parse returns
// INVALID_ARGUMENT naming the text and what was expected, and every Format is read back by its
// Parse to the same value.
#ifndef SOUNDER_COMMON_CONFIG_OPTION_TEXT_H_
#define SOUNDER_COMMON_CONFIG_OPTION_TEXT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"

namespace sounder::config {

absl::StatusOr<int64_t> ParseInt(std::string_view text);
// Finite decimal numbers.
absl::StatusOr<double> ParseDouble(std::string_view text);
// true false yes no on off 1 0, in any case.
absl::StatusOr<bool> ParseBool(std::string_view text);
// Bytes: a number with B, KiB, MiB, GiB, TiB or kB, MB, GB, TB; plain numbers are bytes. Fractions
// are taken ("1.5GiB") where they come to whole bytes. Not negative.
absl::StatusOr<int64_t> ParseBytes(std::string_view text);
// A number with ns, us, ms, s, min, h; the unit is required except for 0. Not negative.
absl::StatusOr<base::Duration> ParseDuration(std::string_view text);
// Items between commas, without the blanks around them; empty items are refused, the empty text
// is the empty list.
absl::StatusOr<std::vector<std::string>> ParseList(std::string_view text);

// The shortest text that is read back to the same number.
std::string FormatDouble(double value);
// The largest binary unit that divides it: 8589934592 -> "8GiB", 1000 -> "1000B".
std::string FormatBytes(int64_t bytes);
// The largest unit that divides it: 1500 ms -> "1500ms".
std::string FormatDuration(base::Duration duration);
std::string FormatList(const std::vector<std::string>& items);

// The known word with the fewest edits from `word`, or "" where none is within a third of its
// length: what an error message suggests.
std::string NearestWord(std::string_view word, const std::vector<std::string>& known);

// Two columns: each pair's first text, then its second, wrapped at 100 columns. Lines end in '\n'.
std::string FormatColumns(const std::vector<std::pair<std::string, std::string>>& rows);

}  // namespace sounder::config

#endif  // SOUNDER_COMMON_CONFIG_OPTION_TEXT_H_
