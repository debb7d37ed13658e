// Plots as XML: well formed, and holding what was to be drawn.
#include "cli/plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <regex>

namespace sounder::cli {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

int Count(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// Every element is closed in order, attributes are quoted, nothing else has a '<' or a bare '&'.
void ExpectWellFormed(const std::string& svg) {
  const std::regex element(R"re(<(/?)([a-z]+)((?: [A-Za-z0-9:-]+="[^"<&]*")*) ?(/?)>)re");
  std::vector<std::string> open;
  std::string rest;
  size_t end = 0;
  for (std::sregex_iterator it(svg.begin(), svg.end(), element), last; it != last; ++it) {
    rest += svg.substr(end, it->position() - end);
    end = it->position() + it->length();
    const std::string name = (*it)[2];
    if ((*it)[1] == "/") {
      ASSERT_FALSE(open.empty());
      EXPECT_EQ(open.back(), name);
      open.pop_back();
    } else if ((*it)[4] != "/") {
      open.push_back(name);
    }
  }
  EXPECT_TRUE(open.empty());
  EXPECT_EQ(svg.substr(end), "\n");
  EXPECT_THAT(rest, Not(HasSubstr("<")));
  EXPECT_THAT(std::regex_replace(rest, std::regex("&(amp|lt|gt|quot);"), ""), Not(HasSubstr("&")));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
}

PlotPanel Panel() {
  PlotPanel panel;
  panel.title = "error < 1 & more";
  panel.x = {.label = "rows", .log = true, .percent = true};
  panel.y = {.label = "error", .log = true};
  panel.series = {{"sketch", {{.1, .2}, {.01, .5, .4, .6}}}, {"lsh \"10\"", {{.02, .9}}}};
  return panel;
}

TEST(PlotTest, HoldsEverySeriesPointAndLabel) {
  const std::string svg = PlotSvg({Panel()});
  ExpectWellFormed(svg);
  EXPECT_EQ(Count(svg, "<polyline"), 2);
  EXPECT_EQ(Count(svg, "<circle"), 2 + 1);  // a marker per point and one in the legend
  EXPECT_THAT(svg, HasSubstr("error &lt; 1 &amp; more"));
  EXPECT_THAT(svg, HasSubstr("lsh &quot;10&quot;"));
  EXPECT_THAT(svg, HasSubstr(">1 %</text>"));
  EXPECT_THAT(svg, HasSubstr(">10 %</text>"));
  EXPECT_THAT(svg, HasSubstr(">0.5</text>"));
}

// The error bar of the first point is one line at its x, from its low to its high end.
TEST(PlotTest, DrawsErrorBarsWhereThereAreSome) {
  PlotPanel panel = Panel();
  const std::string with = PlotSvg({panel});
  panel.series[0].points[1].high = panel.series[0].points[1].low;
  EXPECT_EQ(Count(with, "<line"), Count(PlotSvg({panel}), "<line") + 1);
}

TEST(PlotTest, LinesRunAsGiven) {
  PlotPanel panel = Panel();
  panel.series.resize(1);
  const auto line = [&] {
    const std::string svg = PlotSvg({panel});
    const size_t begin = svg.find("<polyline points=\"") + 18;
    return svg.substr(begin, svg.find('"', begin) - begin);
  };
  const std::string there = line();
  std::swap(panel.series[0].points[0], panel.series[0].points[1]);
  const std::string back = line();
  const size_t blank = there.find(' ');
  EXPECT_EQ(back, there.substr(blank + 1) + " " + there.substr(0, blank));
}

TEST(PlotTest, LeavesOutWhatAnAxisCannotShow) {
  PlotPanel panel = Panel();
  const std::string svg = PlotSvg({panel});
  panel.series[0].points.push_back({0, .2});
  panel.series[0].points.push_back({.1, -1});
  panel.series[0].points.push_back({std::nan(""), .2});
  panel.series[0].points.push_back({.1, std::numeric_limits<double>::infinity()});
  EXPECT_EQ(PlotSvg({panel}), svg);
}

TEST(PlotTest, SeriesOfOneNameLookAlikeInAllPanels) {
  PlotPanel second = Panel();
  second.series.erase(second.series.begin());
  const std::string svg = PlotSvg({Panel(), second});
  ExpectWellFormed(svg);
  EXPECT_EQ(Count(svg, ">lsh &quot;10&quot;</text>"), 1);  // one legend
  EXPECT_EQ(Count(svg, "<rect x=") - 2, 3);                // square markers: panels and legend
}

TEST(PlotTest, GuidesCrossThePanel) {
  PlotPanel panel = Panel();
  const int lines = Count(PlotSvg({panel}), "stroke-dasharray=\"4 4\"");
  panel.guides = {{"full", .3}, {"exact", .05, /*vertical=*/true}};
  const std::string svg = PlotSvg({panel});
  ExpectWellFormed(svg);
  EXPECT_EQ(Count(svg, "stroke-dasharray=\"4 4\""), lines + 2);
  EXPECT_THAT(svg, HasSubstr(">full</text>"));
  EXPECT_THAT(svg, HasSubstr(">exact</text>"));
}

TEST(PlotTest, EmptyPanelsAndSinglePointsAreFine) {
  ExpectWellFormed(PlotSvg({}));
  ExpectWellFormed(PlotSvg({PlotPanel()}));
  PlotPanel panel;
  panel.series = {{"one", {{3, 3}}}};
  ExpectWellFormed(PlotSvg({panel}));
}

TEST(PlotTicksTest, AreRound) {
  EXPECT_THAT(PlotTicks(.009, .12, true), ElementsAre(DoubleNear(.01, 1e-9), DoubleNear(.02, 1e-9),
                                                      DoubleNear(.05, 1e-9), DoubleNear(.1, 1e-9)));
  EXPECT_THAT(PlotTicks(1e-7, 2, true), testing::SizeIs(8));
  EXPECT_THAT(PlotTicks(0, 1, false),
              ElementsAre(0, DoubleNear(.2, 1e-9), DoubleNear(.4, 1e-9), DoubleNear(.6, 1e-9),
                          DoubleNear(.8, 1e-9), DoubleNear(1, 1e-9)));
}

}  // namespace
}  // namespace sounder::cli
