#include "bench/instructions/counts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "common/base/absl_text.h"

namespace sounder::instructions {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Counts Baseline() {
  return {.simd = "AVX2",
          .compiler = "gcc 12",
          .kernels = {{"scan", "row", 1000, 20000}, {"plan", "step", 1, 5000}}};
}

// The failures of counts whose first kernel takes so many instructions.
std::vector<std::string> FailuresAt(int64_t instructions) {
  Counts counts = Baseline();
  counts.kernels[0].instructions = instructions;
  return Compare(counts, Baseline(), /*whole=*/true).failures;
}

TEST(CountsTest, ReadsADump) {
  const std::string dump =
      "# callgrind format\nversion: 1\npart: 3\n\ndesc: I1 cache: \n"
      "desc: Trigger: Client Request: " +
      DumpName("take_candidates", "row and query", 262144) +
      "\n\nevents: Ir\nsummary: 229536\n\nfn=(1) Main\n16 229536\n\ntotals: 229536\n";
  const auto count = ParseDump(dump);
  ASSERT_TRUE(count.ok()) << count.status();
  EXPECT_EQ(count->name, "take_candidates");
  EXPECT_EQ(count->unit, "row and query");
  EXPECT_EQ(count->units, 262144);
  EXPECT_EQ(count->instructions, 229536);
  EXPECT_DOUBLE_EQ(count->per_unit(), 229536.0 / 262144);
}

TEST(CountsTest, RefusesOtherDumps) {
  for (const char* dump : {
           "",
           "desc: Trigger: Program termination\ntotals: 5\n",
           "desc: Trigger: Client Request: scan/row/10\n",
           "desc: Trigger: Client Request: scan/row/10\ntotals: 0\n",
           "desc: Trigger: Client Request: scan/row/0\ntotals: 5\n",
           "desc: Trigger: Client Request: scan/row/many\ntotals: 5\n",
           "desc: Trigger: Client Request: scan\ntotals: 5\n",
       }) {
    EXPECT_FALSE(ParseDump(dump).ok()) << dump;
  }
}

TEST(CountsTest, JsonReadsBack) {
  const auto counts = FromJson(ToJson(Baseline()));
  ASSERT_TRUE(counts.ok()) << counts.status();
  EXPECT_EQ(ToJson(*counts), ToJson(Baseline()));
  ASSERT_EQ(counts->kernels.size(), 2u);
  EXPECT_EQ(counts->kernels[0].name, "scan");  // the order is kept
  EXPECT_EQ(counts->kernels[1].instructions, 5000);
}

TEST(CountsTest, RefusesOtherJson) {
  for (const char* json : {
           "",
           "[]",
           "{}",
           R"({"simd": "AVX2", "kernels": {}})",
           R"({"simd": "AVX2", "compiler": "gcc"})",
           R"({"simd": "AVX2", "compiler": "gcc", "kernels": []})",
           R"({"simd": "AVX2", "compiler": "gcc", "kernels": {"scan": 4}})",
           R"({"simd": "AVX2", "compiler": "gcc", "kernels": {"scan": {"unit": "row"}}})",
           R"({"simd": "AVX2", "compiler": "gcc",
               "kernels": {"scan": {"unit": "row", "units": 0, "instructions": 7}}})",
       }) {
    EXPECT_FALSE(FromJson(json).ok()) << json;
  }
}

TEST(CountsTest, WhatIsNotMuchWorsePasses) {
  EXPECT_THAT(FailuresAt(20000), IsEmpty());
  EXPECT_THAT(FailuresAt(20599), IsEmpty());  // + 2.995 %
  EXPECT_THAT(FailuresAt(1000), IsEmpty());   // better
}

TEST(CountsTest, WhatIsWorseFailsAndIsNamed) {
  EXPECT_THAT(FailuresAt(20601), ElementsAre(HasSubstr("scan takes 20.60 instructions per row")));
  EXPECT_THAT(FailuresAt(40000), ElementsAre(HasSubstr("+100.00 %")));
}

TEST(CountsTest, ComparesPerUnit) {
  Counts counts = Baseline();
  counts.kernels[0] = {"scan", "row", 2000, 40000};
  EXPECT_THAT(Compare(counts, Baseline(), true).failures, IsEmpty());
  counts.kernels[0] = {"scan", "row", 500, 20000};
  EXPECT_THAT(Compare(counts, Baseline(), true).failures, ElementsAre(HasSubstr("scan")));
}

TEST(CountsTest, KernelsThatOnlyOneSideKnowsFail) {
  Counts less = Baseline();
  less.kernels.pop_back();
  EXPECT_THAT(Compare(less, Baseline(), true).failures,
              ElementsAre("plan is in the baseline but was not counted"));
  EXPECT_THAT(Compare(less, Baseline(), false).failures, IsEmpty());
  EXPECT_THAT(Compare(Baseline(), less, false).failures,
              ElementsAre("plan is not in the baseline"));
}

TEST(CountsTest, AnotherLevelFailsAndAnotherCompilerIsNoted) {
  Counts other = Baseline();
  other.simd = "SSE4";
  EXPECT_THAT(Compare(other, Baseline(), true).failures, ElementsAre(HasSubstr("SSE4")));
  other = Baseline();
  other.compiler = "gcc 13";
  const Comparison comparison = Compare(other, Baseline(), true);
  EXPECT_THAT(comparison.failures, IsEmpty());
  EXPECT_THAT(comparison.table, HasSubstr("compiled by gcc 13, the baseline by gcc 12"));
}

// The committed baseline passes against itself; with one of its counts lowered it does not.
TEST(CountsTest, TheBaselineCanFail) {
  std::ifstream file("bench/instructions/baseline.json");
  std::ostringstream text;
  text << file.rdbuf();
  const auto counted = FromJson(text.str());
  ASSERT_TRUE(counted.ok()) << counted.status();
  ASSERT_FALSE(counted->kernels.empty());
  EXPECT_THAT(Compare(*counted, *counted, true).failures, IsEmpty());
  for (size_t i = 0; i < counted->kernels.size(); ++i) {
    Counts doctored = *counted;
    Count& count = doctored.kernels[i];
    count.instructions = count.instructions * 24 / 25;
    EXPECT_THAT(Compare(*counted, doctored, true).failures,
                ElementsAre(HasSubstr(count.name + " takes ")));
  }
}

}  // namespace
}  // namespace sounder::instructions
