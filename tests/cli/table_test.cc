#include "cli/table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace sounder::cli {
namespace {

TEST(RecordTest, JsonKeepsOrderTypesAndDigits) {
  Record record;
  record.Add("z", int64_t{-7});
  record.Add("a", 0.1);
  record.Add("text", std::string("a \"b\"\n"));
  record.Add("flag", true);
  EXPECT_EQ(record.ToJson(), R"({"z":-7,"a":0.1,"text":"a \"b\"\n","flag":true})");
  Record precise;
  precise.Add("x", 1.0 / 3);
  EXPECT_EQ(nlohmann::json::parse(precise.ToJson())["x"].get<double>(), 1.0 / 3);
}

TEST(RecordTest, WhatJsonCannotSayBecomesNull) {
  Record record;
  record.Add("nan", std::nan(""));
  record.Add("inf", HUGE_VAL);
  record.Add("bytes", std::string("\xff"));
  const auto json = nlohmann::json::parse(record.ToJson());
  EXPECT_TRUE(json["nan"].is_null());
  EXPECT_TRUE(json["inf"].is_null());
  EXPECT_TRUE(json["bytes"].is_string());
}

TEST(RecordTest, TextIsAligned) {
  Record record;
  record.Add("rows", int64_t{12});
  record.Add("longest_name", 0.25);
  EXPECT_EQ(record.ToText(),
            "rows          12\n"
            "longest_name  0.25\n");
}

TEST(RecordTest, EmptyRecord) {
  EXPECT_EQ(Record().ToJson(), "{}");
  EXPECT_EQ(Record().ToText(), "");
}

TEST(RecordDeathTest, NamesAreUnique) {
  Record record;
  record.Add("a", true);
  EXPECT_DEATH(record.Add("a", false), "given twice");
}

TEST(TableTest, ColumnsAreAsWideAsTheyNeed) {
  Table table({"node", "rows", "error"});
  table.AddRow({std::string("a:7400"), int64_t{5}, 0.125});
  table.AddRow({std::string("b"), int64_t{12345}, 1.0});
  EXPECT_EQ(table.ToText(),
            "node     rows  error\n"
            "------  -----  -----\n"
            "a:7400      5  0.125\n"
            "b       12345      1\n");
}

TEST(TableTest, WithoutRowsOnlyTheHeader) {
  EXPECT_EQ(Table({"a", "bc"}).ToText(), "a  bc\n-  --\n");
}

TEST(TableDeathTest, RowsFit) {
  Table table({"a", "b"});
  EXPECT_DEATH(table.AddRow({true}), "1 values for 2");
}

TEST(FormatValueTest, Formats) {
  EXPECT_EQ(FormatValue(true), "true");
  EXPECT_EQ(FormatValue(int64_t{-3}), "-3");
  EXPECT_EQ(FormatValue(2.0 / 3), "0.666667");
  EXPECT_EQ(FormatValue(2.0 / 3, 2), "0.67");
  EXPECT_EQ(FormatValue(std::string("x y")), "x y");
}

}  // namespace
}  // namespace sounder::cli
