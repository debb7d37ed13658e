#include "common/config/option_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "common/base/absl_text.h"
#include "common/config/option_report.h"

namespace sounder::config {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A component with one option of each type.
struct Component {
  int64_t seal_rows = 4096;
  double share = 0.5;
  bool verify = true;
  std::string attention = "exact";
  std::string listen = "127.0.0.1:7400";
  std::vector<std::string> nodes;
  int64_t memory = int64_t{8} << 30;
  base::Duration deadline = 2s;
  std::vector<std::string> files;
  OptionSet set{"program", "Does things."};

  Component() {
    set.AddInt("seal_rows", &seal_rows, "rows per segment", {.min = 64, .max = 65536});
    set.AddDouble("share", &share, "share of rows", {.min = 0, .max = 1});
    set.AddBool("verify", &verify, "check sums");
    set.AddText("attention", &attention, "kind", {"exact", "lsh"});
    set.AddText("listen", &listen, "address");
    set.AddList("nodes", &nodes, "nodes");
    set.AddBytes("memory", &memory, "cap", {.min = 1 << 20});
    set.AddDuration("deadline", &deadline, "limit", {.min = 1ms, .max = 1h});
    set.AddArguments("file", &files, "files to read", 0, 2);
  }

  absl::StatusOr<ParseResult> Parse(std::vector<const char*> arguments,
                                    const Environment& environment = {}) {
    arguments.insert(arguments.begin(), "program");
    return set.Parse(static_cast<int>(arguments.size()), arguments.data(), environment);
  }
  std::string Error(std::vector<const char*> arguments, const Environment& environment = {}) {
    return base::MessageOf(Parse(std::move(arguments), environment).status());
  }
  OptionValue Value(const std::string& name) const {
    for (const OptionValue& value : set.Values()) {
      if (value.name == name) return value;
    }
    return {};
  }
};

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path) << text;
  return path;
}

TEST(OptionSet, DefaultsStand) {
  Component c;
  ASSERT_EQ(*c.Parse({}), ParseResult::kRun);
  EXPECT_EQ(c.seal_rows, 4096);
  EXPECT_EQ(c.Value("seal_rows").origin, Origin::kDefault);
  EXPECT_EQ(c.Value("seal_rows").source, "");
}

TEST(OptionSet, EveryTypeAsAFlag) {
  Component c;
  const auto result =
      c.Parse({"--seal-rows", "128", "--share=.25", "--no-verify", "--attention=lsh", "--nodes",
               "a:1,b:2", "--nodes=c:3", "--memory=1.5GiB", "--deadline", "500ms", "x", "y"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(c.seal_rows, 128);
  EXPECT_EQ(c.share, .25);
  EXPECT_FALSE(c.verify);
  EXPECT_EQ(c.attention, "lsh");
  EXPECT_THAT(c.nodes, ElementsAre("a:1", "b:2", "c:3"));
  EXPECT_EQ(c.memory, int64_t{3} << 29);
  EXPECT_EQ(c.deadline, 500ms);
  EXPECT_THAT(c.files, ElementsAre("x", "y"));
  EXPECT_EQ(c.Value("memory").value, "1536MiB");
  EXPECT_EQ(c.Value("memory").default_value, "8GiB");
}

TEST(OptionSet, EveryTypeAsAVariableAndAsAKey) {
  const Environment environment = {
      {"SOUNDER_SEAL_ROWS", "128"}, {"SOUNDER_SHARE", ".25"},   {"SOUNDER_VERIFY", "off"},
      {"SOUNDER_NODES", "a:1,b:2"}, {"SOUNDER_MEMORY", "2MiB"}, {"SOUNDER_DEADLINE", "3s"},
      {"SOUNDER_LISTEN", "h:1"},    {"PATH", "/bin"},           {"SOUNDER_OTHER", "ignored"}};
  const std::string path = WriteFile("all.yaml",
                                     "seal_rows: 128\nshare: .25\nverify: off\nnodes: [a:1, b:2]\n"
                                     "memory: 2MiB\ndeadline: 3s\nlisten: h:1\n");
  Component by_variable;
  Component by_key;
  ASSERT_TRUE(by_variable.Parse({}, environment).ok());
  const auto by_key_result = by_key.Parse({"--config", path.c_str()});
  ASSERT_TRUE(by_key_result.ok()) << by_key_result.status();
  for (Component* c : {&by_variable, &by_key}) {
    EXPECT_EQ(c->seal_rows, 128);
    EXPECT_EQ(c->share, .25);
    EXPECT_FALSE(c->verify);
    EXPECT_THAT(c->nodes, ElementsAre("a:1", "b:2"));
    EXPECT_EQ(c->memory, 2 << 20);
    EXPECT_EQ(c->deadline, 3s);
    EXPECT_EQ(c->listen, "h:1");
  }
  EXPECT_EQ(by_variable.Value("verify").source, "SOUNDER_VERIFY");
  EXPECT_EQ(by_key.Value("verify").source, path + ":3");
}

TEST(OptionSet, FlagBeatsVariableBeatsFileBeatsDefault) {
  const std::string path = WriteFile("order.yaml", "seal_rows: 100\n");
  const Environment variable = {{"SOUNDER_SEAL_ROWS", "200"}, {"SOUNDER_CONFIG", path}};
  Component c;
  ASSERT_TRUE(c.Parse({"--seal-rows=300"}, variable).ok());
  EXPECT_EQ(c.seal_rows, 300);
  EXPECT_EQ(c.Value("seal_rows").origin, Origin::kFlag);
  EXPECT_EQ(c.Value("config").source, "SOUNDER_CONFIG");

  Component d;
  ASSERT_TRUE(d.Parse({}, variable).ok());
  EXPECT_EQ(d.seal_rows, 200);
  EXPECT_EQ(d.Value("seal_rows").origin, Origin::kEnvironment);

  Component e;
  ASSERT_TRUE(e.Parse({}, {{"SOUNDER_CONFIG", path}, {"SOUNDER_SEAL_ROWS", ""}}).ok());
  EXPECT_EQ(e.seal_rows, 100) << "an empty variable counts as not set";
  EXPECT_EQ(e.Value("seal_rows").origin, Origin::kFile);

  Component f;
  const std::string other = WriteFile("other.yaml", "seal_rows: 111\n");
  ASSERT_TRUE(f.Parse({"--config", other.c_str()}, {{"SOUNDER_CONFIG", path}}).ok());
  EXPECT_EQ(f.seal_rows, 111);
}

TEST(OptionSet, ErrorsNameTheOptionTheSourceAndTheExpected) {
  const std::string path = WriteFile("bad.yaml", "seal_rows: 7\n");
  EXPECT_EQ(Component().Error({"--seal-rows=7"}),
            "--seal-rows: 7 is out of range, expected 64..65536");
  EXPECT_EQ(Component().Error({}, {{"SOUNDER_SEAL_ROWS", "x"}}),
            "--seal-rows (SOUNDER_SEAL_ROWS): \"x\" is not a whole number");
  EXPECT_EQ(Component().Error({"--config", path.c_str()}),
            "--seal-rows (" + path + ":1): 7 is out of range, expected 64..65536");
  EXPECT_THAT(Component().Error({"--memory=1KiB"}), HasSubstr("expected >= 1MiB"));
  EXPECT_THAT(Component().Error({"--deadline=2h"}), HasSubstr("expected 1ms..1h"));
  EXPECT_THAT(Component().Error({"--share=1.5"}), HasSubstr("expected 0..1"));
  EXPECT_EQ(Component().Error({"--attention=lhs"}),
            "--attention: \"lhs\" is not one of exact|lsh; did you mean lsh?");
  EXPECT_THAT(Component().Error({"--verify=maybe"}), HasSubstr("--verify"));
  EXPECT_EQ(Component().Error({"--seal-row", "7"}),
            "unknown flag --seal-row; did you mean --seal-rows?");
  EXPECT_EQ(Component().Error({"--zzzzzzzzz=1"}), "unknown flag --zzzzzzzzz");
  EXPECT_EQ(Component().Error({"-x"}), "unknown flag -x");
  EXPECT_EQ(Component().Error({"a", "b", "c"}), "unexpected argument \"c\"");
  EXPECT_THAT(Component().Error({"--seal-rows"}), HasSubstr("--seal-rows"));
  EXPECT_EQ(Component().Error({"--seal-rows=64", "--seal-rows=65"}),
            "--seal-rows was given more than once");
  EXPECT_THAT(Component().Error({"--config=/no/such.yaml"}), HasSubstr("/no/such.yaml"));
}

// CLI11 negated numbers given to the negative flag: one of twenty digits ended the process
// with an exception, the least one in undefined behaviour.
TEST(OptionSet, NegatedSwitchesTakeNoValue) {
  for (const char* flag : {"--no-verify=99999999999999999999", "--no-verify=-9223372036854775808",
                           "--no-verify=false", "--no-verify=1", "--no-verify=x"}) {
    EXPECT_EQ(Component().Error({flag}), "--no-verify takes no value") << flag;
  }
  EXPECT_THAT(Component().Error({"--verify=99999999999999999999"}), HasSubstr("true or false"));
  EXPECT_EQ(Component().Error({"--verify", "--no-verify"}), "--verify was given more than once");
  EXPECT_EQ(Component().Error({"--no-verify", "--no-verify"}), "--verify was given more than once");
}

TEST(OptionSet, AFileDoesNotNameAnother) {
  const std::string path = WriteFile("chain.yaml", "config: other.yaml\n");
  EXPECT_THAT(Component().Error({"--config", path.c_str()}),
              HasSubstr("unknown option \"config\""));
}

TEST(OptionSet, ValuesThatLookOdd) {
  Component c;
  ASSERT_TRUE(c.Parse({"--listen=[::1]", "[a,b]", "--", "--seal-rows"}).ok());
  EXPECT_EQ(c.listen, "[::1]");
  EXPECT_THAT(c.files, ElementsAre("[a,b]", "--seal-rows"));
  EXPECT_THAT(Component().Error({"--", "a", "b", "c"}), HasSubstr("unexpected argument \"c\""));
  Component d;
  ASSERT_TRUE(d.Parse({"--listen", "a,b c{}\"'$HOME"}).ok());
  EXPECT_EQ(d.listen, "a,b c{}\"'$HOME");
  Component e;
  ASSERT_TRUE(e.Parse({"--listen", "{}"}).ok());
  EXPECT_EQ(e.listen, "{}");
  Component f;
  ASSERT_TRUE(f.Parse({"--listen=", "x"}).ok());
  EXPECT_EQ(f.listen, "");
  EXPECT_THAT(f.files, ElementsAre("x"));
  EXPECT_EQ(f.Value("listen").origin, Origin::kFlag);
}

TEST(OptionSet, RequiredAndChecks) {
  std::string model;
  int64_t low = 1;
  int64_t high = 2;
  OptionSet set("program", "about");
  set.AddText("model", &model, "directory");
  set.AddInt("low", &low, "");
  set.AddInt("high", &high, "");
  set.Require("model");
  set.AddCheck([&] {
    return low <= high ? absl::OkStatus()
                       : absl::InvalidArgumentError("--low must not exceed --high");
  });
  const char* none[] = {"program"};
  EXPECT_EQ(base::MessageOf(set.Parse(1, none, {}).status()),
            "--model is required (or SOUNDER_MODEL)");
  EXPECT_TRUE(set.Parse(1, none, {{"SOUNDER_MODEL", "m"}}).ok());
  const char* wrong[] = {"program", "--model=m", "--low=3"};
  EXPECT_EQ(base::MessageOf(set.Parse(3, wrong, {}).status()), "--low must not exceed --high");
  EXPECT_EQ(set.UsageLine(), "usage: program --model TEXT [OPTION...]");
}

TEST(OptionSet, HelpAndVersion) {
  Component c;
  EXPECT_EQ(*c.Parse({"--seal-rows=1", "--help"}), ParseResult::kHelp) << "before values are read";
  EXPECT_EQ(*c.Parse({"-h"}), ParseResult::kHelp);
  EXPECT_EQ(*c.Parse({"--version"}), ParseResult::kVersion);
  const std::string help = c.set.HelpText();
  EXPECT_THAT(help,
              AllOf(HasSubstr("usage: program [OPTION...] [file...]"), HasSubstr("--seal-rows N"),
                    HasSubstr("[64..65536]"), HasSubstr("(default: 4096)"), HasSubstr("exact|lsh"),
                    HasSubstr("(default: 8GiB)"), HasSubstr("--version")));
  size_t longest = 0;
  for (size_t at = 0, end; (end = help.find('\n', at)) != std::string::npos; at = end + 1) {
    longest = std::max(longest, end - at);
  }
  EXPECT_LE(longest, 100u);
}

TEST(OptionSet, ParseOrExit) {
  Component good;
  const char* none[] = {"program"};
  EXPECT_EQ(good.set.ParseOrExit(1, none, {}), std::nullopt);
  Component wrong;
  const char* flags[] = {"program", "--sealrows=3"};
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(wrong.set.ParseOrExit(2, flags, {}), kExitUsage);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              AllOf(HasSubstr("program: unknown flag --sealrows; did you mean --seal-rows?\n"),
                    HasSubstr("usage: program"), HasSubstr("Try 'program --help'")));
  const char* version[] = {"program", "--version"};
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(Component().set.ParseOrExit(2, version, {}), 0);
  EXPECT_THAT(::testing::internal::GetCapturedStdout(), HasSubstr("sounder 0."));
}

TEST(OptionSet, Reports) {
  Component c;
  ASSERT_TRUE(c.Parse({"--seal-rows=64"}, {{"SOUNDER_LISTEN", "\xff\""}}).ok());
  const auto json = nlohmann::json::parse(ConfJson(c.set.Values()));
  EXPECT_EQ(json["seal_rows"]["value"], "64");
  EXPECT_EQ(json["seal_rows"]["origin"], "flag");
  EXPECT_EQ(json["listen"]["source"], "SOUNDER_LISTEN");
  EXPECT_EQ(json["memory"]["value"], "8GiB");
  EXPECT_THAT(ConfLine(c.set.Values()), HasSubstr("seal_rows=64 (--seal-rows), listen="));
  EXPECT_EQ(ConfLine(Component().set.Values()), "all options at their defaults");
}

TEST(OptionSetDeathTest, DeclarationsAreChecked) {
  int64_t value = 0;
  OptionSet set("program", "about");
  EXPECT_DEATH(set.AddInt("Seal", &value, ""), "Seal");
  EXPECT_DEATH(set.AddInt("help", &value, ""), "exists in every set");
  EXPECT_DEATH(set.AddInt("config", &value, ""), "declared twice");
  EXPECT_DEATH(set.Require("nothing"), "not declared");
}

}  // namespace
}  // namespace sounder::config
