#include "bench/suite/tuning_gain.h"

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "bench/suite/timed_sampler.h"
#include "bench/suite/timing.h"
#include "common/base/check.h"
#include "kv_node/sampler/exact_sampler.h"
#include "kv_node/tuning/kernel_tuner.h"

namespace sounder::suite {
namespace {

// A step with this scratch's schedule.
using Step = std::function<void(int pair, kv_node::Scratch& scratch)>;

void AddGain(const std::string& name, int pairs, const Step& step,
             const kernels::KernelSchedule& tuned, cli::Record& record) {
  CacheFlusher flusher;
  kv_node::Scratch off;
  kv_node::Scratch on(tuned);
  std::vector<double> off_us;
  std::vector<double> on_us;
  std::vector<double> ratios;
  for (int pair = 0; pair < pairs; ++pair) {
    off_us.push_back(TimeCold(flusher, [&] { step(pair, off); }));
    on_us.push_back(TimeCold(flusher, [&] { step(pair, on); }));
    ratios.push_back(off_us.back() / on_us.back());
  }
  record.Add("tuning_off_" + name + "_us", Quantile(off_us, 0.5));
  record.Add("tuning_on_" + name + "_us", Quantile(on_us, 0.5));
  record.Add("tuning_off_over_on_" + name, Quantile(ratios, 0.5));
}

}  // namespace

void MeasureTuning(const SuiteSpec& spec, cli::Record& record) {
  Progress("start-up tuning");
  // With time to spare, so that what it takes is measured and not cut off.
  const kv_node::TuningReport report = kv_node::TuneKernels(std::chrono::seconds(30));
  record.Add("tuning_s", std::chrono::duration<double>(report.spent).count());
  record.Add("tuning_schedule", kernels::ScheduleText(report.schedule));
  record.Add("tuning_int8_over_appended", report.int8_over_appended);
  TimedSampler lsh({"lsh", LshSpec(spec.size, 150)}, generator::Family::kPeaked, spec.size, 1);
  TimedSampler sketch({"sketch", SketchSpec(spec.size, 128, 0.01)}, generator::Family::kPeaked,
                      spec.size, 1);
  std::vector<float> outputs(static_cast<size_t>(spec.size.group) * spec.size.dim);
  std::vector<float> lse(spec.size.group);
  const Step exact = [&](int pair, kv_node::Scratch& scratch) {
    const Workload& workload = lsh.workload(0);
    kv_node::ExactSampler().Attend(workload.segment(), workload.Query(pair), scratch,
                                   outputs.data(), lse.data(), nullptr, nullptr);
    UseAll(outputs, lse);
  };
  const auto of = [](TimedSampler& sampler) -> Step {
    return [&sampler](int pair, kv_node::Scratch& scratch) { sampler.Step(pair, scratch); };
  };
  AddGain("exact", spec.pairs, exact, report.schedule, record);
  AddGain("lsh_10_150", spec.pairs, of(lsh), report.schedule, record);
  AddGain("sketch_128_1pct_int8", spec.pairs, of(sketch), report.schedule, record);
}

}  // namespace sounder::suite
