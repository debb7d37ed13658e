#include "bench/quality/quality_plot.h"

#include <string_view>
#include <utility>
#include <vector>

#include "bench/quality/settings.h"
#include "cli/plot.h"

namespace sounder::quality {
namespace {

using nlohmann::ordered_json;

cli::PlotPanel PanelOf(const ordered_json& quality, const std::string& task, const char* title) {
  cli::PlotPanel panel;
  panel.title = title;
  panel.x = {.label = "rows read per kv head", .log = true, .percent = true};
  panel.y = {.label = "right answers", .percent = true};
  for (const auto& [sampler, by_rows] : quality.items()) {
    cli::PlotSeries series{sampler, {}};
    for (const auto& [rows, figures] : by_rows.items()) {
      if (!figures.is_object() || !figures.contains(task) || !figures.contains("ci")) continue;
      const double accuracy = figures[task];
      if (sampler == kExact || sampler == kWindowOnly) {
        panel.guides.push_back({sampler == kExact ? "full attention" : "window only", accuracy});
        continue;
      }
      series.points.push_back(
          {figures["rows_loaded"][task], accuracy, figures["ci"][task][0], figures["ci"][task][1]});
    }
    if (!series.points.empty()) panel.series.push_back(std::move(series));
  }
  return panel;
}

}  // namespace

std::string QualityPlot(const ordered_json& quality) {
  std::vector<cli::PlotPanel> panels;
  for (const auto& [task, title] : {std::pair{"recall", "recall: the value of one key among 400"},
                                    std::pair{"words", "words: the most frequent word"}}) {
    cli::PlotPanel panel = PanelOf(quality, task, title);
    if (!panel.series.empty()) panels.push_back(std::move(panel));
  }
  return cli::PlotSvg(panels);
}

}  // namespace sounder::quality
