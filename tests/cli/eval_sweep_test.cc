// Lists of options to settings, and settings to a plot.
#include "cli/eval_sweep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/eval_plot.h"

namespace sounder::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::vector<EvalSetting> Expand(const EvalLists& lists) {
  const auto settings = ExpandSweep(lists);
  EXPECT_TRUE(settings.ok()) << settings.status();
  return settings.ok() ? *settings : std::vector<EvalSetting>();
}

std::string Refusal(const EvalLists& lists) {
  const auto settings = ExpandSweep(lists);
  EXPECT_EQ(settings.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(settings.status().message());
}

TEST(EvalSweepTest, OneSettingByDefault) {
  EXPECT_THAT(Expand({}), ElementsAre(EvalSetting{"sketch", 128, 0, .02, "appended"}));
}

// Tables are varied for hash tables only, shares of rows for the others, int8 for sketches; what
// makes no difference is measured once.
TEST(EvalSweepTest, CombinesWhatASamplerTakes) {
  EXPECT_THAT(Expand({.samplers = {"exact", "lsh", "sketch", "uniform"},
                      .tables = {"75", "150"},
                      .rows = {"0.01", ".02"},
                      .row_formats = {"appended", "int8"}}),
              ElementsAre(EvalSetting{"exact", 0, 0, 0, "appended"},
                          EvalSetting{"lsh", 10, 75, 0, "appended"},
                          EvalSetting{"lsh", 10, 150, 0, "appended"},
                          EvalSetting{"sketch", 128, 0, .01, "appended"},
                          EvalSetting{"sketch", 128, 0, .02, "appended"},
                          EvalSetting{"sketch", 128, 0, .01, "int8"},
                          EvalSetting{"sketch", 128, 0, .02, "int8"},
                          EvalSetting{"uniform", 0, 0, .01, "appended"},
                          EvalSetting{"uniform", 0, 0, .02, "appended"}));
}

TEST(EvalSweepTest, ASamplerTakesTheBitsItCan) {
  EXPECT_THAT(Expand({.samplers = {"sketch", "lsh"}, .bits = {"64", "8", "256", "12"}}),
              ElementsAre(EvalSetting{"sketch", 64, 0, .02, "appended"},
                          EvalSetting{"sketch", 256, 0, .02, "appended"},
                          EvalSetting{"lsh", 8, 150, 0, "appended"},
                          EvalSetting{"lsh", 12, 150, 0, "appended"}));
  EXPECT_THAT(Expand({.samplers = {"sketch", "lsh"}, .bits = {"64"}}),
              ElementsAre(EvalSetting{"sketch", 64, 0, .02, "appended"},
                          EvalSetting{"lsh", 10, 150, 0, "appended"}));
}

TEST(EvalSweepTest, RefusesWhatItCannotMeasure) {
  EXPECT_THAT(Refusal({.samplers = {"lsh", "best"}}), HasSubstr("--sampler has 'best'"));
  EXPECT_THAT(Refusal({.samplers = {"lsh"}, .bits = {"128"}}), HasSubstr("--bits has 128"));
  EXPECT_THAT(Refusal({.samplers = {"sketch"}, .bits = {"96"}}), HasSubstr("--bits has 96"));
  EXPECT_THAT(Refusal({.bits = {"0"}}), HasSubstr("--bits has '0'"));
  EXPECT_THAT(Refusal({.tables = {"150", "many"}}), HasSubstr("--tables has 'many'"));
  EXPECT_THAT(Refusal({.tables = {"1025"}}), HasSubstr("--tables has '1025'"));
  EXPECT_THAT(Refusal({.rows = {"0"}}), HasSubstr("--rows has '0'"));
  EXPECT_THAT(Refusal({.rows = {"nan"}}), HasSubstr("--rows has 'nan'"));
  EXPECT_THAT(Refusal({.rows = {"1.5"}}), HasSubstr("--rows has '1.5'"));
  EXPECT_THAT(Refusal({.row_formats = {"int4"}}), HasSubstr("--row-format has 'int4'"));
}

EvalResult Result(const EvalSetting& setting, double error, double cost) {
  EvalResult result{setting, {}};
  result.figures.mean_relative_error = error;
  result.figures.rows_loaded_fraction = cost / 1000;
  result.figures.bytes_read_per_token = cost;
  result.figures.us_per_step = cost;
  return result;
}

int Count(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(EvalPlotTest, ThreePanelsWithALinePerSampler) {
  const std::string svg = EvalPlot({Result({.sampler = "exact"}, 1e-7, 500),
                                    Result({"sketch", 128, 0, .01, "int8"}, .2, 10),
                                    Result({"sketch", 128, 0, .02, "int8"}, .1, 20),
                                    Result({"topk", 0, 0, .02, "appended"}, .1, 20)});
  EXPECT_EQ(Count(svg, "mean relative error"), 3);
  EXPECT_EQ(Count(svg, ">sketch 128 int8</text>"), 1);
  EXPECT_EQ(Count(svg, ">exact</text>"), 2);  // lines of bytes and time
  EXPECT_EQ(Count(svg, "<polyline"), 3 + 2);  // topk's time is nobody's concern
  EXPECT_EQ(Count(svg, "<circle"), 3 * 2 + 1);
  EXPECT_THAT(svg, Not(HasSubstr("1e-07")));
}

}  // namespace
}  // namespace sounder::cli
