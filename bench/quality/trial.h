// Prompts of a task answered under many settings. Each prompt is prefilled once, with full
// attention, and its last token decoded once per setting.
#ifndef SOUNDER_BENCH_QUALITY_TRIAL_H_
#define SOUNDER_BENCH_QUALITY_TRIAL_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/quality/prompt_cache.h"
#include "bench/quality/settings.h"
#include "bench/quality/workers.h"
#include "bench/two_tasks/prompts.h"

namespace sounder::quality {

// Of one prompt under one setting.
struct Outcome {
  bool right = false;
  int32_t token = 0;       // the answer
  double error = 0;        // |o - o*| / |o*|, mean over layers and query heads
  double rows_loaded = 0;  // distinct middle rows / middle rows, mean over layers and kv heads
  double rows_read = 0;    // the same per query head
};

struct TrialSpec {
  bench::Task task = bench::Task::kRecall;
  bench::PromptLaw law;
  int prompts = 1000;
  uint64_t seed = 3001;  // of the prompts, and of all draws
  // Prompts on which the tables of samplers by hash tables are chosen; those of seed + 1, so none
  // of the others.
  int tuning_prompts = 32;
  int sampler_seeds = 8;
  CacheShape shape;
};

struct Trial {
  Setting setting;  // with the tables that were chosen
  std::vector<Outcome> outcomes;
};

// One trial per setting, in their order. progress(prompts done) may be null; it is called from one
// thread at a time. A pure function of model, settings and spec: threads do not matter.
absl::StatusOr<std::vector<Trial>> RunTrials(const std::vector<Setting>& settings,
                                             const TrialSpec& spec, Workers& workers,
                                             const std::function<void(int64_t)>& progress);

}  // namespace sounder::quality

#endif  // SOUNDER_BENCH_QUALITY_TRIAL_H_
