// bench_suite: measures the speed lines of this project and writes them as one flat JSON object.
#include <cstdio>
#include <fstream>
#include <string>

#include "bench/suite/machine.h"
#include "bench/suite/parallel.h"
#include "bench/suite/suite.h"
#include "bench/suite/timing.h"
#include "common/base/cpu.h"
#include "common/config/option_set.h"
#include "common/kernels/simd_level.h"

namespace {

// SIMD levels by the names people use; others are the kernels' own (AVX3 is AVX-512).
std::string LevelOf(const std::string& name) {
  if (name == "avx2") return "AVX2";
  if (name == "avx512") return "AVX3";
  if (name == "sse4") return "SSE4";
  return name;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace sounder;  // main of a tool
  std::string output;
  std::string simd = "best";
  bool quick = false;
  int64_t pairs = 0;
  config::OptionSet set("bench_suite",
                        "Times exact and sampled attention on one core against reading K and V.");
  set.AddText("output", &output, "file for the figures, one JSON object");
  set.AddText("simd", &simd, "instruction set of the kernels: best, avx512, avx2, sse4");
  set.AddBool("quick", &quick, "a tenth of the work; figures not to be quoted");
  bool short_form = false;
  set.AddBool("short", &short_form, "without the figures at equal error and the long session");
  set.AddInt("pairs", &pairs, "timed pairs; 0: the default, 120", {.min = 0, .max = 100000});
  set.AddCheck([&simd] { return kernels::ForceSimdLevel(LevelOf(simd)); });
  if (const auto exit = set.ParseOrExit(argc, argv, config::EnvironmentFromProcess())) return *exit;

  suite::SuiteSpec spec = quick ? suite::QuickSuite() : suite::SuiteSpec();
  if (short_form) spec.frontier_steps = spec.million_steps = 0;
  if (pairs > 0) spec.pairs = static_cast<int>(pairs);
  cli::Record record;
  suite::MeasureParallelism(quick, record);  // before this process has threads or is bound to a CPU
  const int core = suite::PinToCurrentCore();
  suite::RunSuite(spec, record);
  record.Add("simd", kernels::CurrentSimdLevel());
  record.Add("cpu", base::CpuModel());
  record.Add("core", int64_t{core});
  record.Add("commit", suite::CommitOf(SOUNDER_SOURCE_DIR));
  record.Add("quick", quick);
  std::fputs(record.ToText().c_str(), stdout);
  if (output.empty()) return 0;
  std::ofstream file(output);
  file << record.ToJson() << "\n";
  if (file.flush()) return 0;
  std::fprintf(stderr, "bench_suite: cannot write %s\n", output.c_str());
  return 3;
}
