#include "bench/quality/report.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_format.h"
#include "bench/quality/statistics.h"
#include "cli/table.h"

namespace sounder::quality {
namespace {

using nlohmann::ordered_json;

// Whom every sampler is compared with.
constexpr const char* kReferences[] = {"exact", "oracle", "lsh"};

std::string RowsKey(double rows) { return absl::StrFormat("%g", rows); }

std::vector<bool> Right(const Trial& trial) {
  std::vector<bool> right;
  for (const Outcome& outcome : trial.outcomes) right.push_back(outcome.right);
  return right;
}

Estimate Accuracy(const Trial& trial) {
  const std::vector<bool> right = Right(trial);
  return Share(std::count(right.begin(), right.end(), true), static_cast<int64_t>(right.size()));
}

double Mean(const Trial& trial, double Outcome::*field) {
  double sum = 0;
  for (const Outcome& outcome : trial.outcomes) sum += outcome.*field;
  return sum / static_cast<double>(trial.outcomes.size());
}

// The trial of `sampler` at the same rows as `trial`; full attention for "exact". Null: not tried.
const Trial* Reference(const std::vector<Trial>& trials, const std::string& sampler,
                       const Trial& trial) {
  for (const Trial& other : trials) {
    if (other.setting.sampler != sampler) continue;
    if (sampler == kExact || other.setting.rows == trial.setting.rows) return &other;
  }
  return nullptr;
}

void AddFigures(const std::string& task, const std::vector<Trial>& trials, const Trial& trial,
                ordered_json& figures) {
  const Estimate accuracy = Accuracy(trial);
  figures[task] = accuracy.mean;
  figures["error"][task] = Mean(trial, &Outcome::error);
  figures["ci"][task] = {accuracy.low, accuracy.high};
  figures["rows_loaded"][task] = Mean(trial, &Outcome::rows_loaded);
  figures["rows_read"][task] = Mean(trial, &Outcome::rows_read);
  if (trial.setting.tables > 0) figures["tables"][task] = trial.setting.tables;
  for (const char* name : kReferences) {
    const Trial* other = Reference(trials, name, trial);
    if (other == nullptr || other == &trial) continue;
    const Estimate difference = PairedDifference(Right(trial), Right(*other));
    figures["minus"][name][task] = {{"mean", difference.mean},
                                    {"ci", {difference.low, difference.high}}};
  }
}

}  // namespace

ordered_json QualityJson(const TrialsByTask& trials) {
  ordered_json quality = ordered_json::object();
  for (const auto& [task, of_task] : trials) {
    for (const Trial& trial : of_task) {
      AddFigures(task, of_task, trial, quality[trial.setting.sampler][RowsKey(trial.setting.rows)]);
    }
  }
  return quality;
}

ordered_json JudgedBounds(const ordered_json& quality) {
  struct Line {
    const char* name;
    const char* sampler;
    const char* rows;
    const char* other;
    const char* task;
    int end;   // of the interval of (sampler - other): 0 the low one, 1 the high one
    int sign;  // -1: the figure is (other - sampler)
  };
  constexpr Line kLines[] = {
      {"sketch_2pct_recall_below_exact_upper", "sketch", "0.02", "exact", "recall", 0, -1},
      {"sketch_2pct_words_below_oracle_upper", "sketch", "0.02", "oracle", "words", 0, -1},
      {"sketch_5pct_words_below_exact_upper", "sketch", "0.05", "exact", "words", 0, -1},
      {"sketch_2pct_recall_above_lsh_lower", "sketch", "0.02", "lsh", "recall", 0, 1},
      {"topk_2pct_words_below_oracle_lower", "topk", "0.02", "oracle", "words", 1, -1},
  };
  ordered_json lines = ordered_json::object();
  for (const Line& line : kLines) {
    const ordered_json::json_pointer path(
        absl::StrFormat("/%s/%s/minus/%s/%s/ci", line.sampler, line.rows, line.other, line.task));
    if (quality.contains(path)) {
      lines[line.name] = line.sign * quality[path][line.end].get<double>();
    }
  }
  return lines;
}

std::string QualityTable(const TrialsByTask& trials) {
  cli::Table table({"task", "sampler", "rows", "loaded", "read", "tables", "right", "95 %", "error",
                    "- exact", "95 % "});
  for (const auto& [task, of_task] : trials) {
    for (const Trial& trial : of_task) {
      const Estimate accuracy = Accuracy(trial);
      const Estimate loss = PairedDifference(Right(trial), Right(of_task.front()));
      const auto percent = [](double share) { return absl::StrFormat("%.2f", 100 * share); };
      table.AddRow({task, trial.setting.sampler, RowsKey(trial.setting.rows),
                    percent(Mean(trial, &Outcome::rows_loaded)),
                    percent(Mean(trial, &Outcome::rows_read)), int64_t{trial.setting.tables},
                    absl::StrFormat("%.3f", accuracy.mean),
                    absl::StrFormat("%.3f-%.3f", accuracy.low, accuracy.high),
                    absl::StrFormat("%.3f", Mean(trial, &Outcome::error)),
                    absl::StrFormat("%+.3f", loss.mean),
                    absl::StrFormat("%+.3f..%+.3f", loss.low, loss.high)});
    }
  }
  return table.ToText();
}

}  // namespace sounder::quality
