// Line plots as SVG: panels side by side, one legend under them. A small writer of our own, because
// results are to be plotted wherever they are measured, on machines that have no plotting program.
// Pure functions.
#ifndef SOUNDER_CLI_PLOT_H_
#define SOUNDER_CLI_PLOT_H_

#include <string>
#include <vector>

namespace sounder::cli {

struct PlotPoint {
  double x = 0;
  double y = 0;
  double low = 0;  // of an error bar from low to high; none where they are equal
  double high = 0;
};

// The line runs from point to point as given. Series of one name look alike in all panels.
struct PlotSeries {
  std::string name;
  std::vector<PlotPoint> points;
};

// A dashed line across the panel, for what has no curve.
struct PlotGuide {
  std::string label;
  double at = 0;          // of y
  bool vertical = false;  // of x
};

struct PlotAxis {
  std::string label;
  bool log = false;      // points that are not above 0 are left out
  bool percent = false;  // ticks are 100 times the values, with a percent sign
};

struct PlotPanel {
  std::string title;
  PlotAxis x;
  PlotAxis y;
  std::vector<PlotSeries> series;
  std::vector<PlotGuide> guides = {};
};

// A whole SVG document, white ground. Points that are not finite are left out; axes span what is
// left. The same figure gives the same bytes.
std::string PlotSvg(const std::vector<PlotPanel>& panels);

// Positions of ticks within [low, high], low < high and, of log axes, 0 < low.
std::vector<double> PlotTicks(double low, double high, bool log);

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_PLOT_H_
