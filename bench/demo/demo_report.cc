// demo_report: one table of the demo's runs over the two-task model.
//
//   demo_report --prompts recall.jsonl --prompts words.jsonl DIRECTORY RUN...
//
// For each RUN, DIRECTORY/RUN.jsonl holds the answers and DIRECTORY/RUN.summary.json the figures.
// The task of a prompt is its id up to the last '-'. Exits 1 when a run failed, when answers are
// missing, or when a sampled run attended more than 15 % of the positions exactly.
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/table.h"

namespace sounder::bench {
namespace {

using Json = nlohmann::json;

constexpr double kMaxExactShare = 0.15;

struct Expected {
  std::map<std::string, std::string> words;  // prompt id -> expected word
};

std::string TaskOf(const std::string& id) { return id.substr(0, id.rfind('-')); }

bool ReadLines(const std::string& path, std::vector<Json>* lines) {
  std::ifstream file(path);
  if (!file) {
    std::fprintf(stderr, "demo_report: %s cannot be read\n", path.c_str());
    return false;
  }
  for (std::string line; std::getline(file, line);) {
    lines->push_back(Json::parse(line, nullptr, false));
  }
  return true;
}

std::string Percent(double share, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f%%", digits, 100 * share);
  return text;
}

std::string Number(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

struct Accuracy {
  int right = 0;
  int total = 0;
  std::string Text() const {
    return std::to_string(right) + "/" + std::to_string(total) + " = " +
           Number(total > 0 ? double{1} * right / total : 0, 3);
  }
};

// Adds the row of one run; false when the run cannot be right.
bool AddRun(const std::string& directory, const std::string& run, const Expected& expected,
            cli::Table* table) {
  std::vector<Json> answers;
  std::ifstream summary_file(directory + "/" + run + ".summary.json");
  const Json summary = Json::parse(summary_file, nullptr, false);
  if (!ReadLines(directory + "/" + run + ".jsonl", &answers) || !summary.is_object()) return false;
  std::map<std::string, Accuracy> accuracy;
  for (const auto& [id, word] : expected.words) ++accuracy[TaskOf(id)].total;
  for (const Json& answer : answers) {
    const std::string id = answer.value("id", "");
    const auto word = expected.words.find(id);
    if (word == expected.words.end() || answer.value("status", "") != "OK") continue;
    if (answer.value("text", "") == word->second) ++accuracy[TaskOf(id)].right;
  }
  const bool sampled = run.rfind("lsh", 0) == 0;
  const double exact_share = summary.value("exact_share", 0.0);
  table->AddRow(
      {run, accuracy["recall"].Text(), accuracy["words"].Text(),
       sampled ? Percent(summary.value("rows_read_fraction", 0.0), 2) : "100%",
       sampled ? Percent(exact_share, 2) : "100%",
       sampled ? Number(summary.value("attention_error", 0.0), 3) : "0",
       Number(summary.value("attend_bytes_per_step", 0.0) / 1024, 1),
       Number(static_cast<double>(summary.value("bytes_sent", uint64_t{0}) +
                                  summary.value("bytes_received", uint64_t{0})) /
                  1048576,
              1),
       Number(static_cast<double>(summary.value("node_memory_peak_bytes", uint64_t{0})) / 1048576,
              1),
       Number(summary.value("ms_per_step", 0.0), 2)});
  bool good = true;
  if (summary.value("failed", -1) != 0 || answers.size() != expected.words.size()) {
    std::fprintf(stderr, "demo_report: %s: prompts failed or answers are missing\n", run.c_str());
    good = false;
  }
  if (sampled && exact_share > kMaxExactShare) {
    std::fprintf(stderr, "demo_report: %s attended %s of the positions exactly, more than %s\n",
                 run.c_str(), Percent(exact_share, 1).c_str(), Percent(kMaxExactShare, 0).c_str());
    good = false;
  }
  return good;
}

int Main(int argc, char** argv) {
  std::vector<std::string> prompt_files;
  std::vector<std::string> arguments;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--prompts" && i + 1 < argc) {
      prompt_files.push_back(argv[++i]);
    } else {
      arguments.push_back(argv[i]);
    }
  }
  if (prompt_files.empty() || arguments.size() < 2) {
    std::fprintf(stderr, "usage: demo_report --prompts FILE ... DIRECTORY RUN...\n");
    return 2;
  }
  Expected expected;
  for (const std::string& path : prompt_files) {
    std::vector<Json> prompts;
    if (!ReadLines(path, &prompts)) return 1;
    for (const Json& prompt : prompts) {
      expected.words[prompt.value("id", "")] = prompt.value("expected", "");
    }
  }
  cli::Table table({"attention", "recall", "most frequent", "rows read", "exact share", "error",
                    "KiB/step", "MiB total", "node MiB", "ms/step"});
  bool good = true;
  for (size_t i = 1; i < arguments.size(); ++i) {
    good = AddRun(arguments[0], arguments[i], expected, &table) && good;
  }
  std::fputs(table.ToText().c_str(), stdout);
  return good ? 0 : 1;
}

}  // namespace
}  // namespace sounder::bench

int main(int argc, char** argv) { return sounder::bench::Main(argc, argv); }
