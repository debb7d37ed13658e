// demo_report: tables of the demo's runs over the two-task model.
//
//   demo_report --prompts recall.jsonl --prompts words.jsonl DIRECTORY RUN...
//
// For each RUN, DIRECTORY/RUN.jsonl holds the answers and DIRECTORY/RUN.summary.json the figures.
// Exits 1 when a run is not what it should be (FaultOf), after printing it.
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/demo/run_report.h"

namespace sounder::bench {
namespace {

using Json = nlohmann::json;

constexpr int kAnswersShown = 2;  // per task, and a wrong one

bool ReadLines(const std::string& path, std::vector<Json>* lines) {
  std::ifstream file(path);
  if (!file) {
    std::fprintf(stderr, "demo_report: %s cannot be read\n", path.c_str());
    return false;
  }
  for (std::string line; std::getline(file, line);) {
    lines->push_back(Json::parse(line, nullptr, false));
    if (lines->back().is_object()) continue;
    std::fprintf(stderr, "demo_report: %s has a line that is no JSON object\n", path.c_str());
    return false;
  }
  return true;
}

int Report(const std::vector<std::string>& prompt_files, const std::string& directory,
           const std::vector<std::string>& names) {
  std::vector<Question> questions;
  for (const std::string& path : prompt_files) {
    std::vector<Json> prompts;
    if (!ReadLines(path, &prompts)) return 1;
    for (const Json& prompt : prompts) questions.push_back(QuestionOf(prompt));
  }
  std::vector<ModelRun> runs;
  for (const std::string& name : names) {
    std::vector<Json> answers;
    if (!ReadLines(directory + "/" + name + ".jsonl", &answers)) return 1;
    std::ifstream summary(directory + "/" + name + ".summary.json");
    runs.push_back(MakeRun(name, answers, Json::parse(summary, nullptr, false)));
  }
  std::printf("%s\n%s", FiguresTable(runs, questions).c_str(),
              AnswersTable(runs, questions, kAnswersShown).c_str());
  int exit = 0;
  for (const ModelRun& run : runs) {
    const std::string fault = FaultOf(run, questions);
    if (fault.empty()) continue;
    std::fprintf(stderr, "demo_report: %s: %s\n", run.name.c_str(), fault.c_str());
    exit = 1;
  }
  return exit;
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
  return Report(prompt_files, arguments[0], {arguments.begin() + 1, arguments.end()});
}

}  // namespace
}  // namespace sounder::bench

int main(int argc, char** argv) { return sounder::bench::Main(argc, argv); }
