// Damaged and hostile files, named by the damage: each must be refused with a message that says
// what is wrong, and none may crash the reader (run under ASan and UBSan too).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/base/absl_text.h"
#include "common/tensor_file/tensor_file.h"

namespace sounder::tensor_file {
namespace {

using testing::HasSubstr;

std::string WithLength(uint64_t length, const std::string& rest) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>((length >> (8 * i)) & 0xff);
  return bytes + rest;
}

// A file with this header and `data` bytes of data.
std::string File(const std::string& header, size_t data) {
  return WithLength(header.size(), header + std::string(data, '\1'));
}

std::string Entry(const std::string& shape, const std::string& offsets,
                  const std::string& dtype = "F32") {
  return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

// The message of the refusal; "ok" if the file was read.
std::string Refusal(const std::string& file) {
  // An exact heap copy, so that ASan sees a read past the end.
  const std::vector<char> copy(file.begin(), file.end());
  const auto opened =
      TensorFile::FromBytes("f", std::as_bytes(std::span<const char>(copy.data(), copy.size())));
  if (opened.ok()) return "ok";
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kInvalidArgument);
  return base::MessageOf(opened.status());
}

TEST(TensorFileHostileTest, TheUndamagedFileIsRead) {
  EXPECT_EQ(Refusal(File(Entry("[2,3]", "[0,24]"), 24)), "ok");
  EXPECT_EQ(Refusal(File("{}", 0)), "ok");
}

TEST(TensorFileHostileTest, EveryTruncationIsRefused) {
  const std::string whole = File(Entry("[2,3]", "[0,24]"), 24);
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_NE(Refusal(whole.substr(0, size)), "ok") << size;
  }
}

TEST(TensorFileHostileTest, HeaderLength) {
  EXPECT_THAT(Refusal("1234567"), HasSubstr("too short"));
  EXPECT_THAT(Refusal(WithLength(3, "{}")), HasSubstr("header length 3"));
  EXPECT_THAT(Refusal(WithLength(UINT64_MAX, "{}")), HasSubstr("header length 1844674407370955"));
  EXPECT_THAT(Refusal(WithLength(UINT64_MAX - 7, "{}")), HasSubstr("header length"));
  EXPECT_THAT(Refusal(WithLength((uint64_t{100} << 20) + 1, std::string((100u << 20) + 1, ' '))),
              HasSubstr("limit of 104857600"));
}

TEST(TensorFileHostileTest, HeaderIsNotAnObject) {
  for (const char* text : {"", "[]", "7", "null", "{", "{}}", "{\"a\":1e999}", "\xff\xfe{}"}) {
    EXPECT_THAT(Refusal(File(text, 0)), HasSubstr("not a JSON object")) << text;
  }
  EXPECT_THAT(Refusal(File(std::string(200000, '['), 0)), HasSubstr("not a JSON object"));
  EXPECT_THAT(
      Refusal(File(R"({"a":)" + std::string(100000, '[') + std::string(100000, ']') + "}", 0)),
      HasSubstr("tensor 'a'"));
}

TEST(TensorFileHostileTest, EntryFields) {
  EXPECT_THAT(Refusal(File(R"({"a":7})", 0)), HasSubstr("tensor 'a': must be an object"));
  EXPECT_THAT(Refusal(File(R"({"a":{}})", 0)), HasSubstr("dtype must be a string"));
  EXPECT_THAT(Refusal(File(R"({"a":{"dtype":1,"shape":[],"data_offsets":[0,4]}})", 4)),
              HasSubstr("dtype must be a string"));
  EXPECT_THAT(Refusal(File(Entry("7", "[0,4]"), 4)), HasSubstr("shape must be an array"));
  EXPECT_THAT(Refusal(File(Entry("[-1]", "[0,4]"), 4)), HasSubstr("integers from 0"));
  EXPECT_THAT(Refusal(File(Entry("[1.0]", "[0,4]"), 4)), HasSubstr("integers from 0"));
  EXPECT_THAT(Refusal(File(Entry("[\"1\"]", "[0,4]"), 4)), HasSubstr("integers from 0"));
  EXPECT_THAT(Refusal(File(Entry("[18446744073709551615]", "[0,4]"), 4)),
              HasSubstr("integers from 0"));
  EXPECT_THAT(Refusal(File(Entry("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,4]"), 4)),
              HasSubstr("17 dimensions"));
}

TEST(TensorFileHostileTest, Offsets) {
  for (const char* offsets : {"7", "[]", "[0]", "[0,4,8]", "null"}) {
    EXPECT_THAT(Refusal(File(Entry("[1]", offsets), 4)), HasSubstr("must be [begin, end]"));
  }
  for (const char* offsets : {"[4,0]", "[0,5]", "[9223372036854775807,9223372036854775807]"}) {
    EXPECT_THAT(Refusal(File(Entry("[1]", offsets), 4)), HasSubstr("within the 4 bytes"))
        << offsets;
  }
  for (const char* offsets : {"[-4,0]", "[0,18446744073709551615]", "[0.0,4]", "[\"0\",4]"}) {
    EXPECT_THAT(Refusal(File(Entry("[1]", offsets), 4)), HasSubstr("integers from 0")) << offsets;
  }
  // The refusal showed them by a function that calls itself for each bracket: no stack was enough.
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  EXPECT_THAT(Refusal(File(Entry("[1]", "[" + deep + ",4]"), 4)), HasSubstr("integers from 0"));
}

TEST(TensorFileHostileTest, ShapeAndBytesDisagree) {
  EXPECT_THAT(Refusal(File(Entry("[2]", "[0,4]"), 4)), HasSubstr("shape [2] of F32"));
  EXPECT_THAT(Refusal(File(Entry("[0]", "[0,4]"), 4)), HasSubstr("shape [0] of F32"));
  // 2^62 * 4 and (2^32)^2 are 0 in 64 bits.
  EXPECT_THAT(Refusal(File(Entry("[4611686018427387904]", "[0,0]"), 0)), HasSubstr("shape"));
  EXPECT_THAT(Refusal(File(Entry("[4294967296,4294967296]", "[0,0]"), 0)), HasSubstr("shape"));
  EXPECT_THAT(Refusal(File(Entry("[9223372036854775807,9223372036854775807]", "[0,4]"), 4)),
              HasSubstr("shape"));
  EXPECT_THAT(Refusal(File(Entry("[4294967296,0,4294967296]", "[0,0]"), 0)), HasSubstr("shape"));
  EXPECT_EQ(Refusal(File(Entry("[4294967296,0,3]", "[0,0]"), 0)), "ok");
  EXPECT_THAT(Refusal(File(Entry("[1]", "[0,4]", "I64"), 4)), HasSubstr("of I64"));
}

std::string Two(const std::string& a, const std::string& b) {
  return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a +
         R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}";
}

TEST(TensorFileHostileTest, Coverage) {
  EXPECT_EQ(Refusal(File(Two("[4,8]", "[0,4]"), 8)), "ok");
  EXPECT_THAT(Refusal(File(Two("[0,4]", "[2,6]"), 8)), HasSubstr("'b': overlaps"));
  EXPECT_THAT(Refusal(File(Two("[0,4]", "[0,4]"), 4)), HasSubstr("overlaps"));
  EXPECT_THAT(Refusal(File(Two("[0,4]", "[5,9]"), 9)), HasSubstr("'b': leaves a hole"));
  EXPECT_THAT(Refusal(File(Two("[0,4]", "[4,8]"), 9)), HasSubstr("1 bytes after the last tensor"));
}

TEST(TensorFileHostileTest, NameGivenTwice) {
  const std::string entry = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  EXPECT_THAT(Refusal(File("{" + entry + "," + entry + "}", 4)), HasSubstr("'a' is listed twice"));
}

TEST(TensorFileHostileTest, Metadata) {
  EXPECT_THAT(Refusal(File(R"({"__metadata__":7})", 0)), HasSubstr("__metadata__"));
  EXPECT_THAT(Refusal(File(R"({"__metadata__":{"a":7}})", 0)), HasSubstr("__metadata__"));
  EXPECT_EQ(Refusal(File(R"({"__metadata__":{"a":"7"}})", 0)), "ok");
}

TEST(TensorFileHostileTest, OtherTypesAreListedAndRefusedOnAccess) {
  for (const char* dtype : {"I64", "F64"}) {
    const std::string bytes = File(Entry("[1]", "[0,8]", dtype), 8);
    const auto file = TensorFile::FromBytes("f", std::as_bytes(std::span(bytes)));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ((*file)->tensors().at("a").dtype_name, dtype);
    const absl::Status status = (*file)->Find("a").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_EQ(base::MessageOf(status), std::string("f: tensor 'a' has dtype ") + dtype +
                                           ", only F32, F16 and BF16 are read");
  }
  // A type we do not know: its element size is not ours to judge.
  const std::string bytes = File(Entry("[3]", "[0,2]", "F4"), 2);
  const auto file = TensorFile::FromBytes("f", std::as_bytes(std::span(bytes)));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_FALSE((*file)->Find("a").ok());
}

}  // namespace
}  // namespace sounder::tensor_file
