// Settings against each other: what an error costs in rows, bytes and time.
#ifndef SOUNDER_CLI_EVAL_PLOT_H_
#define SOUNDER_CLI_EVAL_PLOT_H_

#include <string>
#include <vector>

#include "cli/eval_figures.h"
#include "cli/eval_sweep.h"

namespace sounder::cli {

struct EvalResult {
  EvalSetting setting;
  EvalFigures figures;
};

// An SVG of three panels, both axes logarithmic: mean relative error against rows read, bytes read
// and time, a line per LineName. Exact attention has no error to show: its bytes and time are
// vertical lines. The time of samplers that exist for comparison is left out: nobody made them
// fast.
std::string EvalPlot(const std::vector<EvalResult>& results);

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_EVAL_PLOT_H_
