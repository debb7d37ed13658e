#include "gpu_worker/model/weight_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/absl_text.h"
#include "tests/gpu_worker/model/model_folder.h"

namespace sounder::gpu_worker {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr char kIndex[] = "model.safetensors.index.json";

std::string OpenMessage(const std::string& directory) {
  const auto files = WeightFiles::Open(directory);
  return files.ok() ? "ok" : base::MessageOf(files.status());
}

TEST(WeightFilesTest, FindsTensorsInTheirShards) {
  const auto files = WeightFiles::Open("tests/golden/llama/two_shards");
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_TRUE((*files)->Find("model.embed_tokens.weight", {101, 48}).ok());
  EXPECT_TRUE((*files)->Find("model.norm.weight", {48}).ok());
}

TEST(WeightFilesTest, MissingAndWrongTensorsAreNamed) {
  const auto files = WeightFiles::Open("tests/golden/llama/two_shards");
  ASSERT_TRUE(files.ok()) << files.status();
  const absl::Status missing = (*files)->Find("model.layers.7.x", {2, 3}).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(base::MessageOf(missing),
              HasSubstr("index.json: there is no tensor "
                        "'model.layers.7.x', expected one of shape [2, 3]"));
  const absl::Status wrong = (*files)->Find("model.norm.weight", {47}).status();
  EXPECT_THAT(base::MessageOf(wrong),
              HasSubstr("model-00002-of-00002.safetensors: tensor "
                        "'model.norm.weight' has shape [48], expected [47]"));
}

TEST(WeightFilesTest, NoWeights) {
  EXPECT_THAT(OpenMessage("/nowhere"), HasSubstr("/nowhere: has no model.safetensors"));
}

TEST(WeightFilesTest, ShardMissingOrTruncated) {
  ModelFolder folder("two_shards");
  folder.Truncate("model-00002-of-00002.safetensors", 5000);
  EXPECT_THAT(OpenMessage(folder.path()), HasSubstr("model-00002-of-00002.safetensors: "));
  folder.Remove("model-00002-of-00002.safetensors");
  EXPECT_THAT(OpenMessage(folder.path()),
              HasSubstr("model-00002-of-00002.safetensors: cannot open"));
}

TEST(WeightFilesTest, IndexNamesATensorTheShardLacks) {
  ModelFolder folder("two_shards");
  folder.Edit(kIndex, [](json& index) {
    index["weight_map"]["model.norm.weight"] = "model-00001-of-00002.safetensors";
  });
  const auto files = WeightFiles::Open(folder.path());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT(base::MessageOf((*files)->Find("model.norm.weight", {48}).status()),
              HasSubstr("model-00001-of-00002.safetensors: there is no tensor"));
}

TEST(WeightFilesTest, ShardNamesCannotLeaveTheDirectory) {
  for (const char* name :
       {"../secret", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "x..y/", "..x"}) {
    const json index = {{"weight_map", {{"a", name}}}};
    const absl::Status status = ParseWeightIndex(index.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(base::MessageOf(status), HasSubstr("expected a plain file name"));
  }
  const json with_nul = {{"weight_map", {{"a", std::string("x\0y", 3)}}}};
  EXPECT_FALSE(ParseWeightIndex(with_nul.dump()).ok());
  const json long_name = {{"weight_map", {{"a", std::string(300, 'x')}}}};
  EXPECT_FALSE(ParseWeightIndex(long_name.dump()).ok());
  const json good = {{"weight_map", {{"a", "m-1.safetensors"}}}};
  EXPECT_TRUE(ParseWeightIndex(good.dump()).ok());
}

TEST(WeightFilesTest, MalformedIndex) {
  for (const char* text : {"", "[]", "{}", R"({"weight_map":7})", R"({"weight_map":{"a":7}})",
                           R"({"weight_map":{"a":{}}})"}) {
    EXPECT_FALSE(ParseWeightIndex(text).ok()) << text;
  }
  json many;
  for (int i = 0; i < 5000; ++i) many["weight_map"][std::to_string(i)] = std::to_string(i);
  EXPECT_THAT(base::MessageOf(ParseWeightIndex(many.dump()).status()), HasSubstr("5000 shards"));
}

}  // namespace
}  // namespace sounder::gpu_worker
