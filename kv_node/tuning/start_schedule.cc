#include "kv_node/tuning/start_schedule.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/absl_text.h"
#include "common/base/cpu.h"
#include "common/base/status_macros.h"
#include "common/config/version.h"
#include "common/kernels/simd_level.h"
#include "kv_node/tuning/kernel_tuner.h"
#include "kv_node/tuning/schedule_cache.h"

namespace sounder::kv_node {
namespace {

std::string Describe(const TuningReport& report) {
  std::string text =
      absl::StrFormat("measured in %.2f s", std::chrono::duration<double>(report.spent).count());
  for (const FieldTrial& trial : report.trials) {
    if (trial.chosen == trial.before) continue;
    absl::StrAppendFormat(&text, ", %s %d instead of %d (%.0f %% faster)", trial.field,
                          trial.chosen, trial.before, 100 * (trial.gain - 1));
  }
  if (!report.finished) absl::StrAppend(&text, ", not all fields in time");
  if (report.int8_over_appended > 0) {
    absl::StrAppendFormat(&text, "; a sample of rows in eight bits takes %.2f of the time of bf16",
                          report.int8_over_appended);
  }
  return text;
}

StartSchedule Found(const std::string& cache_file) {
  const ScheduleOrigin origin = {
      .cpu = base::CpuModel(), .simd = kernels::CurrentSimdLevel(), .version = config::Version()};
  std::string no_cache;
  if (!cache_file.empty()) {
    const auto cached = ReadSchedule(cache_file, origin);
    if (cached.ok()) return {*cached, absl::StrCat("from ", cache_file)};
    if (!absl::IsNotFound(cached.status())) {
      no_cache = absl::StrCat("; not from the cache: ", base::MessageOf(cached.status()));
    }
  }
  const TuningReport report = TuneKernels(kTuningBudget);
  StartSchedule start = {report.schedule, absl::StrCat(Describe(report), no_cache)};
  if (cache_file.empty() || !report.finished) return start;
  const absl::Status written = WriteSchedule(cache_file, origin, report.schedule);
  absl::StrAppend(&start.source, "; ",
                  written.ok() ? absl::StrCat("kept in ", cache_file) : base::MessageOf(written));
  return start;
}

}  // namespace

absl::StatusOr<StartSchedule> ScheduleAtStart(const std::string& tuning,
                                              const std::string& cache_file) {
  if (tuning == "off") return StartSchedule{.schedule = {}, .source = "the defaults"};
  if (tuning == "auto") return Found(cache_file);
  ASSIGN_OR_RETURN(const kernels::KernelSchedule schedule, kernels::ParseSchedule(tuning));
  return StartSchedule{.schedule = schedule, .source = "as given"};
}

absl::Status CheckTuning(const std::string& tuning) {
  if (tuning == "off" || tuning == "auto") return absl::OkStatus();
  const absl::Status status = kernels::ParseSchedule(tuning).status();
  return base::Annotate(status, "--tuning: expected auto, off or a schedule");
}

}  // namespace sounder::kv_node
