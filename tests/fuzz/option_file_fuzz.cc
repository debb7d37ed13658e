// Option files: flat YAML, folded.
#include <algorithm>
#include <charconv>
#include <string>
#include <vector>

#include "common/config/option_file.h"
#include "tests/fuzz/mutations.h"
#include "tests/fuzz/target.h"

namespace sounder::fuzz {
namespace {

const std::vector<std::string>& Keys() {
  static const std::vector<std::string> keys = {"a", "seal_rows", "nodes", "deadline"};
  return keys;
}

// The text as a double-quoted scalar of YAML.
std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    constexpr char kDigits[] = "0123456789abcdef";
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += {'\\', c};
    } else if (byte < 0x20 || byte == 0x7f) {
      quoted += {'\\', 'x', kDigits[byte / 16], kDigits[byte % 16]};
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

// "f:N", with N a line of the text.
void CheckSource(const std::string& source, const std::string& text) {
  CHECK(source.starts_with("f:")) << source;
  size_t line = 0;
  const char* const end = source.data() + source.size();
  const auto [stop, error] = std::from_chars(source.data() + 2, end, line);
  CHECK(error == std::errc() && stop == end) << source;
  const auto lines =
      std::count_if(text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r'; });
  CHECK(line >= 1 && line <= static_cast<size_t>(lines) + 1) << source;
}

}  // namespace

bool RunTarget(std::span<const std::byte> input) {
  const std::string text = Unfold(AsText(input));
  const auto file = config::ParseOptionFile(text, "f", Keys());
  if (!file.ok()) {
    CheckRefusal(file.status());
    CHECK(file.status().message().substr(0, 1) == "f") << file.status().ToString();
    return false;
  }
  std::string again_text;
  for (const auto& [key, value] : *file) {
    CHECK(std::find(Keys().begin(), Keys().end(), key) != Keys().end()) << key;
    CheckSource(value.source, text);
    again_text += key + ": " + Quoted(value.text) + "\n";
  }
  const auto again = config::ParseOptionFile(again_text, "f", Keys());
  CHECK(again.ok()) << again.status().ToString() << "\n" << again_text;
  CHECK(again->size() == file->size());
  for (const auto& [key, value] : *file) {
    CHECK(again->at(key).text == value.text) << key << "\n" << again_text;
  }
  return !file->empty();
}

}  // namespace sounder::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return sounder::fuzz::MutateJson(data, size, max_size, seed);
}
