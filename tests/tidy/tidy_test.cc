// Every file of the repository keeps the rules of tidy.h; and planted violations are caught.
#include "tests/tidy/tidy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

namespace sounder::tidy {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uintmax_t kMaxTextBytes = 256 * 1024;

std::string ReadFile(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

House RealHouse() { return ParseHouse(ReadFile("cmake/house.cmake")); }

TEST(Tidy, TheRepositoryIsTidy) {
  ASSERT_TRUE(fs::exists("cmake/house.cmake")) << "run from the root of the repository";
  const House house = RealHouse();
  size_t files = 0;
  std::string violations;
  for (auto entry = fs::recursive_directory_iterator("."); entry != fs::end(entry); ++entry) {
    const std::string path = entry->path().lexically_relative(".").generic_string();
    if (path == ".git" || path == "build" || path == "shared" || path.ends_with("__pycache__")) {
      entry.disable_recursion_pending();
      continue;
    }
    if (!entry->is_regular_file() || entry->file_size() > kMaxTextBytes) continue;
    ++files;
    for (const Violation& violation : CheckFile(house, path, ReadFile(entry->path()))) {
      violations += violation.ToString() + "\n";
    }
  }
  EXPECT_THAT(files, Gt(50u)) << "the walk did not see the repository";
  EXPECT_EQ(violations, "");
}

TEST(Tidy, ReadsTheHouse) {
  const House house = RealHouse();
  ASSERT_THAT(house.sides, SizeIs(4));
  EXPECT_EQ(house.sides.at("common").front(), "base");
  EXPECT_EQ(house.sides.at("kv_node").back(), "main");
  EXPECT_EQ(house.cli_last_kv_node_folder, "tuning");
}

// A small house to plant violations in.
House ToyHouse() {
  House house;
  house.sides = {{"common", {"base", "kernels", "transport", "wire"}},
                 {"kv_node", {"kernels", "segment", "sampler", "server", "main"}},
                 {"gpu_worker", {"ops", "model", "main"}},
                 {"cli", {"main"}}};
  house.cli_last_kv_node_folder = "sampler";
  return house;
}

std::vector<std::string> Rules(const std::string& path, const std::string& text) {
  std::vector<std::string> rules;
  for (const Violation& violation : CheckFile(ToyHouse(), path, text)) {
    rules.push_back(violation.rule);
  }
  return rules;
}

TEST(Tidy, EdgesThatAreAllowed) {
  const std::pair<const char*, const char*> allowed[] = {
      {"common/transport/a.cc", "common/base/x.h"},
      {"common/base/a.cc", "common/base/x.h"},
      {"kv_node/server/a.cc", "kv_node/segment/x.h"},
      {"kv_node/server/a.cc", "common/wire/x.h"},
      {"kv_node/main.cc", "kv_node/server/x.h"},
      {"cli/main.cc", "kv_node/sampler/x.h"},
      {"cli/eval.cc", "cli/table.h"},
      {"gpu_worker/model/a.cc", "gpu_worker/ops/x.h"},
      {"tests/x/a.cc", "kv_node/server/x.h"},
      {"bench/a.cc", "tests/x/y.h"},
      {"common/base/a.cc", "absl/status/status.h"},
  };
  for (const auto& [path, target] : allowed) {
    EXPECT_THAT(Rules(path, "#include \"" + std::string(target) + "\"\n"), IsEmpty()) << path;
  }
}

TEST(Tidy, EdgesThatAreCaught) {
  const std::pair<const char*, const char*> wrong[] = {
      {"common/base/a.cc", "common/kernels/x.h"},
      {"common/wire/a.cc", "kv_node/segment/x.h"},
      {"kv_node/segment/a.cc", "kv_node/server/x.h"},
      {"kv_node/server/a.cc", "gpu_worker/ops/x.h"},
      {"gpu_worker/ops/a.cc", "kv_node/segment/x.h"},
      {"gpu_worker/ops/a.cc", "gpu_worker/model/x.h"},
      {"cli/main.cc", "kv_node/server/x.h"},
      {"cli/main.cc", "gpu_worker/ops/x.h"},
      {"common/base/a.cc", "tests/tidy/x.h"},
      {"kv_node/main.cc", "bench/x.h"},
      {"common/attic/a.cc", "common/base/x.h"},
      {"common/wire/a.cc", "common/attic/x.h"},
      {"common/wire/a.cc", "cli/x.h"},
      {"kv_node/server/a.cc", "kv_node/options.h"},
  };
  for (const auto& [path, target] : wrong) {
    EXPECT_THAT(Rules(path, "#include \"" + std::string(target) + "\"\n"), ElementsAre("edge"))
        << path << " includes " << target;
  }
  EXPECT_THAT(Rules("common/base/a.cc", "  #  include   <common/wire/x.h>\n"), ElementsAre("edge"));
}

TEST(Tidy, ForeignHeadersStayAtHome) {
  const struct {
    const char* header;
    const char* home;
    const char* elsewhere;
  } cases[] = {
      {"ucp/api/ucp.h", "common/transport/ucx_transport.cc", "common/transport/loopback.cc"},
      {"ucs/type/status.h", "common/transport/ucx_status.cc", "kv_node/server/a.cc"},
      {"capnp/message.h", "common/wire/a.cc", "kv_node/server/a.cc"},
      {"kj/async.h", "common/wire/a.cc", "common/transport/ucx_a.cc"},
      {"prometheus/counter.h", "common/metrics/a.cc", "kv_node/server/a.cc"},
      {"httplib.h", "common/http/a.cc", "kv_node/server/a.cc"},
      {"hwy/highway.h", "kv_node/kernels/a.cc", "kv_node/sampler/a.cc"},
      {"hwy/highway.h", "common/kernels/a.cc", "gpu_worker/ops/a.cc"},
      {"oneapi/dnnl/dnnl.hpp", "gpu_worker/ops/a.cc", "gpu_worker/model/a.cc"},
      {"dnnl.hpp", "gpu_worker/ops/a.cc", "common/kernels/a.cc"},
      {"CLI/CLI.hpp", "common/config/a.cc", "cli/main.cc"},
      {"yaml-cpp/yaml.h", "common/config/a.cc", "cli/main.cc"},
      {"spdlog/spdlog.h", "common/config/a.cc", "kv_node/server/a.cc"},
      {"rocksdb/db.h", "kv_node/store/a.cc", "kv_node/session/a.cc"},
  };
  for (const auto& c : cases) {
    const std::string text = "#include <" + std::string(c.header) + ">\n";
    EXPECT_THAT(Rules(c.home, text), IsEmpty()) << c.home << " " << c.header;
    EXPECT_THAT(Rules(c.elsewhere, text), ElementsAre("foreign")) << c.elsewhere;
    EXPECT_THAT(Rules("tests/a.cc", text), IsEmpty());
  }
}

TEST(Tidy, Headers) {
  const std::string good =
      "// What it is for.\n#ifndef SOUNDER_COMMON_BASE_A_B_H_\n#define SOUNDER_COMMON_BASE_A_B_H_\n"
      "#endif  // SOUNDER_COMMON_BASE_A_B_H_\n";
  EXPECT_THAT(Rules("common/base/a_b.h", good), IsEmpty());
  EXPECT_THAT(Rules("common/base/other.h", good), ElementsAre("guard"));
  EXPECT_THAT(Rules("common/base/a_b.h", good.substr(good.find('\n') + 1)), ElementsAre("comment"));
  EXPECT_THAT(Rules("common/base/a_b.h", "// Text.\n#pragma once\n"), ElementsAre("guard"));
  EXPECT_THAT(Rules("common/kernels/a-inl.h", "// Per SIMD level.\n"), IsEmpty());
}

TEST(Tidy, Layout) {
  EXPECT_THAT(Rules("a.cc", std::string(100, 'x') + "\n"), IsEmpty());
  EXPECT_THAT(Rules("a.cc", std::string(101, 'x') + "\n"), ElementsAre("columns"));
  EXPECT_THAT(Rules("run", std::string(101, 'x') + "\n"), ElementsAre("columns"));
  EXPECT_THAT(Rules("a.md", std::string(101, 'x') + "\n"), IsEmpty());
  std::string umlauts;
  for (int i = 0; i < 100; ++i) umlauts += "\xc3\xa4";
  EXPECT_THAT(Rules("a.cc", umlauts + "\n"), IsEmpty()) << "columns, not bytes";
  EXPECT_THAT(Rules("a.cc", "x \n"), ElementsAre("layout"));
  EXPECT_THAT(Rules("a.cc", "x\r\n"), ElementsAre("layout"));
  EXPECT_THAT(Rules("a.cc", "x"), ElementsAre("layout"));
  EXPECT_THAT(Rules("a.cc", ""), IsEmpty());
  std::string lines;
  for (int i = 0; i < 400; ++i) lines += "x\n";
  EXPECT_THAT(Rules("a.cc", lines), IsEmpty());
  EXPECT_THAT(Rules("a.cc", lines + "x\n"), ElementsAre("length"));
  EXPECT_THAT(Rules("a.md", lines + "x\n"), IsEmpty());
  for (int i = 0; i < 200; ++i) lines += "x\n";
  EXPECT_THAT(Rules("tests/a.cc", lines), IsEmpty());
  EXPECT_THAT(Rules("tests/a.cc", lines + "x\n"), ElementsAre("length"));
  EXPECT_THAT(Rules("data.txt", std::string(500, ' ')), IsEmpty()) << "data is not text";
}

TEST(Tidy, Functions) {
  const auto lines = [](int count, const std::string& line) {
    std::string text;
    for (int i = 0; i < count; ++i) text += line + "\n";
    return text;
  };
  // With its first and last line: 70, then 71.
  const std::string most = "int F() {\n" + lines(68, "  x();") + "}\n";
  const std::string more = "int F() {\n" + lines(69, "  x();") + "}\n";
  EXPECT_THAT(Rules("a.cc", most + most), IsEmpty());
  EXPECT_THAT(Rules("a.cc", most + more), ElementsAre("function"));
  EXPECT_THAT(Rules("tests/a.cc", more), IsEmpty());
  EXPECT_EQ(CheckFile(ToyHouse(), "a.cc", "// F.\n\n" + more)[0].line, 3u);
  // Its first line is the one at its column, wherever the brace is; preprocessor lines are inside.
  EXPECT_THAT(Rules("a.cc", "int F(int a,\n      int b) {\n" + lines(68, "  x();") + "}\n"),
              ElementsAre("function"));
  EXPECT_THAT(Rules("a.cc", "int F() {\n#if X\n" + lines(68, "  x();") + "}\n"),
              ElementsAre("function"));
  // In a class, which may be longer.
  const std::string method = "  int F() {\n" + lines(69, "    x();") + "  }\n";
  EXPECT_THAT(Rules("a.cc", "class A {\n" + method + "};\n"), ElementsAre("function"));
  EXPECT_THAT(Rules("a.cc", "class A {\n" + lines(100, "  int x;") + "};\n"), IsEmpty());
  EXPECT_THAT(Rules("a.cc", "namespace a {\n" + lines(100, "  x") + "}  // namespace a\n"),
              IsEmpty());
}

TEST(Tidy, WordsThatAreBanned) {
  // In halves, so that this file is tidy itself.
  const std::string words[] = {std::string("TO") + "DO",
                               std::string("FIX") + "ME: x",
                               std::string("XX") + "X",
                               std::string("using namespace ") + "std;",
                               std::string("#include <ran") + "ges>",
                               std::string("a(\"/ho") + "me/me\")",
                               std::string("cd /wo") + "rk/x",
                               std::string("#include \"absl/") + "log/log.h\""};
  for (const std::string& word : words) {
    EXPECT_THAT(Rules("common/base/a.cc", word + "\n"), ElementsAre("banned")) << word;
  }
  EXPECT_THAT(Rules("scripts/a.sh", "mktemp -d /tmp/a.XX" + std::string("XXXX\n")), IsEmpty());
  EXPECT_THAT(Rules("a.md", std::string("TO") + "DO\n"), ElementsAre("banned"));
  EXPECT_THAT(Rules("a.cc", std::string("MASTO") + "DON\n"), IsEmpty());
  for (const std::string& wait :
       {std::string("sleep") + "_for(1s);", std::string("us") + "leep(1);",
        std::string("nano") + "sleep(&t, 0);"}) {
    EXPECT_THAT(Rules("tests/a.cc", wait + "\n"), ElementsAre("banned")) << wait;
    EXPECT_THAT(Rules("common/base/a.cc", wait + "\n"), IsEmpty()) << wait;
  }
}

TEST(Tidy, ClocksArePassedIn) {
  for (const std::string clock : {"steady_clock", "system_clock", "high_resolution_clock"}) {
    const std::string text = "const auto now = std::chrono::" + clock + "::now();\n";
    for (const char* path : {"common/wire/a.cc", "kv_node/server/a.cc", "gpu_worker/model/a.cc"}) {
      EXPECT_THAT(Rules(path, text), ElementsAre("clock")) << path;
    }
    for (const char* path : {"common/base/a.cc", "kv_node/main.cc", "tests/a.cc", "cli/a.cc"}) {
      EXPECT_THAT(Rules(path, text), IsEmpty()) << path;
    }
  }
}

TEST(Tidy, TheEnvironmentIsReadInMainOnly) {
  const std::string text = std::string("x = std::get") + "env(\"HOME\");\n";
  EXPECT_THAT(Rules("kv_node/server/a.cc", text), ElementsAre("environment"));
  EXPECT_THAT(Rules("tests/a.cc", text), ElementsAre("environment"));
  EXPECT_THAT(Rules("kv_node/main.cc", text), IsEmpty());
  EXPECT_THAT(Rules("common/config/environment.cc", text), IsEmpty());
  EXPECT_THAT(Rules("common/transport/ucx_config.cc", text), IsEmpty());
  EXPECT_THAT(Rules("common/transport/loopback.cc", text), ElementsAre("environment"));
}

TEST(Tidy, ViolationsNameTheLine) {
  const auto found = CheckFile(ToyHouse(), "a.cc", "x\n" + std::string(101, 'y') + "\n");
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0].ToString(), "a.cc:2: columns: 101 columns, at most 100");
}

}  // namespace
}  // namespace sounder::tidy
