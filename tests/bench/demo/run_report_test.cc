// The demo's report refuses runs that show nothing about sampling, and counts what it says.
#include "bench/demo/run_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace sounder::bench {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

std::vector<Question> TwoQuestions() {
  return {QuestionOf({{"id", "recall-0"}, {"text", "<s> a b recall ashbank"}, {"expected", "red"}}),
          QuestionOf({{"id", "words-0"}, {"text", "<s> a b most"}, {"expected", "apple"}})};
}

Json GoodSummary() {
  return {{"failed", 0},
          {"exact_share", 0.149},
          {"positions", 1000},
          {"rows_visible", 850},
          {"rows_read_fraction", 0.02},
          {"bytes_sent", 3 << 20},
          {"bytes_received", 2 << 20},
          {"audit_bytes", 1 << 20}};
}

ModelRun RunWith(const Json& summary, const std::string& name = "lsh_10_150",
                 const std::string& second = "apple") {
  return MakeRun(name,
                 {{{"id", "recall-0"}, {"text", "red"}, {"status", "OK"}},
                  {{"id", "words-0"}, {"text", second}, {"status", "OK"}}},
                 summary);
}

// The fault of a sampled run whose summary has `value` at `key`.
std::string FaultWith(const std::string& key, const Json& value) {
  Json summary = GoodSummary();
  summary[key] = value;
  return FaultOf(RunWith(summary), TwoQuestions());
}

TEST(RunReportTest, BoundsTheExactShare) {
  EXPECT_EQ(FaultWith("exact_share", 0.149), "");
  EXPECT_EQ(FaultWith("exact_share", 0.15), "");
  EXPECT_THAT(FaultWith("exact_share", 0.151),
              HasSubstr("15.1% of the positions were attended exactly"));
  EXPECT_THAT(FaultWith("exact_share", 1), HasSubstr("100.0%"));
}

TEST(RunReportTest, WantsTheFiguresOfSampledRuns) {
  for (const char* key : {"exact_share", "positions", "rows_visible", "rows_read_fraction"}) {
    Json summary = GoodSummary();
    summary.erase(key);
    EXPECT_THAT(FaultOf(RunWith(summary), TwoQuestions()), HasSubstr(key));
    EXPECT_EQ(FaultOf(RunWith(summary, "exact"), TwoQuestions()), "") << key;
    EXPECT_THAT(FaultWith(key, "much"), HasSubstr(key));
    EXPECT_THAT(FaultWith(key, nullptr), HasSubstr(key));
  }
  EXPECT_EQ(FaultWith("positions", 0), "no position was counted");
  EXPECT_EQ(FaultWith("rows_visible", 0), "no row was on the nodes to be sampled");
}

TEST(RunReportTest, WantsASample) {
  EXPECT_EQ(FaultWith("rows_read_fraction", 0), "0% of the rows were read: no sample");
  EXPECT_EQ(FaultWith("rows_read_fraction", 1), "100% of the rows were read: no sample");
  for (const char* name : {"lsh_10_150", "sketch_2"}) {
    Json summary = GoodSummary();
    summary["exact_share"] = 1;
    EXPECT_NE(FaultOf(RunWith(summary, name), TwoQuestions()), "") << name;
  }
}

TEST(RunReportTest, WantsEveryAnswer) {
  EXPECT_EQ(FaultOf(RunWith(GoodSummary(), "exact", "pear"), TwoQuestions()), "")
      << "a wrong answer is no fault";
  EXPECT_EQ(FaultWith("failed", 1), "prompts failed");
  EXPECT_EQ(FaultWith("failed", nullptr), "prompts failed");
  const ModelRun refused = MakeRun("exact",
                                   {{{"id", "recall-0"}, {"text", "red"}, {"status", "OK"}},
                                    {{"id", "words-0"}, {"text", ""}, {"status", "UNAVAILABLE"}}},
                                   GoodSummary());
  EXPECT_EQ(FaultOf(refused, TwoQuestions()), "no answer to words-0");
  EXPECT_EQ(FaultOf(MakeRun("exact", {}, Json()), {}), "no figures were written");
}

TEST(RunReportTest, Figures) {
  const std::vector<ModelRun> runs = {RunWith(GoodSummary(), "exact"),
                                      RunWith(GoodSummary(), "lsh_8_75", "pear")};
  EXPECT_EQ(BytesOnTheWire(runs[0]), 4 << 20) << "without audits";
  const std::string text = FiguresTable(runs, TwoQuestions());
  const std::string sampled = text.substr(text.find("lsh_8_75"));
  EXPECT_THAT(sampled, HasSubstr("1/1 = 1.000"));
  EXPECT_THAT(sampled, HasSubstr("0/1 = 0.000"));
  EXPECT_THAT(sampled, HasSubstr("14.90%"));
  EXPECT_THAT(sampled, HasSubstr("2.00%"));
  EXPECT_THAT(sampled, HasSubstr(" 4.0"));
}

TEST(RunReportTest, Answers) {
  std::vector<Question> questions;
  std::vector<Json> answers;
  const auto ask = [&](const std::string& id, const std::string& answer) {
    questions.push_back(
        QuestionOf({{"id", id}, {"text", "<s> a b recall key" + id}, {"expected", "word" + id}}));
    answers.push_back({{"id", id}, {"text", answer}, {"status", "OK"}});
  };
  ask("recall-0", "wordrecall-0");
  ask("recall-1", "wordrecall-1");
  ask("recall-2", "pear");
  ask("recall-3", "fig");
  ask("words-0", "plum");
  ask("words-1", "lime");
  const std::string text = AnswersTable({MakeRun("exact", answers, {})}, questions, 1);
  EXPECT_THAT(text, HasSubstr("... recall keyrecall-0"));
  EXPECT_THAT(text, HasSubstr(" wordrecall-0\n"));
  EXPECT_THAT(text, Not(HasSubstr("recall-1"))) << "not of the first, and right";
  EXPECT_THAT(text, HasSubstr("pear*\n"));
  EXPECT_THAT(text, Not(HasSubstr("fig"))) << "a second wrong one";
  EXPECT_THAT(text, HasSubstr("plum*\n"));
  EXPECT_THAT(text, Not(HasSubstr("lime"))) << "a wrong one has been shown";
}

}  // namespace
}  // namespace sounder::bench
