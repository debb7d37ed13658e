#include "cli/plot.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sounder::cli {
namespace {

// In pixels.
constexpr double kPlotWidth = 340, kPlotHeight = 300;  // of a panel's plotting area
constexpr double kLeft = 72, kRight = 20, kTop = 36, kBottom = 56;
constexpr double kLegendLine = 20, kLegendColumn = 170;
constexpr double kMarker = 3.5;

// Colours that differ for colour-blind readers too (Okabe and Ito, 2008).
constexpr const char* kColours[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                    "#E69F00", "#56B4E9", "#000000"};
constexpr size_t kNumColours = std::size(kColours);
constexpr const char* kDashes[] = {"none", "6 3", "2 3"};

std::string Escaped(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '&') {
      escaped += "&amp;";
    } else if (c == '<') {
      escaped += "&lt;";
    } else if (c == '>') {
      escaped += "&gt;";
    } else if (c == '"') {
      escaped += "&quot;";
    } else {
      escaped += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
  }
  return escaped;
}

std::string Text(double x, double y, const char* anchor, const std::string& text,
                 const std::string& more = "") {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>%s</text>\n", x, y,
                         anchor, more, Escaped(text));
}

std::string Line(double x1, double y1, double x2, double y2, const std::string& style) {
  return absl::StrFormat("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" %s/>\n", x1, y1, x2,
                         y2, style);
}

// How the series of one name are drawn: colours first, then shapes and dashes.
struct Look {
  explicit Look(size_t number)
      : colour(kColours[number % kNumColours]),
        dash(kDashes[number / kNumColours % std::size(kDashes)]),
        shape(number % 4) {}

  std::string Marker(double x, double y) const {
    const double r = kMarker;
    const std::string fill = absl::StrCat("fill=\"", colour, "\"/>\n");
    switch (shape) {
      case 0:
        return absl::StrFormat("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" ", x, y, r) + fill;
      case 1:
        return absl::StrFormat("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" ", x - r,
                               y - r, 2 * r, 2 * r) +
               fill;
      case 2:
        return Polygon({x, y - r - 1, x + r + 1, y + r, x - r - 1, y + r}) + fill;
      default:
        return Polygon({x, y - r - 1, x + r + 1, y, x, y + r + 1, x - r - 1, y}) + fill;
    }
  }
  std::string Stroke() const {
    return absl::StrCat("stroke=\"", colour, "\" stroke-width=\"1.6\" stroke-dasharray=\"", dash,
                        "\" ");
  }

  const char* colour;
  const char* dash;
  size_t shape;

 private:
  static std::string Polygon(const std::vector<double>& xy) {
    std::string points;
    for (size_t i = 0; i < xy.size(); i += 2) {
      absl::StrAppendFormat(&points, "%s%.1f,%.1f", i == 0 ? "" : " ", xy[i], xy[i + 1]);
    }
    return absl::StrCat("<polygon points=\"", points, "\" ");
  }
};

// From values to pixels.
class Scale {
 public:
  Scale(const PlotAxis& axis, std::vector<double> values, double pixel_low, double pixel_high)
      : axis_(axis), pixel_low_(pixel_low), pixel_high_(pixel_high) {
    std::erase_if(values, [&](double value) { return !Shows(value); });
    if (values.empty()) values = {axis.log ? 1.0 : 0.0};
    const auto [least, largest] = std::minmax_element(values.begin(), values.end());
    low_ = Warp(*least);
    high_ = Warp(*largest);
    const double margin = high_ > low_ ? .07 * (high_ - low_) : axis.log ? .3 : .5;
    low_ -= margin;
    high_ += margin;
  }

  bool Shows(double value) const { return std::isfinite(value) && (!axis_.log || value > 0); }
  double At(double value) const {
    return pixel_low_ + (Warp(value) - low_) / (high_ - low_) * (pixel_high_ - pixel_low_);
  }
  std::vector<double> Ticks() const {
    return axis_.log ? PlotTicks(std::pow(10, low_), std::pow(10, high_), true)
                     : PlotTicks(low_, high_, false);
  }
  std::string TickText(double value) const {
    return axis_.percent ? absl::StrFormat("%.6g %%", 100 * value) : absl::StrFormat("%.6g", value);
  }

 private:
  double Warp(double value) const { return axis_.log ? std::log10(value) : value; }

  const PlotAxis axis_;
  const double pixel_low_;
  const double pixel_high_;
  double low_ = 0;
  double high_ = 1;
};

std::string DrawFrame(const PlotPanel& panel, const Scale& x, const Scale& y, double left) {
  const double right = left + kPlotWidth, bottom = kTop + kPlotHeight;
  std::string svg;
  for (const double tick : x.Ticks()) {
    svg += Line(x.At(tick), kTop, x.At(tick), bottom, "stroke=\"#e4e4e4\"");
    svg += Text(x.At(tick), bottom + 17, "middle", x.TickText(tick));
  }
  for (const double tick : y.Ticks()) {
    svg += Line(left, y.At(tick), right, y.At(tick), "stroke=\"#e4e4e4\"");
    svg += Text(left - 6, y.At(tick) + 4, "end", y.TickText(tick));
  }
  svg += absl::StrFormat(
      "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" "
      "stroke=\"#444444\"/>\n",
      left, kTop, kPlotWidth, kPlotHeight);
  svg += Text(left + kPlotWidth / 2, kTop - 12, "middle", panel.title, " font-weight=\"bold\"");
  svg += Text(left + kPlotWidth / 2, bottom + 40, "middle", panel.x.label);
  const double label_x = left - kLeft + 16, label_y = kTop + kPlotHeight / 2;
  svg += Text(label_x, label_y, "middle", panel.y.label,
              absl::StrFormat(" transform=\"rotate(-90 %.1f %.1f)\"", label_x, label_y));
  return svg;
}

std::string DrawGuide(const PlotGuide& guide, const Scale& x, const Scale& y, double left) {
  const std::string stroke = "stroke=\"#777777\" stroke-dasharray=\"4 4\"";
  const std::string fill = " fill=\"#555555\"";
  if (!(guide.vertical ? x : y).Shows(guide.at)) return "";
  if (guide.vertical) {
    const double at = x.At(guide.at);
    return Line(at, kTop, at, kTop + kPlotHeight, stroke) +
           Text(at - 4, kTop + 14, "end", guide.label, fill);
  }
  const double at = y.At(guide.at);
  return Line(left, at, left + kPlotWidth, at, stroke) +
         Text(left + kPlotWidth - 4, at - 5, "end", guide.label, fill);
}

std::string DrawSeries(const PlotSeries& series, const Look& look, const Scale& x, const Scale& y) {
  std::string path, marks;
  for (const PlotPoint& p : series.points) {
    if (!x.Shows(p.x) || !y.Shows(p.y)) continue;
    absl::StrAppendFormat(&path, "%s%.1f,%.1f", path.empty() ? "" : " ", x.At(p.x), y.At(p.y));
    if (p.low != p.high && y.Shows(p.low) && y.Shows(p.high)) {
      marks += Line(x.At(p.x), y.At(p.low), x.At(p.x), y.At(p.high),
                    absl::StrCat("stroke=\"", look.colour, "\""));
    }
    marks += look.Marker(x.At(p.x), y.At(p.y));
  }
  return absl::StrCat("<polyline points=\"", path, "\" fill=\"none\" ", look.Stroke(), "/>\n",
                      marks);
}

std::string DrawPanel(const PlotPanel& panel, const std::vector<std::string>& names, double left) {
  std::vector<double> xs, ys;
  for (const PlotSeries& series : panel.series) {
    for (const PlotPoint& p : series.points) {
      xs.push_back(p.x);
      ys.push_back(p.y);
      if (p.low != p.high) ys.insert(ys.end(), {p.low, p.high});
    }
  }
  for (const PlotGuide& guide : panel.guides) (guide.vertical ? xs : ys).push_back(guide.at);
  const Scale x(panel.x, xs, left, left + kPlotWidth);
  const Scale y(panel.y, ys, kTop + kPlotHeight, kTop);
  std::string svg = DrawFrame(panel, x, y, left);
  for (const PlotGuide& guide : panel.guides) svg += DrawGuide(guide, x, y, left);
  for (const PlotSeries& series : panel.series) {
    const size_t number = std::find(names.begin(), names.end(), series.name) - names.begin();
    svg += DrawSeries(series, Look(number), x, y);
  }
  return svg;
}

std::string DrawLegend(const std::vector<std::string>& names, size_t columns, double top) {
  std::string svg;
  for (size_t i = 0; i < names.size(); ++i) {
    const Look look(i);
    const double x = kLeft + static_cast<double>(i % columns) * kLegendColumn;
    const double y = top + static_cast<double>(i / columns) * kLegendLine;
    svg += Line(x, y, x + 28, y, look.Stroke());
    svg += look.Marker(x + 14, y);
    svg += Text(x + 34, y + 4, "start", names[i]);
  }
  return svg;
}

}  // namespace

std::vector<double> PlotTicks(double low, double high, bool log) {
  std::vector<double> ticks;
  if (log) {
    const double decades = std::log10(high / low);
    std::vector<double> steps = {1};
    if (decades < 4) steps = {1, 2, 5};
    if (decades < .7) steps = {1, 1.5, 2, 3, 4, 5, 6, 8};
    for (int power = static_cast<int>(std::floor(std::log10(low)));
         power <= static_cast<int>(std::ceil(std::log10(high))); ++power) {
      for (const double step : steps) {
        const double tick = step * std::pow(10, power);
        if (tick >= low && tick <= high) ticks.push_back(tick);
      }
    }
    return ticks;
  }
  const double rough = (high - low) / 6;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double factor = rough / power < 1.5 ? 1 : rough / power < 3.5 ? 2 : 5;
  const double step = factor * power;
  const double first = std::ceil(low / step), last = std::floor(high / step);
  for (double i = first; i <= last; ++i) ticks.push_back(i * step + 0.0);  // no -0
  return ticks;
}

std::string PlotSvg(const std::vector<PlotPanel>& panels) {
  std::vector<std::string> names;
  for (const PlotPanel& panel : panels) {
    for (const PlotSeries& series : panel.series) {
      if (std::find(names.begin(), names.end(), series.name) == names.end()) {
        names.push_back(series.name);
      }
    }
  }
  const double panel_width = kLeft + kPlotWidth + kRight;
  const double width = panel_width * static_cast<double>(std::max<size_t>(1, panels.size()));
  const auto columns = static_cast<size_t>((width - kLeft) / kLegendColumn);
  const double legend_top = kTop + kPlotHeight + kBottom + 8;
  const size_t lines = (names.size() + columns - 1) / columns;
  const double height = legend_top + static_cast<double>(lines) * kLegendLine;
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f "
      "%.0f\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\">\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
      width, height, width, height);
  for (size_t i = 0; i < panels.size(); ++i) {
    svg += DrawPanel(panels[i], names, static_cast<double>(i) * panel_width + kLeft);
  }
  svg += DrawLegend(names, columns, legend_top);
  return svg + "</svg>\n";
}

}  // namespace sounder::cli
