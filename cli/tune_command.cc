#include "cli/tune_command.h"

#include <cstdio>
#include <string>

#include "cli/exit_codes.h"
#include "cli/table.h"
#include "common/base/absl_text.h"
#include "common/base/cpu.h"
#include "common/config/option_set.h"
#include "common/kernels/simd_level.h"
#include "kv_node/tuning/kernel_tuner.h"
#include "kv_node/tuning/start_schedule.h"

namespace sounder::cli {
namespace {

int Run(int argc, const char* const* argv, const config::Environment& environment) {
  base::Duration budget = kv_node::kTuningBudget;
  std::string simd = "best";
  config::OptionSet set("sounderctl tune",
                        "Times the kernels with one schedule and another on this CPU, as a node "
                        "does at its start.");
  set.AddDuration("budget", &budget, "how long it may take");
  set.AddText("simd", &simd, "instruction set: best, or a level this machine has (AVX2, ...)");
  if (const std::optional<int> exit = set.ParseOrExit(argc, argv, environment)) return *exit;
  if (const absl::Status status = kernels::ForceSimdLevel(simd); !status.ok()) {
    std::fprintf(stderr, "sounderctl tune: --simd: %s\n", base::MessageOf(status).c_str());
    return config::kExitUsage;
  }
  const kv_node::TuningReport report = kv_node::TuneKernels(budget);
  Table table({"field", "default", "best other", "default / other", "chosen"});
  for (const kv_node::FieldTrial& trial : report.trials) {
    table.AddRow({trial.field, int64_t{trial.before}, int64_t{trial.best_other}, trial.gain,
                  int64_t{trial.chosen}});
  }
  std::printf("%s, %s\n%s", base::CpuModel().c_str(), kernels::CurrentSimdLevel().c_str(),
              table.ToText().c_str());
  std::printf("a sample of rows in eight bits / in bf16: %.3f of the time\n",
              report.int8_over_appended);
  std::printf("%.3f s%s\nschedule: %s\n", std::chrono::duration<double>(report.spent).count(),
              report.finished ? "" : " (not finished)",
              kernels::ScheduleText(report.schedule).c_str());
  return 0;
}

}  // namespace

config::Command TuneCommand() {
  return {"tune", "find the fastest schedule of the kernels on this CPU", Run};
}

}  // namespace sounder::cli
