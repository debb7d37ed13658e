#include "common/metrics/metric_name.h"

#include <algorithm>

namespace sounder::metrics {
namespace {

// Words of [a-z][a-z0-9]* between single underscores; empty where the text has another form.
std::vector<std::string_view> Words(std::string_view text) {
  std::vector<std::string_view> words;
  while (true) {
    const size_t underscore = text.find('_');
    const std::string_view word = text.substr(0, underscore);
    const bool lower = std::all_of(word.begin(), word.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    });
    if (word.empty() || !lower) return {};
    words.push_back(word);
    if (underscore == std::string_view::npos) return words;
    text.remove_prefix(underscore + 1);
  }
}

absl::Status Bad(std::string_view name, const std::string& rule) {
  return absl::InvalidArgumentError("metric name \"" + std::string(name) + "\": " + rule);
}

}  // namespace

const std::vector<std::string_view>& MetricUnits() {
  static const auto* const units = new std::vector<std::string_view>{
      "seconds",  "bytes",  "ratio",       "info",     "rows",  "positions", "tokens", "requests",
      "sessions", "shards", "segments",    "messages", "items", "calls",     "errors", "events",
      "steps",    "tables", "connections", "threads",  "files", "nodes",     "credits"};
  return *units;
}

absl::Status ValidateMetricName(std::string_view name, MetricKind kind) {
  std::vector<std::string_view> words = Words(name);
  if (words.empty()) return Bad(name, "not lower case words joined by single underscores");
  const bool total = words.back() == "total";
  if (total != (kind == MetricKind::kCounter)) {
    return Bad(name, total ? "only counters end in _total" : "a counter ends in _total");
  }
  if (total) words.pop_back();
  if (words.size() < 4 || words.front() != "sounder") {
    return Bad(name, "expected sounder_<subsystem>_<name>_<unit>[_total]");
  }
  const auto& units = MetricUnits();
  if (std::find(units.begin(), units.end(), words.back()) == units.end()) {
    return Bad(name, "\"" + std::string(words.back()) + "\" is not a unit of MetricUnits()");
  }
  return absl::OkStatus();
}

absl::Status ValidateLabelName(std::string_view name) {
  const bool starts_well = !name.empty() && name.front() >= 'a' && name.front() <= 'z';
  // "le" and "quantile" belong to the exposition format.
  if (!starts_well || Words(name).empty() || name == "le" || name == "quantile") {
    return absl::InvalidArgumentError("label name \"" + std::string(name) +
                                      "\": not lower case words joined by single underscores");
  }
  return absl::OkStatus();
}

}  // namespace sounder::metrics
