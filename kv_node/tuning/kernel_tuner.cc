#include "kv_node/tuning/kernel_tuner.h"

#include <algorithm>
#include <set>

#include "kv_node/tuning/kernel_trials.h"

namespace sounder::kv_node {
namespace {

using kernels::KernelSchedule;
using kernels::ScheduleField;

constexpr int kRounds = 31;

using Run = double (KernelTrials::*)(const KernelSchedule&);

// The kernel that a field matters to most.
Run RunFor(int KernelSchedule::*field) {
  if (field == &KernelSchedule::sampled_rows_ahead) return &KernelTrials::SampledInt8;
  if (field == &KernelSchedule::sampled_tile_rows) return &KernelTrials::SampledInt8;
  if (field == &KernelSchedule::lsh_rows_ahead) return &KernelTrials::Lsh;
  if (field == &KernelSchedule::scan_bytes_ahead) return &KernelTrials::Scan;
  return &KernelTrials::Exact;
}

// The values' median and lower quartile.
struct Middle {
  double median = 0;
  double low = 0;
};

Middle MiddleOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {.median = values[values.size() / 2], .low = values[values.size() / 4]};
}

// Time with `before` over time with each of `others`, over rounds of neighbours.
std::vector<Middle> Gains(KernelTrials& trials, Run run, const KernelSchedule& before,
                          const std::vector<KernelSchedule>& others) {
  std::vector<std::vector<double>> gains(others.size());
  (trials.*run)(before);  // code and tables into the caches
  for (int round = 0; round < kRounds; ++round) {
    const double reference = (trials.*run)(before);
    for (size_t i = 0; i < others.size(); ++i) {
      gains[i].push_back(reference / std::max(1e-3, (trials.*run)(others[i])));
    }
  }
  std::vector<Middle> middles;
  for (const std::vector<double>& of_other : gains) middles.push_back(MiddleOf(of_other));
  return middles;
}

FieldTrial Try(KernelTrials& trials, const ScheduleField& field, KernelSchedule* schedule) {
  FieldTrial trial;
  trial.field = field.name;
  trial.before = schedule->*field.value;
  std::set<int> values(field.candidates.begin(), field.candidates.end());
  values.erase(trial.before);
  std::vector<KernelSchedule> others;
  for (const int value : values) {
    others.push_back(*schedule);
    others.back().*field.value = value;
  }
  const std::vector<Middle> gains = Gains(trials, RunFor(field.value), *schedule, others);
  const size_t best =
      std::max_element(gains.begin(), gains.end(),
                       [](const Middle& a, const Middle& b) { return a.median < b.median; }) -
      gains.begin();
  trial.gain = gains[best].median;
  trial.best_other = others[best].*field.value;
  if (trial.gain > 1 + kTuningMargin && gains[best].low > 1) *schedule = others[best];
  trial.chosen = schedule->*field.value;
  return trial;
}

}  // namespace

TuningReport TuneKernels(base::Duration budget) {
  const base::SteadyClock clock;
  const base::Time start = clock.Now();
  TuningReport report;
  KernelTrials trials;
  base::Duration longest{};
  bool in_time = true;
  const auto step = [&](const auto& work) {
    const base::Time begin = clock.Now();
    in_time = in_time && begin - start + longest < budget;
    if (!in_time) return;
    trials.Evict();
    work();
    longest = std::max<base::Duration>(longest, clock.Now() - begin);
  };
  for (const ScheduleField& field : kernels::ScheduleFields()) {
    step([&] { report.trials.push_back(Try(trials, field, &report.schedule)); });
  }
  step([&] {
    std::vector<double> ratios;
    for (int round = 0; round < kRounds; ++round) {
      const double int8 = trials.SampledInt8(report.schedule);
      ratios.push_back(int8 / std::max(1e-3, trials.SampledAsAppended(report.schedule)));
    }
    report.int8_over_appended = MiddleOf(ratios).median;
  });
  report.finished = in_time;
  report.spent = clock.Now() - start;
  return report;
}

}  // namespace sounder::kv_node
