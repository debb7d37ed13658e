// bench_instructions: runs each kernel once under callgrind, which dumps what it counted; and,
// called again with --dumps, turns the dumps into figures and compares them with the baseline.
// scripts/bench_instructions.sh does both.
#include <valgrind/callgrind.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "bench/instructions/counts.h"
#include "bench/instructions/kernels.h"
#include "common/base/absl_text.h"
#include "common/config/option_set.h"
#include "common/kernels/simd_level.h"

namespace sounder::instructions {
namespace {

constexpr int64_t kRows = 65536;
constexpr char kSimd[] = "AVX2";  // the best that valgrind emulates
constexpr int kExitWorse = 1;
constexpr int kExitCannot = 3;

int Cannot(const std::string& why) {
  std::fprintf(stderr, "bench_instructions: %s\n", why.c_str());
  return kExitCannot;
}

void CountOne(const Kernel& kernel) {
  // Once before it counts: what is allocated on first use then is.
  if (kernel.prepare) kernel.prepare();
  const std::string dump = DumpName(kernel.name, kernel.unit, kernel.run());
  if (kernel.prepare) kernel.prepare();
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_ZERO_STATS;
  kernel.run();
  CALLGRIND_DUMP_STATS_AT(dump.c_str());
  CALLGRIND_STOP_INSTRUMENTATION;
}

int RunKernels(std::vector<std::string> names) {
  if (RUNNING_ON_VALGRIND == 0) return Cannot("this is for callgrind: ./run bench-instructions");
  if (const auto status = kernels::ForceSimdLevel(kSimd); !status.ok()) {
    return Cannot(base::MessageOf(status));
  }
  const bool all = names.empty();
  const Rows rows(kRows);
  std::string known;
  for (const auto& group : {AttentionKernels(rows), SketchKernels(rows), StepKernels(kRows)}) {
    for (const Kernel& kernel : group) {
      known += " " + kernel.name;
      const bool wanted = std::erase(names, kernel.name) > 0;
      if (all || wanted) CountOne(kernel);
    }
  }
  if (!names.empty()) return Cannot("no kernel '" + names[0] + "'; there are:" + known);
  return 0;
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

int Report(const std::string& dumps, const std::string& output, const std::string& baseline,
           bool whole) {
  // out.1, out.2, .. in the order of the runs; the last, without a number, is of the process's end.
  Counts counts = {kSimd, "gcc " __VERSION__, {}};
  for (int i = 1; std::filesystem::exists(dumps + "/out." + std::to_string(i)); ++i) {
    const auto count = ParseDump(ReadFile(dumps + "/out." + std::to_string(i)));
    if (!count.ok()) return Cannot(base::MessageOf(count.status()));
    counts.kernels.push_back(*count);
  }
  if (counts.kernels.empty()) return Cannot("no dumps in " + dumps);
  std::ofstream file(output);
  file << ToJson(counts);
  if (!file.flush()) return Cannot("cannot write " + output);
  const auto before = baseline.empty() ? counts : FromJson(ReadFile(baseline));
  if (!before.ok()) return Cannot(baseline + ": " + base::MessageOf(before.status()));
  const Comparison comparison = Compare(counts, *before, whole);
  std::fputs(comparison.table.c_str(), stdout);
  for (const std::string& failure : comparison.failures) std::printf("%s\n", failure.c_str());
  return comparison.failures.empty() ? 0 : kExitWorse;
}

}  // namespace
}  // namespace sounder::instructions

int main(int argc, char** argv) {
  using namespace sounder;  // main of a tool
  std::string dumps;
  std::string output;
  std::string baseline;
  std::vector<std::string> kernels;
  config::OptionSet set("bench_instructions",
                        "Counts the instructions of the kernels; started by callgrind.");
  set.AddText("dumps", &dumps, "report what callgrind left in this folder, count nothing");
  set.AddText("output", &output, "with --dumps: file for the counts, one JSON object");
  set.AddText("baseline", &baseline, "with --dumps: such a file to compare with");
  set.AddArguments("KERNEL", &kernels, "only these kernels", 0, 100);
  if (const auto exit = set.ParseOrExit(argc, argv, config::EnvironmentFromProcess())) return *exit;
  if (dumps.empty()) return instructions::RunKernels(kernels);
  return instructions::Report(dumps, output, baseline, kernels.empty());
}
