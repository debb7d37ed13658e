#include "tests/e2e/endless_worker.h"

#include <nlohmann/json.hpp>

namespace sounder::e2e {
namespace {

constexpr char kModel[] = "tests/golden/llama/gqa_untied";

}  // namespace

Arguments EndlessWorkerArguments(const TemporaryFolder& folder, const std::string& nodes,
                                 const Arguments& extra, const std::string& attention) {
  std::string lines;
  for (int i = 0; i < 4; ++i) {
    nlohmann::json prompt = {{"id", std::to_string(i)}, {"max_tokens", 1000000}};
    for (int t = 0; t < 40; ++t) prompt["tokens"].push_back(3 + (i * 31 + t * 17) % 80);
    lines += prompt.dump() + "\n";
  }
  // No token ends a sequence: the model's configuration names none.
  nlohmann::json config = nlohmann::json::parse(ReadFile(std::string(kModel) + "/config.json"));
  config.erase("eos_token_id");
  folder.Write("config.json", config.dump());
  folder.Write("model.safetensors", ReadFile(std::string(kModel) + "/model.safetensors"));
  Arguments arguments = {"generate",
                         "--model",
                         folder.Path(""),
                         "--nodes",
                         nodes,
                         "--attention",
                         attention,
                         "--prompts",
                         folder.Write("prompts.jsonl", lines),
                         "--output",
                         folder.Path("answers.jsonl"),
                         "--window",
                         "8",
                         "--sinks",
                         "2",
                         "--threads",
                         "1",
                         "--ucx-spin",
                         "5us"};
  arguments.insert(arguments.end(), extra.begin(), extra.end());
  return arguments;
}

std::unique_ptr<Process> EndlessWorker(const TemporaryFolder& folder, const std::string& nodes,
                                       const Arguments& extra, const std::string& attention) {
  return std::make_unique<Process>(Binary("sounder_worker"),
                                   EndlessWorkerArguments(folder, nodes, extra, attention));
}

}  // namespace sounder::e2e
