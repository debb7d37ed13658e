#include "bench/demo/run_report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/table.h"

namespace sounder::bench {
namespace {

using Json = nlohmann::json;

constexpr double kMiB = 1 << 20;

std::string Number(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string Percent(double share, int digits) { return Number(100 * share, digits) + "%"; }

// A figure of the summary; 0 where it has none, which FaultOf looks out for.
double Figure(const ModelRun& run, const char* key) {
  const auto figure = run.summary.find(key);
  return figure == run.summary.end() || !figure->is_number() ? 0 : figure->get<double>();
}

bool Has(const ModelRun& run, const char* key) {
  return run.summary.contains(key) && run.summary.at(key).is_number();
}

bool IsRight(const ModelRun& run, const Question& question) {
  const auto answer = run.answers.find(question.id);
  return answer != run.answers.end() && answer->second == question.expected;
}

// "61/64 = .953": how many questions of a task were answered as expected.
std::string Accuracy(const ModelRun& run, const std::vector<Question>& questions,
                     const std::string& task) {
  int right = 0;
  int total = 0;
  for (const Question& question : questions) {
    if (TaskOf(question.id) != task) continue;
    ++total;
    right += IsRight(run, question);
  }
  return std::to_string(right) + "/" + std::to_string(total) + " = " +
         Number(total > 0 ? double{1} * right / total : 0, 3);
}

}  // namespace

Question QuestionOf(const Json& prompt) {
  Question question{prompt.value("id", ""), prompt.value("text", ""), prompt.value("expected", "")};
  const size_t last = question.ending.rfind(' ');
  const size_t before = last == std::string::npos || last == 0
                            ? std::string::npos
                            : question.ending.rfind(' ', last - 1);
  if (before != std::string::npos) question.ending.erase(0, before + 1);
  return question;
}

ModelRun MakeRun(std::string name, const std::vector<Json>& answers, Json summary) {
  ModelRun run{std::move(name), {}, std::move(summary)};
  for (const Json& answer : answers) {
    if (!answer.is_object() || answer.value("status", "") != "OK") continue;
    run.answers[answer.value("id", "")] = answer.value("text", "");
  }
  return run;
}

std::string TaskOf(const std::string& id) { return id.substr(0, id.rfind('-')); }

std::string FaultOf(const ModelRun& run, const std::vector<Question>& questions) {
  if (!run.summary.is_object()) return "no figures were written";
  if (!Has(run, "failed") || Figure(run, "failed") != 0) return "prompts failed";
  for (const Question& question : questions) {
    if (!run.answers.contains(question.id)) return "no answer to " + question.id;
  }
  if (!run.sampled()) return "";
  for (const char* key : {"exact_share", "positions", "rows_visible", "rows_read_fraction"}) {
    if (!Has(run, key)) return std::string("the figures lack ") + key;
  }
  if (!(Figure(run, "positions") > 0)) return "no position was counted";
  if (!(Figure(run, "rows_visible") > 0)) return "no row was on the nodes to be sampled";
  const double read = Figure(run, "rows_read_fraction");
  if (!(read > 0 && read < 1)) return Percent(read, 0) + " of the rows were read: no sample";
  if (!(Figure(run, "exact_share") <= kMaxExactShare)) {
    return Percent(Figure(run, "exact_share"), 1) + " of the positions were attended exactly, " +
           "more than " + Percent(kMaxExactShare, 0);
  }
  return "";
}

double BytesOnTheWire(const ModelRun& run) {
  return Figure(run, "bytes_sent") + Figure(run, "bytes_received") - Figure(run, "audit_bytes");
}

std::string FiguresTable(const std::vector<ModelRun>& runs,
                         const std::vector<Question>& questions) {
  cli::Table table({"attention", "recall", "most frequent", "rows read", "exact share", "error",
                    "KiB/step", "MiB total", "node MiB", "ms/step"});
  for (const ModelRun& run : runs) {
    const bool sampled = run.sampled();
    table.AddRow({run.name, Accuracy(run, questions, "recall"), Accuracy(run, questions, "words"),
                  sampled ? Percent(Figure(run, "rows_read_fraction"), 2) : "100%",
                  sampled ? Percent(Figure(run, "exact_share"), 2) : "100%",
                  sampled ? Number(Figure(run, "attention_error"), 3) : "0",
                  Number(Figure(run, "attend_bytes_per_step") / 1024, 1),
                  Number(BytesOnTheWire(run) / kMiB, 1),
                  Number(Figure(run, "node_memory_peak_bytes") / kMiB, 1),
                  Number(Figure(run, "ms_per_step"), 2)});
  }
  return table.ToText();
}

std::string AnswersTable(const std::vector<ModelRun>& runs, const std::vector<Question>& questions,
                         int count) {
  std::vector<std::string> columns = {"prompt", "its end", "expected"};
  for (const ModelRun& run : runs) columns.push_back(run.name);
  cli::Table table(columns);
  std::map<std::string, int> seen;    // by task
  std::map<std::string, bool> wrong;  // one of those has been shown
  for (const Question& question : questions) {
    const std::string task = TaskOf(question.id);
    const bool first = seen[task]++ < count;
    const bool right = std::all_of(runs.begin(), runs.end(),
                                   [&](const ModelRun& run) { return IsRight(run, question); });
    if (!first && (right || wrong[task])) continue;
    wrong[task] = wrong[task] || !right;
    std::vector<cli::Value> row = {question.id, "... " + question.ending, question.expected};
    for (const ModelRun& run : runs) {
      const auto answer = run.answers.find(question.id);
      const std::string text = answer == run.answers.end() ? "" : answer->second;
      row.push_back(text + (IsRight(run, question) ? "" : "*"));
    }
    table.AddRow(std::move(row));
  }
  return table.ToText();
}

}  // namespace sounder::bench
