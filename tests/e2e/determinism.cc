#include "tests/e2e/determinism.h"

#include <nlohmann/json.hpp>
#include <sstream>

#include "bench/two_tasks/prompts.h"

namespace sounder::e2e {

std::string WritePrompts(const TemporaryFolder& folder) {
  std::string lines;
  const auto add = [&](bench::Task task, int length, uint64_t seed) {
    bench::PromptLaw law;
    law.length = length;
    for (const bench::Prompt& prompt : bench::MakePrompts(task, law, 1, seed)) {
      nlohmann::json json;
      json["id"] = prompt.id + "-" + std::to_string(length);
      json["tokens"] = prompt.tokens;
      json["max_tokens"] = 4;
      lines += json.dump() + "\n";
    }
  };
  add(bench::Task::kRecall, 2048, 11);
  add(bench::Task::kWords, 1100, 12);
  add(bench::Task::kRecall, 1543, 13);
  add(bench::Task::kWords, 1984, 14);
  return folder.Write("prompts.jsonl", lines);
}

Outcomes RunWorker(const TemporaryFolder& folder, const std::string& prompts,
                   const std::vector<std::unique_ptr<Node>>& nodes, const Arguments& extra,
                   const std::string& attention) {
  Arguments arguments = {"generate",
                         "--model",
                         kTwoTasks,
                         "--nodes",
                         ControlList(nodes),
                         "--attention",
                         attention,
                         "--prompts",
                         prompts,
                         "--output",
                         folder.Path("answers.jsonl"),
                         "--seal-rows",
                         "512",
                         "--min-indexed-rows",
                         "256",
                         "--threads",
                         "1",
                         "--ucx-spin",
                         "5us",
                         "--deadline",
                         "10s",
                         "--log-level",
                         "warning"};
  arguments.insert(arguments.end(), extra.begin(), extra.end());
  const Ran ran = RunProgram("sounder_worker", arguments, seconds(60));
  EXPECT_EQ(ran.exit, 0) << ran.errors;
  Outcomes outcomes;
  std::istringstream lines(ReadFile(folder.Path("answers.jsonl")));
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json json = nlohmann::json::parse(line);
    EXPECT_EQ(json.at("status"), "OK") << line;
    Outcome& outcome = outcomes[json.at("id")];
    outcome.tokens = json.at("tokens").get<std::vector<int32_t>>();
    outcome.rows_visible = json.at("rows_visible");
    outcome.rows_read = json.at("rows_read");
    outcome.rows_loaded = json.at("rows_loaded");
    outcome.rows_exact = json.at("positions_exact");
  }
  EXPECT_EQ(outcomes.size(), 4u);
  return outcomes;
}

Outcomes RunCluster(const TemporaryFolder& folder, const std::string& prompts, int num_nodes,
                    const Arguments& node_options, const Arguments& extra,
                    const std::string& attention) {
  return RunWorker(folder, prompts, StartNodes(num_nodes, node_options), extra, attention);
}

uint64_t RowsRead(const Outcomes& outcomes) {
  uint64_t rows = 0;
  for (const auto& [id, outcome] : outcomes) rows += outcome.rows_read;
  return rows;
}

uint64_t RowsVisible(const Outcomes& outcomes) {
  uint64_t rows = 0;
  for (const auto& [id, outcome] : outcomes) rows += outcome.rows_visible;
  return rows;
}

}  // namespace sounder::e2e
