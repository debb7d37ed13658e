// Counts of instructions: read from callgrind, written as JSON, compared with a baseline. Pure.
#ifndef SOUNDER_BENCH_INSTRUCTIONS_COUNTS_H_
#define SOUNDER_BENCH_INSTRUCTIONS_COUNTS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace sounder::instructions {

// One kernel's run.
struct Count {
  std::string name;
  std::string unit;  // of work: "row", "key", "step"
  int64_t units = 0;
  int64_t instructions = 0;

  double per_unit() const { return static_cast<double>(instructions) / static_cast<double>(units); }
};

// What was counted, and what else decides the counts.
struct Counts {
  std::string simd;
  std::string compiler;
  std::vector<Count> kernels;
};

// The text a kernel's run is dumped under, and the count of a callgrind dump made under it.
// InvalidArgument where the dump is none of ours.
std::string DumpName(std::string_view name, std::string_view unit, int64_t units);
absl::StatusOr<Count> ParseDump(std::string_view dump);

// One object, a line per kernel.
std::string ToJson(const Counts& counts);
// InvalidArgument for anything ToJson does not write.
absl::StatusOr<Counts> FromJson(std::string_view json);

// Instructions per unit may be so much above the baseline's.
inline constexpr double kAllowedRise = 0.03;

struct Comparison {
  std::string table;                  // for people
  std::vector<std::string> failures;  // why the comparison fails; empty: it passes
};

// whole: all kernels were counted, so one that only the baseline knows is a failure. A kernel the
// baseline does not know is one in any case.
Comparison Compare(const Counts& counts, const Counts& baseline, bool whole);

}  // namespace sounder::instructions

#endif  // SOUNDER_BENCH_INSTRUCTIONS_COUNTS_H_
