// Figures of hand-made trials.
#include "bench/quality/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/quality/quality_plot.h"
#include "bench/quality/statistics.h"

namespace sounder::quality {
namespace {

using testing::HasSubstr;
using testing::Not;

Trial Make(const std::string& sampler, double rows, const std::vector<bool>& right,
           int tables = 0) {
  Trial trial;
  trial.setting = {sampler, rows, tables};
  for (const bool one : right) {
    Outcome outcome;
    outcome.right = one;
    outcome.error = one ? .25 : .75;
    outcome.rows_loaded = rows;
    outcome.rows_read = rows / 2;
    trial.outcomes.push_back(outcome);
  }
  return trial;
}

TrialsByTask Trials() {
  return {
      {"recall",
       {Make("exact", 1, {true, true, true, true}), Make("sketch", .02, {true, true, true, false}),
        Make("lsh", .02, {false, true, false, false}, 40)}},
      {"words",
       {Make("exact", 1, {true, true, false, true}), Make("sketch", .02, {true, false, true, true}),
        Make("lsh", .02, {true, true, true, true}, 50)}}};
}

TEST(ReportTest, FiguresBySamplerRowsAndTask) {
  const auto quality = QualityJson(Trials());
  EXPECT_EQ(quality.size(), 3u);
  EXPECT_EQ(quality["exact"]["1"]["recall"], 1);
  EXPECT_EQ(quality["exact"]["1"]["words"], .75);
  const auto& sketch = quality["sketch"]["0.02"];
  EXPECT_EQ(sketch["recall"], .75);
  EXPECT_EQ(sketch["error"]["recall"], .375);
  EXPECT_EQ(sketch["ci"]["recall"][0], Share(3, 4).low);
  EXPECT_EQ(sketch["ci"]["recall"][1], Share(3, 4).high);
  EXPECT_EQ(sketch["rows_loaded"]["words"], .02);
  EXPECT_EQ(sketch["rows_read"]["words"], .01);
  EXPECT_FALSE(sketch.contains("tables"));
  EXPECT_EQ(quality["lsh"]["0.02"]["tables"]["words"], 50);
}

TEST(ReportTest, DifferencesArePairedWithTheSamePrompts) {
  const auto quality = QualityJson(Trials());
  const auto& minus = quality["sketch"]["0.02"]["minus"];
  EXPECT_EQ(minus["exact"]["words"]["mean"], 0);
  const Estimate expected = PairedDifference({true, false, true, true}, {true, true, false, true});
  EXPECT_EQ(minus["exact"]["words"]["ci"][0], expected.low);
  EXPECT_EQ(minus["exact"]["words"]["ci"][1], expected.high);
  EXPECT_EQ(minus["lsh"]["recall"]["mean"], .5);
  EXPECT_FALSE(minus.contains("oracle"));
  EXPECT_FALSE(quality["lsh"]["0.02"]["minus"].contains("lsh"));
}

TEST(ReportTest, BoundsAreThoseOfTheIntervals) {
  const auto quality = QualityJson(Trials());
  const auto bounds = JudgedBounds(quality);
  const auto& minus = quality["sketch"]["0.02"]["minus"];
  EXPECT_EQ(bounds["sketch_2pct_recall_below_exact_upper"],
            -minus["exact"]["recall"]["ci"][0].get<double>());
  EXPECT_EQ(bounds["sketch_2pct_recall_above_lsh_lower"], minus["lsh"]["recall"]["ci"][0]);
  EXPECT_FALSE(bounds.contains("sketch_5pct_words_below_exact_upper"));
}

TEST(ReportTest, TheTableHasEverySetting) {
  const std::string table = QualityTable(Trials());
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 2 + 6);
  EXPECT_THAT(table, HasSubstr("0.750"));
}

TEST(QualityPlotTest, ShowsATaskPerPanelAndASamplerPerLine) {
  auto quality = QualityJson(Trials());
  quality["run"] = {{"prompts", 4}, {"bounds", {{"x", 1}}}};
  const std::string svg = QualityPlot(quality);
  EXPECT_THAT(svg, HasSubstr(">recall: "));
  EXPECT_THAT(svg, HasSubstr(">words: "));
  EXPECT_THAT(svg, HasSubstr(">sketch</text>"));
  EXPECT_THAT(svg, HasSubstr(">full attention</text>"));
  EXPECT_THAT(svg, Not(HasSubstr(">exact</text>")));
  EXPECT_THAT(svg, Not(HasSubstr(">run</text>")));
}

}  // namespace
}  // namespace sounder::quality
