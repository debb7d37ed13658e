#include "bench/instructions/counts.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "cli/table.h"
#include "common/base/absl_text.h"

namespace sounder::instructions {
namespace {

constexpr std::string_view kTrigger = "desc: Trigger: Client Request: ";
constexpr std::string_view kTotals = "totals: ";

// What follows `label` on the first line that begins with it; empty where none does.
std::string_view After(std::string_view text, std::string_view label) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    if (line.starts_with(label)) return line.substr(label.size());
    at = end + 1;
  }
  return {};
}

const Count* Find(const Counts& counts, const std::string& name) {
  const auto found = std::find_if(counts.kernels.begin(), counts.kernels.end(),
                                  [&](const Count& count) { return count.name == name; });
  return found == counts.kernels.end() ? nullptr : &*found;
}

}  // namespace

std::string DumpName(std::string_view name, std::string_view unit, int64_t units) {
  return absl::StrCat(base::ToAbsl(name), "/", base::ToAbsl(unit), "/", units);
}

absl::StatusOr<Count> ParseDump(std::string_view dump) {
  const std::string_view trigger = After(dump, kTrigger);
  const std::vector<std::string> parts = absl::StrSplit(base::ToAbsl(trigger), '/');
  Count count;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[2], &count.units) || count.units <= 0 ||
      !absl::SimpleAtoi(base::ToAbsl(After(dump, kTotals)), &count.instructions) ||
      count.instructions <= 0) {
    return absl::InvalidArgumentError("not the dump of one kernel's run");
  }
  count.name = parts[0];
  count.unit = parts[1];
  return count;
}

std::string ToJson(const Counts& counts) {
  using Json = nlohmann::ordered_json;
  std::string lines;
  for (const Count& count : counts.kernels) {
    absl::StrAppend(&lines, lines.empty() ? "" : ",\n", "    ", Json(count.name).dump(), ": ",
                    Json{{"instructions", count.instructions},
                         {"units", count.units},
                         {"unit", count.unit},
                         {"per_unit", std::round(count.per_unit() * 1000) / 1000}}
                        .dump());
  }
  return absl::StrCat("{\n  \"simd\": ", Json(counts.simd).dump(),
                      ",\n  \"compiler\": ", Json(counts.compiler).dump(), ",\n  \"kernels\": {\n",
                      lines, "\n  }\n}\n");
}

absl::StatusOr<Counts> FromJson(std::string_view text) {
  const auto json = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto malformed = [](std::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("counts: ", base::ToAbsl(what)));
  };
  if (!json.is_object()) return malformed("not a JSON object");
  for (const char* name : {"simd", "compiler"}) {
    if (!json.contains(name) || !json[name].is_string()) {
      return malformed(absl::StrCat("no text '", name, "'"));
    }
  }
  if (!json.contains("kernels") || !json["kernels"].is_object()) {
    return malformed("no object 'kernels'");
  }
  Counts counts = {json["simd"], json["compiler"], {}};
  for (const auto& [name, kernel] : json["kernels"].items()) {
    Count count = {name, "", 0, 0};
    if (kernel.is_object() && kernel.contains("unit") && kernel["unit"].is_string()) {
      count.unit = kernel["unit"];
      for (auto [key, target] :
           {std::pair("units", &count.units), std::pair("instructions", &count.instructions)}) {
        if (kernel.contains(key) && kernel[key].is_number_integer()) *target = kernel[key];
      }
    }
    if (count.units <= 0 || count.instructions <= 0) {
      return malformed("'" + name + "' has not got a unit, units and instructions above 0");
    }
    counts.kernels.push_back(count);
  }
  return counts;
}

Comparison Compare(const Counts& counts, const Counts& baseline, bool whole) {
  Comparison comparison;
  cli::Table table({"kernel", "instructions", "units", "of", "per unit", "baseline", "change"});
  for (const Count& count : counts.kernels) {
    const std::string per_unit = absl::StrFormat("%.2f", count.per_unit());
    const Count* before = Find(baseline, count.name);
    if (before == nullptr) {
      table.AddRow({count.name, count.instructions, count.units, count.unit, per_unit,
                    std::string("-"), std::string("new")});
      comparison.failures.push_back(count.name + " is not in the baseline");
      continue;
    }
    const double rise = count.per_unit() / before->per_unit() - 1;
    const bool worse = rise > kAllowedRise;
    const std::string change = absl::StrFormat("%+.2f %%", 100 * rise);
    table.AddRow({count.name, count.instructions, count.units, count.unit, per_unit,
                  absl::StrFormat("%.2f", before->per_unit()), change + (worse ? "  WORSE" : "")});
    if (worse) {
      comparison.failures.push_back(
          absl::StrFormat("%s takes %s instructions per %s, %s against the baseline (allowed: "
                          "%+.0f %%)",
                          count.name, per_unit, count.unit, change, 100 * kAllowedRise));
    }
  }
  for (const Count& before : baseline.kernels) {
    if (whole && Find(counts, before.name) == nullptr) {
      comparison.failures.push_back(before.name + " is in the baseline but was not counted");
    }
  }
  if (counts.simd != baseline.simd) {
    comparison.failures.push_back("counted at SIMD level " + counts.simd + ", the baseline at " +
                                  baseline.simd);
  }
  comparison.table = table.ToText();
  if (counts.compiler != baseline.compiler) {
    absl::StrAppend(&comparison.table, "note: compiled by ", counts.compiler, ", the baseline by ",
                    baseline.compiler, "\n");
  }
  return comparison;
}

}  // namespace sounder::instructions
