// store_bench: compares ways of keeping segments on a disk and writes the figures as one flat JSON
// object.
#include <cstdio>
#include <fstream>
#include <string>

#include "bench/store/store_bench.h"
#include "bench/suite/machine.h"
#include "common/base/cpu.h"
#include "common/config/option_set.h"

int main(int argc, char** argv) {
  using namespace sounder;  // main of a tool
  std::string output;
  std::string folder = ".";
  bool quick = false;
  config::OptionSet set("store_bench",
                        "Times ways of keeping segments on a disk, past the page cache: 3 GiB.");
  set.AddText("output", &output, "file for the figures, one JSON object");
  set.AddText("folder", &folder, "a folder on the disk to be measured");
  set.AddBool("quick", &quick, "a hundredth of the work; figures not to be quoted");
  if (const auto exit = set.ParseOrExit(argc, argv, config::EnvironmentFromProcess())) return *exit;

  const store_bench::StoreBenchSpec spec =
      quick ? store_bench::QuickStoreBench() : store_bench::StoreBenchSpec();
  cli::Record record;
  const absl::Status status = store_bench::RunStoreBench(spec, folder, record);
  if (!status.ok()) {
    std::fprintf(stderr, "store_bench: %s\n", status.ToString().c_str());
    return 3;
  }
  record.Add("cpu", base::CpuModel());
  record.Add("commit", suite::CommitOf(SOUNDER_SOURCE_DIR));
  record.Add("quick", quick);
  std::fputs(record.ToText().c_str(), stdout);
  if (output.empty()) return 0;
  std::ofstream file(output);
  file << record.ToJson() << "\n";
  if (file.flush()) return 0;
  std::fprintf(stderr, "store_bench: cannot write %s\n", output.c_str());
  return 3;
}
