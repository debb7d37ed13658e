// What the options of a worker come to for a model.
#include "gpu_worker/worker_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/gpu_worker/engine/golden_run.h"

namespace sounder::gpu_worker {
namespace {

using ::testing::HasSubstr;

class WorkerOptionsTest : public testing::Test {
 protected:
  absl::StatusOr<GeneratorOptions> Make(const std::vector<std::string>& flags) {
    std::vector<const char*> arguments = {"generate", "--model", "m", "--prompts", "p"};
    for (const std::string& flag : flags) arguments.push_back(flag.c_str());
    GenerateOptions options;
    config::OptionSet set("sounder_worker generate", "");
    Declare(set, &options);
    const auto parsed = set.Parse(static_cast<int>(arguments.size()), arguments.data(), {});
    if (!parsed.ok()) return parsed.status();
    return MakeGeneratorOptions(options, *golden_.model);
  }
  std::string Refusal(const std::vector<std::string>& flags) {
    const absl::Status status = Make(flags).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return status.ToString();
  }

  GoldenModel golden_{"gqa_untied"};  // 2 kv heads
};

TEST_F(WorkerOptionsTest, TimesToLiveAreRoundedUp) {
  const auto ttl = [&](const std::string& text) {
    const auto options = Make({"--ttl", text});
    EXPECT_TRUE(options.ok()) << options.status();
    return options->session.ttl_seconds;
  };
  EXPECT_EQ(ttl("0"), 0u);
  EXPECT_EQ(ttl("1ns"), 1u);
  EXPECT_EQ(ttl("999ms"), 1u);
  EXPECT_EQ(ttl("1s"), 1u);
  EXPECT_EQ(ttl("1001ms"), 2u);
  EXPECT_EQ(ttl("10min"), 600u);
  EXPECT_EQ(ttl("2000000h"), UINT32_MAX);
}

TEST_F(WorkerOptionsTest, WhatDoesNotFitIsRefused) {
  EXPECT_THAT(Refusal({"--deadline", "0"}), HasSubstr("--deadline"));
  EXPECT_THAT(Refusal({"--nodes", "a:1,b:1,a:1"}), HasSubstr("a:1 is named more than once"));
  EXPECT_THAT(Refusal({"--tables", "2", "--min-collisions", "3"}), HasSubstr("--tables 2"));
  EXPECT_THAT(Refusal({"--head-shards", "3"}), HasSubstr("head shards 3"));
  EXPECT_THAT(Refusal({"--shard-rows", "100"}), HasSubstr("4096"));
  EXPECT_THAT(Refusal({"--attention", "exact,lsh,lsh"}), HasSubstr("names 3 layers"));
}

TEST_F(WorkerOptionsTest, SketchesAndWhatIsReadOfThem) {
  auto options = Make({"--attention", "exact,sketch", "--sketch-bits", "256", "--sketch-seed", "3",
                       "--rows", "0.05", "--row-format", "int8"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->attention.layers, (std::vector{LayerMode::kExact, LayerMode::kSketch}));
  EXPECT_EQ(options->session.sketch, (wire::SketchOptions{256, 3}));
  EXPECT_EQ(options->session.lsh.num_tables, 0u);
  EXPECT_EQ(options->session.row_format, wire::RowFormat::kInt8);
  EXPECT_EQ(options->session.indexed_layers, std::vector<uint32_t>{1});
  EXPECT_EQ(options->attention.sketch.rows, .05);
  EXPECT_EQ(options->attention.sketch.uniform_above, .15);
  EXPECT_EQ(options->attention.sketch.uniform_rows, .1) << "twice --rows";
  options = Make({"--attention", "sketch", "--rows", "0.8", "--uniform-above", "0"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->session.sketch.bits, 128u);
  EXPECT_EQ(options->session.row_format, wire::RowFormat::kAsAppended);
  EXPECT_EQ(options->attention.sketch.uniform_above, 0);
  EXPECT_EQ(options->attention.sketch.uniform_rows, 1);
  options = Make({"--attention", "lsh"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->session.sketch.bits, 0u);
  EXPECT_THAT(Refusal({"--attention", "sketch", "--sketch-bits", "100"}), HasSubstr("64, 128"));
  EXPECT_THAT(Refusal({"--attention", "lsh,sketch"}), HasSubstr("one kind of index"));
  EXPECT_THAT(Refusal({"--attention", "lsh", "--row-format", "int8"}), HasSubstr("--row-format"));
  EXPECT_THAT(Refusal({"--attention", "exact", "--row-format", "int8"}), HasSubstr("sketch"));
  EXPECT_THAT(Refusal({"--rows", "0"}), HasSubstr("--rows"));
  EXPECT_THAT(Refusal({"--rows", "1.5"}), HasSubstr("--rows"));
}

TEST_F(WorkerOptionsTest, Prefill) {
  auto options = Make({});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->prefill_local_rows, 0);
  options = Make({"--prefill-tokens", "64", "--prefill-local-rows", "1000"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->prefill_tokens, 64);
  EXPECT_EQ(options->prefill_local_rows, 1000);
  EXPECT_THAT(Refusal({"--prefill-local-rows", "-1"}), HasSubstr("--prefill-local-rows"));
  // A node gives up after a minute, whatever it is asked.
  EXPECT_THAT(Refusal({"--prefill-deadline", "61s"}), HasSubstr("--prefill-deadline"));
}

TEST_F(WorkerOptionsTest, Chat) {
  const char* const arguments[] = {"chat", "--model", "m", "--begin", "<s>", "--turn-suffix", " ?"};
  ChatOptions options;
  config::OptionSet set("sounder_worker chat", "");
  Declare(set, &options);
  ASSERT_TRUE(set.Parse(7, arguments, {}).ok());
  EXPECT_EQ(options.begin, "<s>");
  EXPECT_EQ(options.turn_suffix, " ?");
  EXPECT_TRUE(MakeGeneratorOptions(options, *golden_.model).ok());
}

TEST_F(WorkerOptionsTest, SeedsAreOfTheirOwn) {
  const auto options = Make({"--seed", "7", "--lsh-seed", "9"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->seed, 7u);
  EXPECT_EQ(options->session.lsh.seed, 9u);
}

}  // namespace
}  // namespace sounder::gpu_worker
