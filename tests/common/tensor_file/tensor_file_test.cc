#include "common/tensor_file/tensor_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>

#include "common/base/absl_text.h"
#include "common/tensor_file/tensor_writer.h"

namespace sounder::tensor_file {
namespace {

using base::DType;
using testing::ElementsAre;
using testing::HasSubstr;

std::string TempPath(const std::string& name) { return testing::TempDir() + "/" + name; }

std::vector<float> Values(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.elements()));
  CopyToF32(view, values);
  return values;
}

std::string FileText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(TensorFileTest, RoundTripOfEveryTypeAndShape) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> values = {0, -0.0f, 1, -2.5f, 65504, 1e-7f, 3.14159274f, infinity};
  std::vector<std::vector<std::byte>> data;
  std::vector<NamedTensor> tensors;
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    data.push_back(EncodeAs(dtype, values));
    tensors.push_back({std::string(base::NameOf(dtype)), dtype, {2, 4}, data.back()});
  }
  const std::vector<std::byte> scalar = EncodeAs(DType::kF32, std::vector<float>{7});
  tensors.push_back({"scalar", DType::kF32, {}, scalar});
  tensors.push_back({"empty", DType::kF16, {3, 0, 5}, {}});
  const std::string path = TempPath("round_trip.safetensors");
  ASSERT_TRUE(WriteTensorFile(path, tensors, {{"format", "pt"}, {"note", "äöü"}}).ok());

  const auto file = TensorFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT((*file)->names(), ElementsAre("bf16", "empty", "f16", "f32", "scalar"));
  EXPECT_EQ((*file)->metadata().at("note"), "äöü");
  EXPECT_EQ((*file)->path(), path);
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const auto view = (*file)->Find(base::NameOf(dtype));
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_EQ(view->dtype, dtype);
    EXPECT_THAT(view->shape, ElementsAre(2, 4));
    // Aligned, because the writer puts wide types first.
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view->data.data()) % base::SizeOf(dtype), 0u);
    const std::vector<float> read = Values(*view);
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(std::bit_cast<uint32_t>(read[i]),
                std::bit_cast<uint32_t>(base::RoundTo(dtype, values[i])));
    }
  }
  EXPECT_THAT(Values(*(*file)->Find("scalar")), ElementsAre(7));
  EXPECT_THAT(Values(*(*file)->Find("empty")), ElementsAre());
  std::remove(path.c_str());
}

TEST(TensorFileTest, SameInputGivesTheSameBytes) {
  const auto data = EncodeAs(DType::kF32, std::vector<float>{1, 2, 3});
  const std::vector<NamedTensor> tensors = {{"b", DType::kF32, {3}, data},
                                            {"a", DType::kF32, {1, 3}, data}};
  ASSERT_TRUE(WriteTensorFile(TempPath("one.safetensors"), tensors).ok());
  ASSERT_TRUE(WriteTensorFile(TempPath("two.safetensors"), tensors).ok());
  EXPECT_EQ(FileText(TempPath("one.safetensors")), FileText(TempPath("two.safetensors")));
  EXPECT_FALSE(FileText(TempPath("one.safetensors")).empty());
}

TEST(TensorFileTest, ReadsWhatHuggingFaceWrote) {
  const auto file =
      TensorFile::Open("tests/golden/llama/two_shards/model-00001-of-00002.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata().at("format"), "pt");
  const auto view = (*file)->Find("model.embed_tokens.weight", {101, 48});
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->dtype, DType::kBF16);
}

TEST(TensorFileTest, FindNamesFileTensorAndExpectation) {
  const auto data = EncodeAs(DType::kF32, std::vector<float>{1, 2, 3});
  const std::string path = TempPath("find.safetensors");
  ASSERT_TRUE(WriteTensorFile(path, std::vector<NamedTensor>{{"a", DType::kF32, {3}, data}}).ok());
  const auto file = TensorFile::Open(path);
  ASSERT_TRUE(file.ok());
  const absl::Status missing = (*file)->Find("b").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(base::MessageOf(missing), path + ": there is no tensor 'b'");
  const absl::Status shape = (*file)->Find("a", {1, 3}).status();
  EXPECT_EQ(shape.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(base::MessageOf(shape), path + ": tensor 'a' has shape [3], expected [1, 3]");
}

TEST(TensorFileTest, OpenNamesThePath) {
  const absl::Status missing = TensorFile::Open("/nowhere/x.safetensors").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(base::MessageOf(missing), HasSubstr("/nowhere/x.safetensors"));
  const absl::Status folder = TensorFile::Open(testing::TempDir()).status();
  EXPECT_EQ(folder.code(), absl::StatusCode::kInvalidArgument);
  const std::string empty = TempPath("empty.safetensors");
  std::ofstream(empty).flush();
  EXPECT_THAT(base::MessageOf(TensorFile::Open(empty).status()), HasSubstr("0 bytes"));
}

TEST(TensorWriterTest, RefusesWhatCannotBeReadBack) {
  const auto data = EncodeAs(DType::kF32, std::vector<float>{1, 2, 3});
  const auto refused = [&](const std::vector<NamedTensor>& tensors) {
    return base::MessageOf(WriteTensorFile(TempPath("refused.safetensors"), tensors));
  };
  EXPECT_THAT(refused({{"a", DType::kF32, {4}, data}}), HasSubstr("shape [4]"));
  EXPECT_THAT(refused({{"a", DType::kF16, {3}, data}}), HasSubstr("12 bytes"));
  EXPECT_THAT(refused({{"a", DType::kF32, {-1, -3}, data}}), HasSubstr("shape [-1, -3]"));
  EXPECT_THAT(refused({{"a", DType::kF32, {3}, data}, {"a", DType::kF32, {3}, data}}),
              HasSubstr("given twice"));
  EXPECT_THAT(refused({{"", DType::kF32, {3}, data}}), HasSubstr("name"));
  EXPECT_THAT(refused({{"__metadata__", DType::kF32, {3}, data}}), HasSubstr("name"));
  EXPECT_THAT(refused({{"\xff", DType::kF32, {3}, data}}), HasSubstr("UTF-8"));
  EXPECT_FALSE(std::filesystem::exists(TempPath("refused.safetensors")));
  EXPECT_EQ(WriteTensorFile("/nowhere/x", {}).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace sounder::tensor_file
