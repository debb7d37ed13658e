#include "cli/eval_plot.h"

#include <algorithm>

#include "cli/baselines/registry.h"
#include "cli/plot.h"

namespace sounder::cli {
namespace {

PlotPanel PanelOf(const std::vector<EvalResult>& results, const std::string& title,
                  const PlotAxis& x, double EvalFigures::*cost) {
  const bool is_rows = cost == &EvalFigures::rows_loaded_fraction;
  const bool is_time = cost == &EvalFigures::us_per_step;
  PlotPanel panel{
      .title = title, .x = x, .y = {.label = "mean relative error", .log = true}, .series = {}};
  for (const EvalResult& result : results) {
    const std::string name = LineName(result.setting);
    if (result.setting.sampler == "exact") {
      if (!is_rows) panel.guides.push_back({name, result.figures.*cost, /*vertical=*/true});
      continue;
    }
    if (is_time && !FindSampler(result.setting.sampler)->servable) continue;
    auto series = std::find_if(panel.series.begin(), panel.series.end(),
                               [&name](const PlotSeries& one) { return one.name == name; });
    if (series == panel.series.end()) series = panel.series.insert(series, {name, {}});
    series->points.push_back({result.figures.*cost, result.figures.mean_relative_error});
  }
  return panel;
}

}  // namespace

std::string EvalPlot(const std::vector<EvalResult>& results) {
  return PlotSvg(
      {PanelOf(results, "rows", {.label = "rows read per kv head", .log = true, .percent = true},
               &EvalFigures::rows_loaded_fraction),
       PanelOf(results, "bytes", {.label = "bytes read per token and kv head", .log = true},
               &EvalFigures::bytes_read_per_token),
       PanelOf(results, "time", {.label = "CPU time of a decode step, microseconds", .log = true},
               &EvalFigures::us_per_step)});
}

}  // namespace sounder::cli
