#include "tests/tidy/tidy.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <sstream>

namespace sounder::tidy {
namespace {

constexpr size_t kMaxColumns = 100;
constexpr size_t kMaxLines = 400;
constexpr size_t kMaxTestLines = 600;
constexpr size_t kMaxFunctionLines = 70;  // tests may have longer tables

// Folders in which a foreign header may appear. An entry that ends in '/' is a folder, another
// one is the beginning of a file's path; '*' stands for one folder's name.
struct ForeignRule {
  std::vector<std::string_view> headers;  // beginnings of what is included
  std::vector<std::string_view> homes;
  std::string_view what;
};

const std::vector<ForeignRule>& ForeignRules() {
  static const auto* const rules = new std::vector<ForeignRule>{
      {{"ucp/", "ucs/", "uct/", "ucm/"}, {"common/transport/ucx_"}, "UCX"},
      {{"capnp/", "kj/", "proto/"}, {"common/wire/"}, "Cap'n Proto"},
      {{"prometheus/"}, {"common/metrics/"}, "prometheus-cpp"},
      {{"httplib.h"}, {"common/http/"}, "cpp-httplib"},
      {{"hwy/"}, {"common/kernels/", "kv_node/kernels/"}, "Highway"},
      {{"dnnl", "oneapi/"}, {"gpu_worker/ops/"}, "oneDNN"},
      {{"CLI/"}, {"common/config/"}, "CLI11"},
      {{"yaml-cpp/"}, {"common/config/"}, "yaml-cpp"},
      {{"spdlog/", "fmt/"}, {"common/config/"}, "spdlog"},
      {{"rocksdb/"}, {"kv_node/store/"}, "RocksDB"},
      {{"liburing.h"}, {"kv_node/store/"}, "liburing"},
  };
  return *rules;
}

// Words that must not appear, and what to do instead. tests_only: just below tests/.
struct BannedWord {
  std::string_view word;
  std::string_view instead;
  bool tests_only = false;
};

// Spelled in halves, so that this file passes its own rules.
#define SOUNDER_WORD(a, b) a b
constexpr std::array kBannedWords = {
    BannedWord{SOUNDER_WORD("TO", "DO"), "finish it, or describe the limit"},
    BannedWord{SOUNDER_WORD("FIX", "ME"), "fix it"},
    BannedWord{SOUNDER_WORD("XX", "X"), "fix it, or describe the limit"},
    BannedWord{SOUNDER_WORD("using namespace ", "std;"), "name what you use"},
    BannedWord{SOUNDER_WORD("#include <ran", "ges>"), "clang 14 cannot compile it"},
    BannedWord{SOUNDER_WORD("absl/", "log/"), "CHECK of common/base/check.h"},
    BannedWord{SOUNDER_WORD("sleep", "_for"), "wait for the event itself", true},
    BannedWord{SOUNDER_WORD("sleep", "_until"), "wait for the event itself", true},
    BannedWord{SOUNDER_WORD("us", "leep("), "wait for the event itself", true},
    BannedWord{SOUNDER_WORD("nano", "sleep("), "wait for the event itself", true},
    BannedWord{SOUNDER_WORD("\"/ho", "me/"), "no paths of one machine"},
    BannedWord{SOUNDER_WORD("/wo", "rk/"), "no paths of one machine"},
    BannedWord{SOUNDER_WORD("/us", "ers/"), "no paths of one machine"},
};
constexpr std::array kEnvironmentWords = {std::string_view(SOUNDER_WORD("get", "env(")),
                                          std::string_view(SOUNDER_WORD("set", "env(")),
                                          std::string_view(SOUNDER_WORD("put", "env("))};
constexpr std::array kClockWords = {std::string_view("steady_clock"),
                                    std::string_view("system_clock"),
                                    std::string_view("high_resolution_clock")};
#undef SOUNDER_WORD

bool HasSuffix(std::string_view path, std::initializer_list<std::string_view> suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(),
                     [&](std::string_view suffix) { return path.ends_with(suffix); });
}

// Texts written by people, as opposed to data.
bool IsText(std::string_view path) {
  return HasSuffix(path, {".h", ".cc", ".cu", ".cuh", ".cmake", "CMakeLists.txt", ".sh", ".md",
                          ".py", ".capnp", ".yaml", ".yml", "/run", ".clang-tidy"}) ||
         path == "run";
}

bool IsCpp(std::string_view path) { return HasSuffix(path, {".h", ".cc", ".cu", ".cuh"}); }

struct Include {
  size_t line = 0;
  std::string target;
  bool quoted = false;
};

std::optional<Include> ParseInclude(std::string_view line, size_t number) {
  const size_t hash = line.find_first_not_of(" \t");
  if (hash == std::string_view::npos || line[hash] != '#') return std::nullopt;
  const size_t word = line.find_first_not_of(" \t", hash + 1);
  if (word == std::string_view::npos || line.substr(word, 7) != "include") return std::nullopt;
  const size_t open = line.find_first_of("\"<", word + 7);
  if (open == std::string_view::npos) return std::nullopt;
  const size_t close = line.find(line[open] == '"' ? '"' : '>', open + 1);
  if (close == std::string_view::npos) return std::nullopt;
  return Include{number, std::string(line.substr(open + 1, close - open - 1)), line[open] == '"'};
}

// Where a path stands in the house: "common/base/x.h" -> common, base; "cli/eval.cc" -> cli, main.
struct Place {
  std::string side;
  std::string folder;
  size_t rank = 0;
};

std::optional<Place> PlaceOf(const House& house, std::string_view path) {
  const size_t slash = path.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const auto side = house.sides.find(std::string(path.substr(0, slash)));
  if (side == house.sides.end()) return std::nullopt;
  const size_t next = path.find('/', slash + 1);
  const std::string folder = next == std::string_view::npos
                                 ? "main"
                                 : std::string(path.substr(slash + 1, next - slash - 1));
  const auto found = std::find(side->second.begin(), side->second.end(), folder);
  if (found == side->second.end()) return Place{side->first, folder, side->second.size()};
  return Place{side->first, folder, static_cast<size_t>(found - side->second.begin())};
}

// Collects the violations of one file.
class Checker {
 public:
  Checker(const House& house, const std::string& path, std::string_view text)
      : house_(house), path_(path) {
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      lines_.push_back(text.substr(at, end - at));
      at = end + 1;
    }
    ends_with_newline_ = text.empty() || text.back() == '\n';
  }

  std::vector<Violation> Run() {
    if (!IsText(path_)) return {};
    CheckLayout();
    CheckWords();
    if (!IsCpp(path_)) return std::move(violations_);
    CheckFunctions();
    CheckEnvironment();
    CheckClocks();
    if (HasSuffix(path_, {".h", ".cuh"})) CheckHeader();
    for (size_t i = 0; i < lines_.size(); ++i) {
      if (const auto include = ParseInclude(lines_[i], i + 1)) {
        CheckForeign(*include);
        CheckEdge(*include);
      }
    }
    return std::move(violations_);
  }

 private:
  void Add(size_t line, std::string rule, std::string message) {
    violations_.push_back({path_, line, std::move(rule), std::move(message)});
  }

  void CheckLayout() {
    const size_t most = path_.starts_with("tests/") ? kMaxTestLines : kMaxLines;
    if (lines_.size() > most && IsCpp(path_)) {
      Add(0, "length",
          std::to_string(lines_.size()) + " lines, at most " + std::to_string(most) + ": split it");
    }
    if (!ends_with_newline_) Add(lines_.size(), "layout", "no line end at the end of the file");
    if (path_.ends_with(".md")) return;  // tables and links have no line breaks
    for (size_t i = 0; i < lines_.size(); ++i) {
      // Columns, not bytes: continuation bytes of UTF-8 take none.
      const auto columns = std::count_if(lines_[i].begin(), lines_[i].end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
      });
      if (static_cast<size_t>(columns) > kMaxColumns) {
        Add(i + 1, "columns", std::to_string(columns) + " columns, at most 100");
      }
      const bool blank_end =
          !lines_[i].empty() &&
          (lines_[i].back() == ' ' || lines_[i].back() == '\t' || lines_[i].back() == '\r');
      if (blank_end) Add(i + 1, "layout", "blanks at the end of the line");
    }
  }

  // By the formatter's indentation: functions (and blocks) end with a brace alone, at the column
  // at which they begin; classes end with "};" and namespaces with a comment.
  void CheckFunctions() {
    if (path_.starts_with("tests/")) return;
    for (const std::string_view indentation : {"", "  "}) {
      size_t begin = 0;
      for (size_t i = 0; i < lines_.size(); ++i) {
        const std::string_view line = lines_[i];
        if (!line.starts_with(indentation)) continue;
        const std::string_view rest = line.substr(indentation.size());
        if (rest == "}" && i - begin >= kMaxFunctionLines) {
          Add(begin + 1, "function",
              std::to_string(i - begin + 1) + " lines, at most " +
                  std::to_string(kMaxFunctionLines) + ": split it");
        }
        if (!rest.empty() && rest.find_first_of(" }#/)") != 0) begin = i;
      }
    }
  }

  void CheckWords() {
    const bool in_tests = path_.starts_with("tests/");
    for (size_t i = 0; i < lines_.size(); ++i) {
      for (const BannedWord& banned : kBannedWords) {
        if (banned.tests_only && !in_tests) continue;
        if (HasWord(lines_[i], banned.word)) {
          Add(i + 1, "banned", std::string(banned.word) + ": " + std::string(banned.instead));
        }
      }
    }
  }

  // `word` not inside a longer word, if it begins or ends with a letter.
  static bool HasWord(std::string_view line, std::string_view word) {
    const auto letter = [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
    };
    for (size_t at = 0; (at = line.find(word, at)) != std::string_view::npos; ++at) {
      const size_t end = at + word.size();
      const bool joined_before = at > 0 && letter(word.front()) && letter(line[at - 1]);
      const bool joined_after = end < line.size() && letter(word.back()) && letter(line[end]);
      if (!joined_before && !joined_after) return true;
    }
    return false;
  }

  void CheckEnvironment() {
    if (path_.ends_with("/main.cc") || path_ == "common/config/environment.cc") return;
    // UCX reads variables of its own.
    if (path_.starts_with("common/transport/ucx_")) return;
    if (path_.starts_with("tests/common/transport/ucx_")) return;
    for (size_t i = 0; i < lines_.size(); ++i) {
      for (const std::string_view word : kEnvironmentWords) {
        if (HasWord(lines_[i], word)) {
          Add(i + 1, "environment", "pass config::Environment in; only main() reads the process's");
        }
      }
    }
  }

  void CheckClocks() {
    const bool program = path_.starts_with("common/") || path_.starts_with("kv_node/") ||
                         path_.starts_with("gpu_worker/");
    if (!program || path_.ends_with("/main.cc") || path_.starts_with("common/base/")) return;
    if (path_.starts_with("common/http/")) return;  // deadlines of real sockets on its own threads
    for (size_t i = 0; i < lines_.size(); ++i) {
      for (const std::string_view word : kClockWords) {
        if (HasWord(lines_[i], word)) {
          Add(i + 1, "clock", "use the base::Clock that is passed in: it may be virtual");
        }
      }
    }
  }

  void CheckHeader() {
    if (lines_.empty() || !lines_.front().starts_with("//")) {
      Add(1, "comment", "a header begins with a comment that says what it is for");
    }
    if (path_.ends_with("-inl.h")) return;  // included once per SIMD level by design
    std::string guard = "SOUNDER_";
    for (const char c : path_) {
      const unsigned char byte = static_cast<unsigned char>(c);
      guard += std::isalnum(byte) != 0 ? static_cast<char>(std::toupper(byte)) : '_';
    }
    guard += "_";
    const auto has = [&](const std::string& line) {
      return std::find(lines_.begin(), lines_.end(), line) != lines_.end();
    };
    if (!has("#ifndef " + guard) || !has("#define " + guard) || !has("#endif  // " + guard)) {
      Add(1, "guard", "expected #ifndef, #define and #endif  // of " + guard);
    }
  }

  void CheckForeign(const Include& include) {
    if (path_.starts_with("tests/") || path_.starts_with("bench/")) return;
    for (const ForeignRule& rule : ForeignRules()) {
      const bool foreign = std::any_of(rule.headers.begin(), rule.headers.end(), [&](auto header) {
        return include.target.starts_with(header);
      });
      const bool at_home = std::any_of(rule.homes.begin(), rule.homes.end(),
                                       [&](auto home) { return path_.starts_with(home); });
      if (foreign && !at_home) {
        Add(include.line, "foreign",
            std::string(rule.what) + " is used only in " + std::string(rule.homes.front()) + " (" +
                include.target + ")");
      }
    }
  }

  void CheckEdge(const Include& include) {
    if (include.target.starts_with("tests/") || include.target.starts_with("bench/")) {
      const bool sees = path_.starts_with("tests/") || path_.starts_with("bench/");
      if (!sees) Add(include.line, "edge", "nothing sees " + include.target);
      return;
    }
    const auto from = PlaceOf(house_, path_);
    const auto to = PlaceOf(house_, include.target);
    if (!from.has_value() || !to.has_value()) return;
    for (const auto& place : {from, to}) {
      if (place->rank == house_.sides.at(place->side).size()) {
        Add(include.line, "edge", place->side + "/" + place->folder + " is not in the house");
        return;
      }
    }
    if (from->side == to->side ? to->rank <= from->rank : Sees(*from, *to)) return;
    Add(include.line, "edge",
        from->side + "/" + from->folder + " may not include " + include.target +
            ": only folders before it on its side, and common/");
  }

  bool Sees(const Place& from, const Place& to) const {
    if (to.side == "common") return true;
    if (from.side != "cli" || to.side != "kv_node") return false;
    const auto last = PlaceOf(house_, "kv_node/" + house_.cli_last_kv_node_folder + "/x.h");
    return last.has_value() && to.rank <= last->rank;
  }

  const House& house_;
  const std::string path_;
  std::vector<std::string_view> lines_;
  bool ends_with_newline_ = true;
  std::vector<Violation> violations_;
};

}  // namespace

House ParseHouse(std::string_view house_cmake) {
  House house;
  constexpr std::string_view kOrder = "set(SOUNDER_HOUSE_";
  constexpr std::string_view kLast = "set(SOUNDER_CLI_LAST_KV_NODE_FOLDER ";
  for (size_t at = 0; (at = house_cmake.find(kOrder, at)) != std::string_view::npos;) {
    at += kOrder.size();
    std::istringstream words(std::string(house_cmake.substr(at, house_cmake.find(')', at) - at)));
    std::string side;
    words >> side;
    for (std::string folder; words >> folder;) house.sides[side].push_back(folder);
  }
  if (const size_t at = house_cmake.find(kLast); at != std::string_view::npos) {
    const size_t begin = at + kLast.size();
    house.cli_last_kv_node_folder = house_cmake.substr(begin, house_cmake.find(')', begin) - begin);
  }
  return house;
}

std::string Violation::ToString() const {
  return path + ":" + std::to_string(line) + ": " + rule + ": " + message;
}

std::vector<Violation> CheckFile(const House& house, const std::string& path,
                                 std::string_view text) {
  return Checker(house, path, text).Run();
}

}  // namespace sounder::tidy
