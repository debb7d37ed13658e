// Small texts that people and peers write: numbers, byte counts, durations, lists, addresses,
// session ids, kernel schedules; and what is done to texts that are logged. Every parser reads the
// whole input.
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "common/config/host_port.h"
#include "common/config/logging.h"
#include "common/config/option_text.h"
#include "common/kernels/kernel_schedule.h"
#include "common/transport/address.h"
#include "tests/fuzz/target.h"

namespace sounder::fuzz {
namespace {

std::string Trimmed(const std::string& text) {
  constexpr char kBlanks[] = " \t\n\v\f\r";
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == text.npos) return "";
  return text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

// What the parser took is what the C library makes of the text (from where it has no blanks).
bool CheckInt(const std::string& text) {
  const auto value = config::ParseInt(text);
  const std::string trimmed = Trimmed(text);
  char* end = nullptr;
  errno = 0;
  const int64_t expected = std::strtoll(trimmed.c_str(), &end, 10);
  const bool is_int = errno == 0 && !trimmed.empty() && end == trimmed.data() + trimmed.size() &&
                      trimmed.find_first_of(" \t\n\v\f\r") == trimmed.npos;
  CHECK(value.ok() == is_int) << text;
  if (!value.ok()) {
    CheckRefusal(value.status());
    return false;
  }
  CHECK(*value == expected) << text;
  return true;
}

bool CheckDouble(const std::string& text) {
  const auto value = config::ParseDouble(text);
  if (!value.ok()) {
    CheckRefusal(value.status());
    return false;
  }
  const std::string trimmed = Trimmed(text);
  char* end = nullptr;
  CHECK(std::strtod(trimmed.c_str(), &end) == *value) << text;
  CHECK(end == trimmed.data() + trimmed.size() && std::isfinite(*value)) << text;
  CHECK(config::ParseDouble(config::FormatDouble(*value)).value() == *value) << text;
  return true;
}

// A value that was read is written to a text that is read to the same value.
template <typename Value, typename Parse, typename Format>
bool CheckReadBack(const std::string& text, const absl::StatusOr<Value>& value, Parse parse,
                   Format format) {
  if (!value.ok()) {
    CheckRefusal(value.status());
    return false;
  }
  const auto again = parse(format(*value));
  CHECK(again.ok() && *again == *value) << text << " as " << format(*value);
  return true;
}

bool CheckList(const std::string& text) {
  const auto items = config::ParseList(text);
  if (items.ok()) {
    for (const std::string& item : *items) {
      CHECK(!item.empty() && item == Trimmed(item) && item.find(',') == item.npos) << text;
    }
  }
  return CheckReadBack(text, items, config::ParseList, config::FormatList);
}

// Two parsers read addresses, for flags and for sockets; what one takes the other one takes.
bool CheckAddress(const std::string& text) {
  const auto flag = config::ParseHostPort(text);
  const auto socket = transport::ParseHostPort(text);
  CHECK(flag.ok() == socket.ok()) << text;
  if (!flag.ok()) {
    CheckRefusal(flag.status());
    CheckRefusal(socket.status());
    return false;
  }
  CHECK(flag->host == socket->host && flag->port == socket->port) << text;
  CHECK(!flag->host.empty() && flag->port >= 0 && flag->port <= 65535) << text;
  // Nothing that the system's resolver would read otherwise, or a log as two lines.
  for (const char c : flag->host) CHECK(static_cast<unsigned char>(c) > 0x20 && c != '/') << text;
  const std::string written = flag->ToString();
  CHECK(written == transport::FormatHostPort(*socket)) << text;
  CHECK(config::ParseHostPort(written).value() == *flag) << written;
  return true;
}

bool CheckSchedule(const std::string& text) {
  const auto schedule = kernels::ParseSchedule(text);
  if (schedule.ok()) {
    for (const kernels::ScheduleField& field : kernels::ScheduleFields()) {
      const int value = (*schedule).*field.value;
      CHECK(value >= field.min && value <= field.max) << field.name << " " << value;
    }
  }
  return CheckReadBack(text, schedule, kernels::ParseSchedule, kernels::ScheduleText);
}

bool CheckSessionId(const std::string& text) {
  const auto id = base::SessionId::Parse(text);
  if (!id.has_value()) return false;
  CHECK(base::SessionId::Parse(id->ToString()) == id) << text;
  std::string lower = text;
  for (char& c : lower) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
  CHECK(id->ToString() == lower) << text;
  return true;
}

// A logged text is one line, and only one text is logged like this.
void CheckLogged(const std::string& text) {
  const std::string escaped = config::EscapeLogMessage(text);
  std::string again;
  for (size_t i = 0; i < escaped.size(); ++i) {
    const auto byte = static_cast<unsigned char>(escaped[i]);
    CHECK(byte >= 0x20 && byte != 0x7f) << escaped;
    if (escaped[i] != '\\') {
      again += escaped[i];
      continue;
    }
    ++i;
    if (escaped[i] == 'x') {
      again += static_cast<char>(std::stoi(escaped.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      again += escaped[i] == 'n' ? '\n' : escaped[i];
    }
  }
  CHECK(again == text) << escaped;
}

void CheckNearest(const std::string& text) {
  const std::vector<std::string> words = {"--seal-rows", "--deadline", "exact", "a"};
  const std::string nearest = config::NearestWord(text, words);
  bool known = nearest.empty();
  for (const std::string& word : words) known = known || word == nearest;
  CHECK(known) << nearest;
  for (const std::string& word : words) CHECK(text != word || nearest == word) << text;
}

}  // namespace

bool RunTarget(std::span<const std::byte> input) {
  const std::string text(AsText(input));
  CheckLogged(text);
  CheckNearest(text.substr(0, 64));
  bool accepted = CheckInt(text);
  accepted = CheckDouble(text) || accepted;
  accepted =
      CheckReadBack(text, config::ParseBytes(text), config::ParseBytes, config::FormatBytes) ||
      accepted;
  accepted = CheckReadBack(text, config::ParseDuration(text), config::ParseDuration,
                           config::FormatDuration) ||
             accepted;
  accepted = CheckReadBack(text, config::ParseBool(text), config::ParseBool,
                           [](bool value) { return value ? "true" : "false"; }) ||
             accepted;
  accepted = CheckAddress(text) || accepted;
  accepted = CheckSessionId(text) || accepted;
  accepted = (CheckSchedule(text) && !Trimmed(text).empty()) || accepted;
  CheckList(text);  // takes nearly everything
  return accepted;
}

}  // namespace sounder::fuzz
