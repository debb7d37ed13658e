// Trials as the figures people and programs read: quality.json and a table.
#ifndef SOUNDER_BENCH_QUALITY_REPORT_H_
#define SOUNDER_BENCH_QUALITY_REPORT_H_

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/quality/trial.h"

namespace sounder::quality {

// The trials of each task, by bench::TaskName; the same settings in the same order.
using TrialsByTask = std::map<std::string, std::vector<Trial>>;

// {sampler: {rows: figures}}, rows as text ("0.02"; full attention "1", window only "0"). figures:
//   recall, words             share of right answers
//   error     {task: e}       mean relative error of attention outputs
//   ci        {task: [l, h]}  95 % interval of that share
//   rows_loaded, rows_read    {task: share} of the middle rows: distinct ones per kv head; per
//   query
//                             head
//   tables    {task: L}       of samplers by hash tables
//   minus     {other: {task: {"mean": d, "ci": [l, h]}}}  share of right answers less that of
//             `exact`, and of `oracle` and `lsh` at the same rows, on the same prompts
nlohmann::ordered_json QualityJson(const TrialsByTask& trials);

// The bounds that samplers are judged by, as flat figures; those of settings not tried are left
// out. "sketch_2pct_recall_below_exact_upper" is the upper end of the interval of (exact - sketch).
nlohmann::ordered_json JudgedBounds(const nlohmann::ordered_json& quality);

// One row per setting and task.
std::string QualityTable(const TrialsByTask& trials);

}  // namespace sounder::quality

#endif  // SOUNDER_BENCH_QUALITY_REPORT_H_
