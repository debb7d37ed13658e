// Every file that `eval` cannot use is refused with a message that says what is wrong.
#include "cli/eval_input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>

#include "common/base/absl_text.h"
#include "tests/cli/qkv_file.h"

namespace sounder::cli {
namespace {

using testing::HasSubstr;

struct Tensors {
  std::vector<int64_t> q = {2, 4, 16};
  std::vector<int64_t> k = {5, 2, 16};
  std::vector<int64_t> v = {5, 2, 16};
  base::DType k_dtype = base::DType::kBF16;
  base::DType v_dtype = base::DType::kBF16;
};

int64_t Count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

absl::Status Load(const Tensors& tensors, const std::string& without = "",
                  const std::string& nan_in = "") {
  std::vector<std::vector<std::byte>> bytes;
  std::vector<tensor_file::NamedTensor> named;
  const auto add = [&](const std::string& name, base::DType dtype,
                       const std::vector<int64_t>& shape) {
    if (name == without) return;
    std::vector<float> values(Count(shape), 0.5f);
    if (name == nan_in) values.at(values.size() - 2) = NAN;
    bytes.push_back(tensor_file::EncodeAs(dtype, values));
    named.push_back({name, dtype, shape, bytes.back()});
  };
  bytes.reserve(3);
  add("q", base::DType::kF32, tensors.q);
  add("k", tensors.k_dtype, tensors.k);
  add("v", tensors.v_dtype, tensors.v);
  const std::string path = TempPath("input.safetensors");
  const absl::Status written = tensor_file::WriteTensorFile(path, named);
  EXPECT_TRUE(written.ok()) << written;
  const auto input = LoadEvalInput(path);
  std::remove(path.c_str());
  return input.status();
}

std::string MessageOf(const absl::Status& status) {
  EXPECT_FALSE(status.ok());
  return base::MessageOf(status);
}

TEST(EvalInputTest, ReadsWhatFits) {
  EXPECT_TRUE(Load({}).ok()) << Load({});
  EXPECT_TRUE(Load({.q = {1, 2, 8}, .k = {0, 1, 8}, .v = {0, 1, 8}}).ok());
}

TEST(EvalInputTest, RefusesShapesThatDoNotFit) {
  EXPECT_THAT(MessageOf(Load({.q = {2, 4, 24}})), HasSubstr("q has dim 24 and k dim 16"));
  EXPECT_THAT(MessageOf(Load({.q = {2, 3, 16}})), HasSubstr("3 query heads over 2 kv heads"));
  EXPECT_THAT(MessageOf(Load({.q = {2, 0, 16}})), HasSubstr("0 query heads"));
  EXPECT_THAT(MessageOf(Load({.q = {0, 4, 16}})), HasSubstr("no queries"));
  EXPECT_THAT(MessageOf(Load({.k = {5, 0, 16}, .v = {5, 0, 16}})), HasSubstr("0 kv heads"));
  EXPECT_THAT(MessageOf(Load({.v = {6, 2, 16}})), HasSubstr("[5, 2, 16] and v [6, 2, 16]"));
  EXPECT_THAT(MessageOf(Load({.q = {2, 4, 12}, .k = {5, 2, 12}, .v = {5, 2, 12}})),
              HasSubstr("dim is 12, expected a multiple of 8"));
  EXPECT_THAT(MessageOf(Load({.q = {1, 1, 520}, .k = {1, 1, 520}, .v = {1, 1, 520}})),
              HasSubstr("dim is 520, expected a multiple of 8 in [8, 512]"));
  EXPECT_THAT(MessageOf(Load({.q = {2, 64}})), HasSubstr("tensor q has shape [2, 64]"));
  EXPECT_THAT(MessageOf(Load({.k_dtype = base::DType::kF16})), HasSubstr("k is f16 and v bf16"));
}

TEST(EvalInputTest, RefusesMissingTensorsAndBadNumbers) {
  for (const char* name : {"q", "k", "v"}) {
    EXPECT_THAT(MessageOf(Load({}, name)), HasSubstr(name));
    EXPECT_THAT(MessageOf(Load({}, "", name)), HasSubstr("is not a finite number"));
  }
  EXPECT_THAT(MessageOf(Load({}, "", "v")), HasSubstr("v[4, 1, 14]"));
}

TEST(EvalInputTest, RefusesFilesThatAreNone) {
  EXPECT_THAT(MessageOf(LoadEvalInput("/no/such/file").status()), HasSubstr("/no/such/file"));
  const std::string path = TempPath("garbage");
  for (const std::string& text : {std::string(), std::string("hello"), std::string(100, '\xff')}) {
    std::ofstream(path, std::ios::binary) << text;
    EXPECT_THAT(MessageOf(LoadEvalInput(path).status()), HasSubstr(path));
  }
  std::remove(path.c_str());
}

TEST(EvalInputTest, ViewsFindTheRowsOfEachHead) {
  Qkv data{
      .steps = 2, .n = 7, .query_heads = 6, .kv_heads = 3, .dim = 8, .dtype = base::DType::kF16};
  data.Fill(5);
  const std::string path = TempPath("views.safetensors");
  data.Write(path);
  const auto input = LoadEvalInput(path);
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_EQ(input->group(), 2);
  for (int head = 0; head < 3; ++head) {
    for (int64_t row = 0; row < 7; ++row) {
      for (int j = 0; j < 8; ++j) {
        EXPECT_EQ(input->Keys(head).At(row, j), data.k[(row * 3 + head) * 8 + j]);
        EXPECT_EQ(input->Values(head).At(row, j), data.v[(row * 3 + head) * 8 + j]);
      }
    }
  }
  EXPECT_EQ(input->Query(1, 4)[3], data.q[(1 * 6 + 4) * 8 + 3]);
  std::remove(path.c_str());
}

}  // namespace
}  // namespace sounder::cli
