// What `cmake --install` leaves is all that another program needs to use the client: the example is
// built against it, away from our sources, and run against a node.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "tests/e2e/processes.h"

namespace sounder::e2e {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

// Runs a shell's commands in an environment that knows nothing of this build.
Ran RunShell(const TemporaryFolder& folder, const std::string& commands) {
  const std::string home = folder.Path("");
  Process process("env", {"-i", "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + home, "LC_ALL=C",
                          "sh", "-ec", "cd " + home + "\n" + commands});
  Ran ran;
  ran.exit = process.Wait(seconds(60)).value_or(-1000);
  ran.output = process.Output();
  ran.errors = process.Errors();
  return ran;
}

// The same, where it must succeed: what it said.
std::string Succeed(const TemporaryFolder& folder, const std::string& commands) {
  const Ran ran = RunShell(folder, commands);
  EXPECT_EQ(ran.exit, 0) << commands << "\n" << ran.output << ran.errors;
  return ran.output;
}

class ClientPackageTest : public testing::Test {
 protected:
  // Installed somewhere and moved: nothing may depend on where it was put first.
  void SetUp() override {
    Succeed(folder_, "cmake --install " + build_ + " --prefix first; mv first prefix");
  }
  std::string Prefix(const std::string& name) const { return folder_.Path("prefix/" + name); }

  const std::string build_ =
      std::filesystem::canonical(Binary("sounder_node")).parent_path().parent_path();
  TemporaryFolder folder_;
};

TEST_F(ClientPackageTest, TheExampleBuildsAndRuns) {
  Succeed(folder_,
          "cmake -S prefix/share/doc/sounder/examples/client -B build"
          "  -DCMAKE_PREFIX_PATH=$PWD/prefix -DCMAKE_CXX_FLAGS=-Werror;"
          "cmake --build build");
  Node node;
  const std::string& address = node.control();
  const std::string said = Succeed(folder_, "build/client_example " + address);
  std::istringstream lines(said);
  std::string line;
  for (const char* name : {"session", "fork"}) {
    ASSERT_TRUE(std::getline(lines, line)) << said;
    EXPECT_THAT(line, MatchesRegex(name + std::string(": attended to 1000 rows there, off by .*")));
  }
  EXPECT_FALSE(std::getline(lines, line)) << line;
  // By pkg-config as well.
  Succeed(folder_,
          "export PKG_CONFIG_PATH=$PWD/prefix/lib/pkgconfig LD_LIBRARY_PATH=$PWD/prefix/lib;"
          "g++ -std=c++17 -fsyntax-only prefix/share/doc/sounder/examples/client/*.cc"
          "  $(pkg-config --cflags sounder-client);"
          "g++ -o linked build/CMakeFiles/client_example.dir/client_example.cc.o"
          "  $(pkg-config --libs sounder-client);"
          "./linked " +
              address);
  node.Kill();
  const Ran failed = RunShell(folder_, "build/client_example " + address);
  EXPECT_EQ(failed.exit, 1);
  EXPECT_THAT(failed.errors, HasSubstr(address));
  EXPECT_EQ(failed.output, "");
}

TEST_F(ClientPackageTest, NamesNoPlaceOfTheBuild) {
  const std::string source = std::filesystem::current_path();
  size_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(Prefix(""))) {
    if (!entry.is_regular_file()) continue;
    ++files;
    const std::string text = ReadFile(entry.path());
    for (const std::string& place : {source, build_}) {
      EXPECT_EQ(text.find(place), std::string::npos) << entry.path() << " names " << place;
    }
  }
  EXPECT_GE(files, 11u);
  for (const char* program : {"sounder_node", "sounder_worker", "sounderctl"}) {
    Succeed(folder_, "prefix/bin/" + std::string(program) + " --version");
  }
}

TEST_F(ClientPackageTest, TheLibraryShowsTheClientAlone) {
  std::istringstream lines(
      Succeed(folder_, "nm -DC --defined-only prefix/lib/libsounder_client.so"));
  size_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    EXPECT_THAT(line, MatchesRegex("[0-9a-f]+ T sounder::client::[A-Z].*"));
    EXPECT_EQ(line.find("::State::"), std::string::npos) << line;
  }
  EXPECT_GE(count, 15u);
  const std::string dynamic = Succeed(folder_, "readelf -d prefix/lib/libsounder_client.so");
  EXPECT_THAT(dynamic, HasSubstr("soname: [libsounder_client.so."));
  EXPECT_THAT(dynamic, Not(HasSubstr("RUNPATH")));
}

}  // namespace
}  // namespace sounder::e2e
