#include "tests/errors/error_sites.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace sounder::tests {
namespace {

// The end of a string or character literal that begins at `at`: one past its closing quote.
size_t EndOfLiteral(std::string_view text, size_t at) {
  for (size_t i = at + 1; i < text.size(); ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == text[at]) {
      return i + 1;
    }
  }
  return text.size();
}

bool IsDigitSeparator(std::string_view text, size_t at) {
  return text[at] == '\'' && at > 0 && std::isdigit(static_cast<unsigned char>(text[at - 1])) != 0;
}
bool BeginsLiteral(std::string_view text, size_t at) {
  return text[at] == '"' || (text[at] == '\'' && !IsDigitSeparator(text, at));
}

// The same text with blanks for comments.
std::string WithoutComments(std::string_view source) {
  std::string text(source);
  const auto blank = [&text](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) text[i] = text[i] == '\n' ? '\n' : ' ';
    return end;
  };
  for (size_t at = 0; at < text.size();) {
    if (BeginsLiteral(text, at)) {
      at = EndOfLiteral(text, at);
    } else if (text.compare(at, 2, "//") == 0) {
      at = blank(at, std::min(text.size(), text.find('\n', at)));
    } else if (text.compare(at, 2, "/*") == 0) {
      at = blank(at, std::min(text.size() - 2, text.find("*/", at + 2)) + 2);
    } else {
      ++at;
    }
  }
  return text;
}

std::string Unescaped(std::string_view literal) {
  std::string plain;
  for (size_t i = 1; i + 1 < literal.size(); ++i) {
    if (literal[i] == '\\') ++i;
    plain += literal[i];
  }
  return plain;
}

// The literals of an argument list that begins behind its opening parenthesis. Neighbours are one.
std::vector<std::string> LiteralsOf(std::string_view text, size_t at) {
  std::vector<std::string> literals;
  std::vector<bool> conditional{false};  // of each parenthesis that is open: behind a '?'
  bool joins = false;                    // to the literal before
  while (at < text.size() && !conditional.empty()) {
    const char c = text[at];
    if (BeginsLiteral(text, at)) {
      const size_t end = EndOfLiteral(text, at);
      const bool always =
          std::find(conditional.begin(), conditional.end(), true) == conditional.end();
      if (c == '"' && always && joins) {
        literals.back() += Unescaped(text.substr(at, end - at));
      } else if (c == '"' && always) {
        literals.push_back(Unescaped(text.substr(at, end - at)));
      }
      joins = c == '"' && always;
      at = end;
      continue;
    }
    if (c == '(') conditional.push_back(false);
    if (c == ')') conditional.pop_back();
    if (c == '?' || c == ',') conditional.back() = c == '?';
    joins = joins && std::isspace(static_cast<unsigned char>(c)) != 0;
    ++at;
  }
  return literals;
}

// One past the opening parenthesis of a call that makes an error, where one begins at `at`.
std::optional<size_t> CallAt(std::string_view text, size_t at) {
  constexpr std::string_view kNamespace = "absl::";
  if (text.compare(at, kNamespace.size(), kNamespace) != 0) return std::nullopt;
  size_t end = at + kNamespace.size();
  while (end < text.size() && std::isalpha(static_cast<unsigned char>(text[end])) != 0) ++end;
  if (end >= text.size() || text[end] != '(') return std::nullopt;
  const std::string_view name = text.substr(at, end - at);
  const bool in_type = at > 0 && text[at - 1] == '<';  // std::function<absl::Status(int)>
  const bool empty = end + 1 < text.size() && text[end + 1] == ')';
  if (name.ends_with("Error")) return end + 1;
  if (name == "absl::Status" && !in_type && !empty) return end + 1;
  return std::nullopt;
}

}  // namespace

std::string ErrorSite::Name() const {
  std::string name = file + ": ";
  for (size_t i = 0; i < literals.size(); ++i)
    absl::StrAppend(&name, i > 0 ? "..." : "", literals[i]);
  return name;
}

std::vector<ErrorSite> SitesOf(const std::string& file, std::string_view source) {
  const std::string text = WithoutComments(source);
  std::vector<ErrorSite> sites;
  int line = 1;
  for (size_t at = 0; at < text.size();) {
    if (BeginsLiteral(text, at)) {
      at = EndOfLiteral(text, at);
      continue;
    }
    if (text[at] == '\n') ++line;
    if (const std::optional<size_t> arguments = CallAt(text, at)) {
      sites.push_back({file, line, LiteralsOf(text, *arguments)});
    }
    ++at;
  }
  return sites;
}

std::vector<ErrorSite> SitesIn(const std::vector<std::string>& folders) {
  std::vector<std::string> files;
  for (const std::string& folder : folders) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const std::string extension = entry.path().extension().string();
      if (extension == ".cc" || extension == ".h") files.push_back(entry.path().string());
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<ErrorSite> sites;
  for (const std::string& file : files) {
    std::ifstream in(file);
    std::ostringstream text;
    text << in.rdbuf();
    CHECK(!in.fail()) << file << " cannot be read";
    for (ErrorSite& site : SitesOf(file, text.str())) sites.push_back(std::move(site));
  }
  return sites;
}

bool MadeAt(const ErrorSite& site, std::string_view message) {
  constexpr size_t kFewestLetters = 10;
  size_t letters = 0;
  size_t at = 0;
  for (const std::string& literal : site.literals) {
    letters += static_cast<size_t>(std::count_if(
        literal.begin(), literal.end(), [](unsigned char c) { return std::isalpha(c) != 0; }));
    const size_t found = message.find(literal, at);
    if (found == std::string_view::npos) return false;
    at = found + literal.size();
  }
  return letters >= kFewestLetters;
}

}  // namespace sounder::tests
