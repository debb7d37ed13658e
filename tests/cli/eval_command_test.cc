// `sounderctl eval` as a user runs it: exit statuses, messages, JSON, the output file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "cli/baselines/registry.h"
#include "cli/eval_figures.h"
#include "common/tensor_file/tensor_file.h"
#include "tests/cli/qkv_file.h"
#include "tests/cli/run_ctl.h"

namespace sounder::cli {
namespace {

using testing::HasSubstr;

class EvalCommandTest : public testing::Test {
 protected:
  void SetUp() override {
    data_.Fill(1);
    data_.Write(path_);
  }
  void TearDown() override { std::remove(path_.c_str()); }

  Qkv data_{.steps = 3,
            .n = 1500,
            .query_heads = 4,
            .kv_heads = 2,
            .dim = 24,
            .dtype = base::DType::kBF16};
  const std::string path_ = TempPath("command.safetensors");
};

TEST_F(EvalCommandTest, JsonSaysWhatTheLibrarySays) {
  const Outcome run = RunCtl("eval --qkv " + path_ +
                             " --sampler lsh --bits 7 --tables 40 --min-collisions 3 --sink 5 "
                             "--window 33 --seeds 3 --projection gaussian --json");
  ASSERT_EQ(run.status, 0) << run.err;
  const auto json = nlohmann::json::parse(run.out);
  EvalSpec spec;
  spec.name = "lsh";
  spec.sampler.lsh.bits_per_table = 7;
  spec.sampler.lsh.num_tables = 40;
  spec.sampler.lsh.min_collisions = 3;
  spec.sampler.lsh.projection = lsh::ProjectionKind::kGaussian;
  spec.sinks = 5;
  spec.window = 33;
  spec.sampler.min_indexed_rows = 1;
  spec.seeds = 3;
  const auto figures = Evaluate(*LoadEvalInput(path_), spec);
  ASSERT_TRUE(figures.ok()) << figures.status();
  EXPECT_EQ(json["mean_relative_error"], figures->mean_relative_error);
  EXPECT_EQ(json["p95_relative_error"], figures->p95_relative_error);
  EXPECT_EQ(json["rows_read_fraction"], figures->rows_read_fraction);
  EXPECT_EQ(json["rows_loaded_fraction"], figures->rows_loaded_fraction);
  EXPECT_EQ(json["rows_exact_fraction"], 0);
  EXPECT_EQ(json["z_ratio"], figures->z_ratio);
  EXPECT_EQ(json["index_bytes_per_token"], figures->index_bytes_per_token);
  EXPECT_EQ(json["row_bytes_per_token"], figures->row_bytes_per_token);
  EXPECT_GT(json["us_per_step"], 0);
  EXPECT_EQ(json["n"], 1500);
  EXPECT_EQ(json["d"], 24);
  EXPECT_EQ(json["query_heads"], 4);
  EXPECT_EQ(json["kv_heads"], 2);
  EXPECT_EQ(json["seeds"], 3);
  EXPECT_EQ(json["sampler"], "lsh");
  EXPECT_EQ(json["bits"], 7);
  EXPECT_LT(json["rows_read_fraction"], 0.9);
}

// Every sampler there is, told apart by what it answers.
TEST_F(EvalCommandTest, TakesEverySampler) {
  std::set<double> errors;
  for (const auto& sampler : AllSamplers()) {
    const Outcome run = RunCtl("eval --qkv " + path_ + " --rows .1 --tables 40 --bits " +
                               (sampler.name == "sketch" ? "128" : "7") + " --seeds 1 --json" +
                               " --sampler " + std::string(sampler.name));
    ASSERT_EQ(run.status, 0) << sampler.name << ": " << run.err;
    const auto json = nlohmann::json::parse(run.out);
    EXPECT_EQ(json["sampler"], sampler.name);
    EXPECT_TRUE(errors.insert(json["mean_relative_error"].get<double>()).second) << sampler.name;
    if (sampler.name == "exact" || sampler.name.starts_with("lsh")) continue;
    EXPECT_NEAR(json["rows_loaded_fraction"].get<double>(), .1, .01) << sampler.name;
  }
  const Outcome run = RunCtl("eval --qkv " + path_ + " --sampler lsh_split --tables 150 --json");
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(nlohmann::json::parse(run.out)["projection"], "gaussian");
}

// A file of a few rows is sampled like any other, unless asked otherwise; the figures say so.
TEST_F(EvalCommandTest, ShortSegmentsAreSampledUnlessAskedOtherwise) {
  data_.n = 500;
  data_.Fill(1);
  data_.Write(path_);
  const auto figures = [&](const std::string& more) {
    const Outcome run = RunCtl("eval --qkv " + path_ +
                               " --sampler lsh --bits 7 --tables 40 --seeds 1 --json" + more);
    EXPECT_EQ(run.status, 0) << run.err;
    return nlohmann::json::parse(run.out);
  };
  const auto sampled = figures("");
  EXPECT_LT(sampled["rows_read_fraction"], 0.9);
  EXPECT_EQ(sampled["rows_exact_fraction"], 0);
  const auto exact = figures(" --min-indexed-rows 1024");
  EXPECT_EQ(exact["rows_read_fraction"], 1);
  EXPECT_EQ(exact["rows_exact_fraction"], 1);
}

TEST_F(EvalCommandTest, ExactAndTheTableForPeople) {
  const Outcome run = RunCtl("eval --qkv " + path_ + " --sampler exact --seeds 1");
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("rows_read_fraction     1\n"));
  EXPECT_THAT(run.out, HasSubstr("mean_relative_error"));
}

TEST_F(EvalCommandTest, WritesTheOutputsOfTheFirstSeed) {
  const std::string output = TempPath("o.safetensors");
  const Outcome run =
      RunCtl("eval --qkv " + path_ + " --sampler exact --seeds 1 --output " + output);
  ASSERT_EQ(run.status, 0) << run.err;
  const auto file = tensor_file::TensorFile::Open(output);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto o = (*file)->Find("o", {3, 4, 24});
  ASSERT_TRUE(o.ok()) << o.status();
  EXPECT_EQ(o->dtype, base::DType::kF32);
  std::vector<float> values(o->elements());
  tensor_file::CopyToF32(*o, values);
  EvalSpec spec;
  spec.seeds = 1;
  const auto figures = Evaluate(*LoadEvalInput(path_), spec);
  EXPECT_EQ(values, figures->outputs);
  std::remove(output.c_str());
}

// A sweep gives what its settings give alone, one object a line, and a plot of all.
TEST_F(EvalCommandTest, SweepsGiveALinePerSettingAndAPlot) {
  const std::string plot = TempPath("plot.svg");
  const std::string common = "eval --qkv " + path_ + " --seeds 2 --json --bits 64,7 ";
  const Outcome run =
      RunCtl(common + "--sampler sketch,lsh --rows .02,.1 --tables 40,60 --plot " + plot);
  ASSERT_EQ(run.status, 0) << run.err;
  std::vector<nlohmann::json> lines;
  std::istringstream text(run.out);
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["rows"], .02);
  EXPECT_EQ(lines[1]["rows"], .1);
  EXPECT_EQ(lines[2]["tables"], 40);
  const std::string alone[] = {"--sampler sketch --rows .02", "--sampler sketch --rows .1",
                               "--sampler lsh --tables 40", "--sampler lsh --tables 60"};
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string bits = i < 2 ? " --bits 64" : " --bits 7";
    const Outcome one = RunCtl("eval --qkv " + path_ + " --seeds 2 --json " + alone[i] + bits);
    auto json = nlohmann::json::parse(one.out);
    json["us_per_step"] = lines[i]["us_per_step"];
    EXPECT_EQ(json, lines[i]);
  }
  std::ifstream file(plot);
  const std::string svg(std::istreambuf_iterator<char>(file), {});
  EXPECT_THAT(svg, HasSubstr(">sketch 64</text>"));
  EXPECT_THAT(svg, HasSubstr(">lsh 7</text>"));
  std::remove(plot.c_str());
}

TEST_F(EvalCommandTest, SweepsForPeopleAreOneTable) {
  const Outcome run = RunCtl("eval --qkv " + path_ + " --sampler uniform,exact --seeds 1");
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(std::count(run.out.begin(), run.out.end(), '\n'), 2 + 2);
  EXPECT_THAT(run.out, HasSubstr("\nuniform "));
  EXPECT_THAT(run.out, HasSubstr("\nexact "));
}

// bf16: the file's rows are rounded before anything else, so figures are those of a bf16 file.
TEST_F(EvalCommandTest, RowFormats) {
  data_.dtype = base::DType::kF32;
  data_.Fill(1);
  data_.Write(path_);
  const auto figures = [&](const std::string& more) {
    const Outcome run = RunCtl("eval --qkv " + path_ + " --seeds 1 --json --sampler " + more);
    EXPECT_EQ(run.status, 0) << run.err;
    auto json = nlohmann::json::parse(run.out);
    json.erase("us_per_step");
    json.erase("row_format");
    return json;
  };
  const auto appended = figures("sketch");
  const auto bf16 = figures("sketch --row-format bf16");
  const auto int8 = figures("sketch --row-format int8");
  EXPECT_EQ(appended["dtype"], "f32");
  EXPECT_EQ(bf16["dtype"], "bf16");
  EXPECT_EQ(int8["dtype"], "f32");
  const double rows = appended["rows_loaded_fraction"], index = appended["index_bytes_per_token"];
  const auto near = [](const nlohmann::json& json, double expected) {
    EXPECT_NEAR(json["bytes_read_per_token"].get<double>(), expected, 1e-9);
  };
  near(appended, rows * 2 * 24 * 4 + index);
  near(int8, rows * (2 * 24 + 8) + index);
  near(bf16, bf16["rows_loaded_fraction"].get<double>() * 2 * 24 * 2 + index);
  near(figures("exact"), 2 * 24 * 4);
  near(figures("exact --row-format bf16"), 2 * 24 * 2);

  data_.dtype = base::DType::kBF16;
  data_.Fill(1);
  data_.Write(path_);
  EXPECT_EQ(figures("sketch"), bf16);
}

TEST_F(EvalCommandTest, WrongOptionsAreUsageErrors) {
  for (const std::string& arguments :
       {std::string(""), std::string("nonsense"), std::string("eval"),
        "eval --qkv " + path_ + " --sampler best",
        "eval --qkv " + path_ + " --sampler lsh_split --projection hadamard",
        "eval --qkv " + path_ + " --sampler lsh_split --value-roulette",
        "eval --qkv " + path_ + " --bits 17", "eval --qkv " + path_ + " --sampler sketch --bits 96",
        "eval --qkv " + path_ + " --sampler lsh --tables 0", "eval --qkv " + path_ + " --seeds 0",
        "eval --qkv " + path_ + " --window -1", "eval --qkv " + path_ + " --projection random",
        "eval --qkv " + path_ + " --sampler lsh --min-collisions 9 --tables 8",
        "eval --qkv " + path_ + " --sampler lsh,best", "eval --qkv " + path_ + " --rows .1,2",
        "eval --qkv " + path_ + " --row-format int4",
        "eval --qkv " + path_ + " --sampler lsh,exact --output /dev/null",
        "eval --qkv " + path_ + " --simd EMU1", "eval --qkv " + path_ + " --nonsense"}) {
    const Outcome run = RunCtl(arguments);
    EXPECT_EQ(run.status, 2) << arguments;
    EXPECT_EQ(run.out, "") << arguments;
    EXPECT_NE(run.err, "") << arguments;
  }
}

TEST_F(EvalCommandTest, BadInputIsRefused) {
  Outcome run = RunCtl("eval --qkv /no/such/file --json");
  EXPECT_EQ(run.status, 3);
  EXPECT_THAT(run.err, HasSubstr("/no/such/file"));
  EXPECT_EQ(run.out, "");
  const std::string truncated = TempPath("truncated.safetensors");
  std::ifstream in(path_, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(in), {});
  std::ofstream(truncated, std::ios::binary) << bytes.substr(0, bytes.size() - 5);
  run = RunCtl("eval --qkv " + truncated);
  EXPECT_EQ(run.status, 3);
  EXPECT_THAT(run.err, HasSubstr(truncated));
  std::remove(truncated.c_str());
  run = RunCtl("eval --qkv " + path_ + " --output /no/such/folder/o");
  EXPECT_EQ(run.status, 3);
  EXPECT_THAT(run.err, HasSubstr("/no/such/folder"));
  run = RunCtl("eval --qkv " + path_ + " --seeds 1 --plot /no/such/folder/p.svg");
  EXPECT_EQ(run.status, 3);
  EXPECT_THAT(run.err, HasSubstr("/no/such/folder"));
}

}  // namespace
}  // namespace sounder::cli
