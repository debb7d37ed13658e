// The settings that one `sounderctl eval` measures: options are given as lists, and every
// combination that makes a difference is one setting.
#ifndef SOUNDER_CLI_EVAL_SWEEP_H_
#define SOUNDER_CLI_EVAL_SWEEP_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace sounder::cli {

// What sampled rows are read from.
inline constexpr std::string_view kAppended = "appended";  // rows as in the file
inline constexpr std::string_view kBf16 = "bf16";          // the file's rows, converted first
inline constexpr std::string_view kInt8 = "int8";          // sketch: a copy of them in 8 bits

struct EvalSetting {
  std::string sampler;
  int64_t bits = 0;    // of a table or of a sketch; 0: the sampler has none
  int64_t tables = 0;  // 0: the sampler has none
  double rows = 0;     // share to read per kv head; 0: the sampler takes none
  std::string row_format = std::string(kAppended);

  friend bool operator==(const EvalSetting&, const EvalSetting&) = default;
};

// As text, as users give them.
struct EvalLists {
  std::vector<std::string> samplers = {"sketch"};
  std::vector<std::string> bits = {};  // empty: each sampler's own
  std::vector<std::string> tables = {"150"};
  std::vector<std::string> rows = {"0.02"};
  std::vector<std::string> row_formats = {std::string(kAppended)};
};

// Samplers outermost, in the order given; then bits, row formats, and rows or tables. A sampler
// takes of `bits` what it can: numbers up to 16 are bits of a table, 64, 128 and 256 of a sketch;
// where nothing is left for it, its own. Samplers other than sketch read rows as appended in place
// of int8. InvalidArgument, naming the option, for an unknown sampler or format, for what is no
// number in its range, and for bits that none of the samplers with bits takes.
absl::StatusOr<std::vector<EvalSetting>> ExpandSweep(const EvalLists& lists);

// Of all samplers, "a, b, c".
std::string SamplerNames();

// "sketch 128 int8": what a setting is called where rows or tables vary along a line.
std::string LineName(const EvalSetting& setting);

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_EVAL_SWEEP_H_
