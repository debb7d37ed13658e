// What the programs say and how they exit when they are called in a wrong way, or when a file, a
// port or a node is not as it should be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/wire/control_client.h"
#include "tests/e2e/processes.h"

namespace sounder::e2e {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr char kModel[] = "tests/golden/llama/gqa_untied";
constexpr int kUsage = 2;
constexpr int kBadInput = 3;
constexpr int kUnavailable = 4;

// An address where nobody listens: a port that was free a moment ago.
std::string FreeAddress() {
  Node node;
  return node.control();
}

class ProgramsTest : public testing::Test {
 protected:
  Ran Generate(const Arguments& extra) {
    Arguments arguments = {"generate", "--threads", "1", "--ucx-spin", "5us", "--ucx-tls", "tcp"};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    return RunProgram("sounder_worker", arguments);
  }
  std::string Prompts(const std::string& lines) { return folder_.Write("prompts.jsonl", lines); }
  std::string GoodPrompts() {
    return Prompts("{\"id\": \"x\", \"tokens\": [3, 4, 5], \"max_tokens\": 2}\n");
  }
  TemporaryFolder folder_;
};

TEST_F(ProgramsTest, HelpAndVersion) {
  for (const char* binary : {"sounder_node", "sounder_worker", "sounderctl"}) {
    const Ran help = RunProgram(binary, {"--help"});
    EXPECT_EQ(help.exit, 0) << binary;
    EXPECT_THAT(help.output, HasSubstr(binary));
    EXPECT_EQ(help.errors, "");
    const Ran version = RunProgram(binary, {"--version"});
    EXPECT_EQ(version.exit, 0) << binary;
    EXPECT_THAT(version.output, testing::ContainsRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
  }
  EXPECT_THAT(RunProgram("sounder_node", {"--help"}).output,
              AllOf(HasSubstr("--seal-rows"), HasSubstr("--memory"), HasSubstr("4096")));
  EXPECT_THAT(RunProgram("sounder_worker", {"generate", "--help"}).output,
              HasSubstr("--attention"));
}

TEST_F(ProgramsTest, WrongFlagsNameTheNearest) {
  const Ran node = RunProgram("sounder_node", {"--sael-rows", "512"});
  EXPECT_EQ(node.exit, kUsage);
  EXPECT_THAT(node.errors, AllOf(HasSubstr("--sael-rows"), HasSubstr("--seal-rows")));
  const Ran worker = RunProgram("sounder_worker", {"generate", "--atention", "lsh"});
  EXPECT_EQ(worker.exit, kUsage);
  EXPECT_THAT(worker.errors, AllOf(HasSubstr("--atention"), HasSubstr("--attention")));
  const Ran command = RunProgram("sounderctl", {"statsu"});
  EXPECT_EQ(command.exit, kUsage);
  EXPECT_THAT(command.errors, HasSubstr("status"));
  const Ran value = RunProgram("sounder_node", {"--memory", "lots"});
  EXPECT_EQ(value.exit, kUsage);
  EXPECT_THAT(value.errors, AllOf(HasSubstr("--memory"), HasSubstr("lots")));
  const Ran simd = RunProgram("sounder_node", {"--simd", "MMX"});
  EXPECT_EQ(simd.exit, kUsage);
  EXPECT_THAT(simd.errors, AllOf(HasSubstr("MMX"), HasSubstr("SSE4")));
  const Ran missing = RunProgram("sounder_worker", {"generate"});
  EXPECT_EQ(missing.exit, kUsage);
  EXPECT_THAT(missing.errors, HasSubstr("--model"));
}

TEST_F(ProgramsTest, OptionsComeFromTheFileToo) {
  const std::string file = folder_.Write("node.yaml", "seal_rows: 512\nthreads: 1\n");
  Node node({"--config", file, "--memory", "64MiB"});
  const std::string conf = HttpGet(node.addresses().http, "/conf").body;
  EXPECT_THAT(conf, AllOf(HasSubstr("512"), HasSubstr("node.yaml:1"), HasSubstr("64MiB")));
  const Ran wrong =
      RunProgram("sounder_node", {"--config", folder_.Write("bad.yaml", "sael_rows: 1\n")});
  EXPECT_EQ(wrong.exit, kUsage);
  EXPECT_THAT(wrong.errors, AllOf(HasSubstr("bad.yaml"), HasSubstr("seal_rows")));
}

TEST_F(ProgramsTest, TuningIsKeptForTheNextStart) {
  const TemporaryFolder folder;
  const std::string path = folder.Path("cache/schedule.yaml");
  Node node({"--tuning", "auto", "--tuning-cache", path, "--threads", "1"});
  // A busy machine may need more than the time there is; then nothing is kept.
  for (int start = 0; start < 20 && !std::filesystem::exists(path); ++start) {
    EXPECT_THAT(node.process().Errors(), HasSubstr("not all fields in time"));
    node.Kill();
    node.Restart();
  }
  EXPECT_THAT(ReadFile(path), HasSubstr("scan_bytes_ahead="));
  EXPECT_THAT(node.process().Errors(), HasSubstr("kept in " + path));
  node.Kill();
  node.Restart();
  EXPECT_THAT(node.process().Errors(), HasSubstr("kernel schedule: from " + path));
}

TEST_F(ProgramsTest, PortInUse) {
  Node node;
  const NodeAddresses& taken = node.addresses();
  struct Case {
    const char* flag;
    std::string address;
  };
  for (const Case& port : {Case{"--control", taken.control}, Case{"--data", taken.data},
                           Case{"--http", taken.http}, Case{"--data", taken.control}}) {
    Arguments arguments = {"--control", "127.0.0.1:0", "--data",  "127.0.0.1:0",
                           "--http",    "127.0.0.1:0", port.flag, port.address};
    for (size_t i = 0; i < 6; i += 2) {  // a flag may be given once
      if (arguments[i] == port.flag) {
        arguments.erase(arguments.begin() + static_cast<std::ptrdiff_t>(i),
                        arguments.begin() + static_cast<std::ptrdiff_t>(i) + 2);
        break;
      }
    }
    const Ran second = RunProgram("sounder_node", arguments);
    EXPECT_EQ(second.exit, kUnavailable) << port.flag << "\n" << second.errors;
    EXPECT_THAT(second.errors, HasSubstr(port.address)) << port.flag;
    EXPECT_EQ(second.output, "");
  }
  EXPECT_EQ(HttpGet(taken.http, "/healthz").status, 200);
}

TEST_F(ProgramsTest, ModelsThatCannotBeUsed) {
  const Ran missing = Generate({"--model", folder_.Path("nowhere"), "--attention", "exact-local",
                                "--prompts", GoodPrompts()});
  EXPECT_EQ(missing.exit, kBadInput);
  EXPECT_THAT(missing.errors, HasSubstr(folder_.Path("nowhere")));

  for (const char* name : {"config.json"}) {
    folder_.Write(name, ReadFile(std::string(kModel) + "/" + name));
  }
  const std::string weights = ReadFile(std::string(kModel) + "/model.safetensors");
  for (const size_t size : {size_t{0}, size_t{5}, size_t{100}, weights.size() - 1}) {
    folder_.Write("model.safetensors", weights.substr(0, size));
    const Ran truncated = Generate(
        {"--model", folder_.Path(""), "--attention", "exact-local", "--prompts", GoodPrompts()});
    EXPECT_EQ(truncated.exit, kBadInput) << size;
    EXPECT_THAT(truncated.errors, HasSubstr("model.safetensors")) << size;
  }
  folder_.Write("model.safetensors", weights);
  const Ran whole = Generate(
      {"--model", folder_.Path(""), "--attention", "exact-local", "--prompts", GoodPrompts()});
  EXPECT_EQ(whole.exit, 0) << whole.errors;
}

TEST_F(ProgramsTest, PromptsThatCannotBeUsed) {
  struct Case {
    std::string lines;
    std::string said;
  };
  for (const Case& bad :
       {Case{"{\"tokens\": [3]}\n{\"tokens\": [3\n", "prompts.jsonl:2"},
        Case{"\n{\"text\": \"no tokenizer\"}\n", "prompts.jsonl:2"},
        Case{"{\"tokens\": [3]}\n{\"tokens\": \"3\"}\n", "prompts.jsonl:2"},
        Case{"[1, 2]\n", "prompts.jsonl:1"},
        Case{"{\"tokens\": [3], \"max_tokens\": -1}\n", "prompts.jsonl:1"},
        Case{"{\"tokens\": [99999999999]}\n", "prompts.jsonl:1"},
        Case{"{\"tokens\": [3], \"max_tokens\": 18446744073709551615}\n", "prompts.jsonl:1"}}) {
    const Ran ran = Generate(
        {"--model", kModel, "--attention", "exact-local", "--prompts", Prompts(bad.lines)});
    EXPECT_EQ(ran.exit, kBadInput) << bad.lines << ran.errors;
    EXPECT_THAT(ran.errors, HasSubstr(bad.said)) << bad.lines;
  }
  const Ran missing = Generate(
      {"--model", kModel, "--attention", "exact-local", "--prompts", folder_.Path("none.jsonl")});
  EXPECT_EQ(missing.exit, kBadInput);
  EXPECT_THAT(missing.errors, HasSubstr("none.jsonl"));
  // A token outside the vocabulary fails its prompt alone.
  const Ran mixed = Generate(
      {"--model", kModel, "--attention", "exact-local", "--prompts",
       Prompts("{\"id\": \"bad\", \"tokens\": [83]}\n{\"id\": \"good\", \"tokens\": [3]}\n")});
  EXPECT_EQ(mixed.exit, kBadInput);
  EXPECT_THAT(mixed.errors, AllOf(HasSubstr("1 of 2"), HasSubstr("83")));
  EXPECT_THAT(mixed.output, HasSubstr("\"id\":\"good\""));
}

TEST_F(ProgramsTest, FilesThatCannotBeWritten) {
  for (const char* flag : {"--output", "--summary"}) {
    const std::string file = folder_.Path("none/file");
    const Ran ran = Generate(
        {"--model", kModel, "--attention", "exact-local", "--prompts", GoodPrompts(), flag, file});
    EXPECT_EQ(ran.exit, kBadInput) << flag << ran.errors;
    EXPECT_THAT(ran.errors, HasSubstr(file));
    const Ran full = Generate({"--model", kModel, "--attention", "exact-local", "--prompts",
                               GoodPrompts(), flag, "/dev/full"});
    EXPECT_EQ(full.exit, kUnavailable) << flag << full.errors;
    EXPECT_THAT(full.errors, HasSubstr("/dev/full"));
  }
}

// Answers that go to stdout are not lost silently either.
TEST_F(ProgramsTest, StandardOutputThatIsFull) {
  const std::string command = Binary("sounder_worker") + " generate --model " + kModel +
                              " --attention exact-local --threads 1 --prompts " + GoodPrompts() +
                              " > /dev/full";
  Process full("/bin/sh", {"-c", command});
  EXPECT_EQ(full.Wait(seconds(20)), kUnavailable) << full.Errors();
  EXPECT_THAT(full.Errors(), AllOf(HasSubstr("stdout"), HasSubstr("No space left")));
}

TEST_F(ProgramsTest, NodesThatCannotBeReached) {
  const std::string nobody = FreeAddress();
  const Ran worker = Generate({"--model", kModel, "--attention", "exact", "--prompts",
                               GoodPrompts(), "--nodes", nobody, "--deadline", "1s"});
  EXPECT_EQ(worker.exit, kUnavailable);
  EXPECT_THAT(worker.errors, HasSubstr(nobody));
  EXPECT_LT(worker.seconds, 5);
  const Ran status = RunProgram("sounderctl", {"status", "--nodes", nobody, "--deadline", "1s"});
  EXPECT_EQ(status.exit, kUnavailable);
  EXPECT_THAT(status.errors, HasSubstr(nobody));
  const Ran none =
      Generate({"--model", kModel, "--attention", "exact", "--prompts", GoodPrompts()});
  EXPECT_EQ(none.exit, kUsage);
  EXPECT_THAT(none.errors, HasSubstr("--nodes"));
  for (const char* malformed : {"localhost", "127.0.0.1:port", ":", "127.0.0.1:99999"}) {
    const Ran ran = Generate({"--model", kModel, "--attention", "exact", "--prompts", GoodPrompts(),
                              "--nodes", malformed, "--deadline", "1s"});
    EXPECT_EQ(ran.exit, kUsage) << ran.errors;
    EXPECT_THAT(ran.errors, AllOf(HasSubstr("--nodes"), HasSubstr(malformed)));
    EXPECT_EQ(RunProgram("sounderctl", {"status", "--nodes", malformed}).exit, kUsage);
    EXPECT_EQ(RunProgram("sounder_node", {"--http", malformed}).exit, kUsage);
  }
}

// Rows sent to both names would be taken for copies of each other, and be missing.
TEST_F(ProgramsTest, OneNodeTwice) {
  Node node;
  const std::string port = node.control().substr(node.control().rfind(':'));
  for (const std::string& other : {node.control(), "127.1" + port}) {
    const Ran ran = Generate({"--model", kModel, "--attention", "exact", "--prompts", GoodPrompts(),
                              "--nodes", node.control() + "," + other});
    EXPECT_EQ(ran.exit, kUsage) << ran.errors;
    EXPECT_THAT(ran.errors, AllOf(HasSubstr("--nodes"), HasSubstr(other)));
  }
}

TEST_F(ProgramsTest, TimesToLiveAndDeadlines) {
  Node node;
  const auto run = [&](const Arguments& extra) {
    Arguments arguments = {"--model",   kModel,        "--attention", "exact",
                           "--prompts", GoodPrompts(), "--nodes",     node.control()};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    return Generate(arguments);
  };
  for (const char* deadline : {"0", "0s", "999us"}) {
    const Ran ran = run({"--deadline", deadline});
    EXPECT_EQ(ran.exit, kUsage) << deadline;
    EXPECT_THAT(ran.errors, AllOf(HasSubstr("--deadline"), HasSubstr("1ms")));
  }
  for (const char* ttl : {"0", "1ns", "999ms", "200000h"}) {
    const Ran ran = run({"--ttl", ttl});
    EXPECT_EQ(ran.exit, 0) << ttl << ran.errors;
  }
}

// A node that takes connections and never answers.
TEST_F(ProgramsTest, NodesThatDoNotAnswer) {
  Node node;
  node.Stop();
  const Ran worker = Generate({"--model", kModel, "--attention", "exact", "--prompts",
                               GoodPrompts(), "--nodes", node.control(), "--deadline", "500ms"});
  EXPECT_EQ(worker.exit, kUnavailable);
  EXPECT_THAT(worker.errors, HasSubstr(node.control()));
  EXPECT_LT(worker.seconds, 3);
  node.Continue();
}

TEST_F(ProgramsTest, OptionsThatDoNotFitTheModel) {
  Node node;
  const auto wrong = [&](const Arguments& extra) {
    Arguments arguments = {"--model",     kModel,    "--prompts",
                           GoodPrompts(), "--nodes", node.control()};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    return Generate(arguments);
  };
  const Ran layers = wrong({"--attention", "exact,exact,exact"});
  EXPECT_EQ(layers.exit, kUsage);
  EXPECT_THAT(layers.errors, AllOf(HasSubstr("3 layers"), HasSubstr("has 2")));
  const Ran heads = wrong({"--attention", "exact", "--head-shards", "3"});
  EXPECT_EQ(heads.exit, kUsage);
  EXPECT_THAT(heads.errors, AllOf(HasSubstr("head shards 3"), HasSubstr("2")));
  const Ran rows = wrong({"--attention", "exact", "--shard-rows", "100"});
  EXPECT_EQ(rows.exit, kUsage);
  EXPECT_THAT(rows.errors, AllOf(HasSubstr("100"), HasSubstr("4096")));
  const Ran collisions = wrong({"--tables", "5", "--min-collisions", "6"});
  EXPECT_EQ(collisions.exit, kUsage);
  EXPECT_THAT(collisions.errors, AllOf(HasSubstr("--min-collisions 6"), HasSubstr("--tables 5")));
}

// Stopped by a signal: what was answered stays, what was not says so, and the status is a shell's.
TEST_F(ProgramsTest, Signals) {
  for (const auto& [signal, exit] : {std::pair{SIGINT, 130}, std::pair{SIGTERM, 143}}) {
    Node node;
    Process worker(Binary("sounder_worker"),
                   {"generate", "--model", kModel, "--attention", "exact", "--nodes",
                    node.control(), "--threads", "1", "--window", "8", "--sinks", "2", "--batch",
                    "1", "--ucx-spin", "5us", "--prompts",
                    Prompts("{\"id\": \"short\", \"tokens\": [3], \"max_tokens\": 1}\n"
                            "{\"id\": \"long\", \"tokens\": [3, 4, 5], \"max_tokens\": 1000000}\n"
                            "{\"id\": \"waits\", \"tokens\": [3], \"max_tokens\": 1}\n")});
    ASSERT_TRUE(worker.WaitForLine("{", seconds(20)).has_value()) << worker.Errors();
    worker.Signal(signal);
    EXPECT_EQ(worker.Wait(seconds(10)), exit) << worker.Errors();
    EXPECT_THAT(worker.Errors(), AllOf(HasSubstr("2 of 3"), HasSubstr("stopped")));
    EXPECT_THAT(worker.Output(), AllOf(HasSubstr("\"waits\""), HasSubstr("CANCELLED")));
    wire::ControlClient control(node.control(), seconds(2));
    EXPECT_EQ(control.Status()->sessions, 0u);
  }
}

}  // namespace
}  // namespace sounder::e2e
