// What the demo shows of one run over the two-task model, and when that must not be believed.
//
// Pure functions of the JSON that two_tasks_prompts and sounder_worker write.
#ifndef SOUNDER_BENCH_DEMO_RUN_REPORT_H_
#define SOUNDER_BENCH_DEMO_RUN_REPORT_H_

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace sounder::bench {

// A sampled run in which more of the positions were attended exactly shows little about sampling.
inline constexpr double kMaxExactShare = 0.15;

struct Question {
  std::string id;      // "recall-3"
  std::string ending;  // the last words of the prompt
  std::string expected;
};
// From a line of two_tasks_prompts.
Question QuestionOf(const nlohmann::json& prompt);

// A run: its name ("exact", or "lsh..." or "sketch..." if attention was sampled), the answers it
// gave and the figures of sounder_worker's --summary.
struct ModelRun {
  std::string name;
  std::map<std::string, std::string> answers;  // by prompt, where the status was OK
  nlohmann::json summary;

  bool sampled() const { return name.starts_with("lsh") || name.starts_with("sketch"); }
};
ModelRun MakeRun(std::string name, const std::vector<nlohmann::json>& answers,
                 nlohmann::json summary);

// "recall" of "recall-3".
std::string TaskOf(const std::string& id);

// Why the run's figures must not be shown as those of a good run: prompts failed, answers or
// figures are missing, or a sampled run attended too much exactly. Empty if there is nothing.
std::string FaultOf(const ModelRun& run, const std::vector<Question>& questions);

// Bytes sent and received, without audits.
double BytesOnTheWire(const ModelRun& run);

// Accuracy and figures, one line per run.
std::string FiguresTable(const std::vector<ModelRun>& runs, const std::vector<Question>& questions);
// Every run's answers to some prompts of each task: the first `count`, and the first one after them
// that some run got wrong. '*' marks wrong answers.
std::string AnswersTable(const std::vector<ModelRun>& runs, const std::vector<Question>& questions,
                         int count);

}  // namespace sounder::bench

#endif  // SOUNDER_BENCH_DEMO_RUN_REPORT_H_
