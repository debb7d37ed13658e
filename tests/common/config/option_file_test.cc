#include "common/config/option_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "common/base/absl_text.h"

namespace sounder::config {
namespace {

using ::testing::HasSubstr;

const std::vector<std::string> kKeys = {"seal_rows", "nodes", "listen"};

TEST(OptionFile, ReadsScalarsAndLists) {
  const auto file = ParseOptionFile(
      "# a comment\nseal_rows: 64\nnodes: [a:1, b:2]\nlisten: \"[::1]:80\"\n", "n.yaml", kKeys);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->at("seal_rows").text, "64");
  EXPECT_EQ(file->at("seal_rows").source, "n.yaml:2");
  EXPECT_EQ(file->at("nodes").text, "a:1,b:2");
  EXPECT_EQ(file->at("listen").text, "[::1]:80");
}

TEST(OptionFile, EmptyFilesHoldNothing) {
  for (const char* text : {"", "\n", "# only a comment\n", "---\n"}) {
    const auto file = ParseOptionFile(text, "n.yaml", kKeys);
    ASSERT_TRUE(file.ok()) << text << file.status();
    EXPECT_TRUE(file->empty());
  }
}

TEST(OptionFile, RefusesAndNamesTheLine) {
  const struct {
    const char* text;
    const char* message;
  } cases[] = {
      {"seal_rows: 1\nseal_row: 2\n",
       "n.yaml:2: unknown option \"seal_row\"; did you mean seal_rows?"},
      {"zzzzzz: 1\n", "n.yaml:1: unknown option \"zzzzzz\""},
      {"seal_rows: 1\nseal_rows: 2\n", "n.yaml:2: seal_rows is given twice"},
      {"seal_rows:\n", "n.yaml:1: seal_rows has no value"},
      {"nodes: {a: 1}\n", "n.yaml:1: nodes is a map; options are flat"},
      {"nodes: [[a], b]\n", "n.yaml:1: nodes: items of a list"},
      {"nodes: [\"a,b\"]\n", "n.yaml:1: nodes: items of a list"},
      {"- a\n- b\n", "n.yaml: expected a map"},
      {"seal_rows\n", "n.yaml: expected a map"},
      {"seal_rows: [1\n", "not YAML"},
      {"a: b: c\n", "n.yaml:1: not YAML"},
      {"seal_rows: 1\n---\nseal_rows: 2\n", "more than one YAML document"},
      {"---\n---\nseal_rows: 2\n", "more than one YAML document"},
      {"? [a]\n: 1\n", "a key is not a plain text"},
      // These had no end: yaml-cpp 0.7 reads empty documents for ever.
      {",", "n.yaml:1: not YAML"},
      {"# a comment\n]\n", "n.yaml:2: not YAML"},
      {",a:[ 91\n\xa9---\na: 2\n]", "n.yaml:1: not YAML"},
  };
  for (const auto& c : cases) {
    const auto file = ParseOptionFile(c.text, "n.yaml", kKeys);
    ASSERT_FALSE(file.ok()) << c.text;
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(base::MessageOf(file.status()), HasSubstr(c.message));
  }
}

TEST(OptionFile, HostileTextIsRefusedNotFatal) {
  EXPECT_FALSE(ParseOptionFile(std::string(100'000, '['), "n.yaml", kKeys).ok());
  EXPECT_FALSE(ParseOptionFile(std::string("\0\x01\xff: 1", 6), "n.yaml", kKeys).ok());
  EXPECT_FALSE(ParseOptionFile("seal_rows: *nowhere\n", "n.yaml", kKeys).ok());
}

TEST(OptionFile, FilesThatCannotBeRead) {
  const auto missing = ReadOptionFile("/no/such/file.yaml", kKeys);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(base::MessageOf(missing.status()), HasSubstr("/no/such/file.yaml"));
  EXPECT_FALSE(ReadOptionFile("/", kKeys).ok());
  const std::string path = ::testing::TempDir() + "/sounder_large_options.yaml";
  std::ofstream(path) << "# " << std::string(kMaxOptionFileBytes, 'x') << "\n";
  EXPECT_THAT(base::MessageOf(ReadOptionFile(path, kKeys).status()), HasSubstr("larger than"));
}

}  // namespace
}  // namespace sounder::config
