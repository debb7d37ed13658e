// `sounder_worker chat` over real nodes, through pipes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "common/wire/control_client.h"
#include "tests/e2e/processes.h"

namespace sounder::e2e {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kModel[] = "tests/models/two_tasks";
// Answers in the model's words, which it repeats for ever.
const char* const kTurns[] = {
    "ashbank red the and of ashbarn orange the and recall ashbank",
    "the of and to in ashbarn blue the and recall ashbarn",
    "apple banana apple the and of apple to in the most",
};

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

int Count(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

class ChatTest : public testing::Test {
 protected:
  ChatTest() : nodes_(StartNodes(2, {"--threads", "1"})) {}

  // Windows and segments small enough that short turns need the nodes.
  Arguments Options(const std::string& command, const Arguments& more = {}) const {
    Arguments arguments = {command,
                           "--model",
                           kModel,
                           "--nodes",
                           ControlList(nodes_),
                           "--attention",
                           "exact",
                           "--dtype",
                           "f32",
                           "--sinks",
                           "2",
                           "--window",
                           "4",
                           "--seal-rows",
                           "16",
                           "--shard-rows",
                           "16",
                           "--threads",
                           "1",
                           "--deadline",
                           "1500ms"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  std::unique_ptr<Process> Chat(const Arguments& more = {"--max-tokens", "6"}) const {
    Arguments arguments = Options("chat", {"--begin", "<s> "});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return std::make_unique<Process>(Binary("sounder_worker"), arguments, false,
                                     /*with_input=*/true);
  }
  // Waits until its answers and notices hold so many of `part`.
  static bool Says(Process& chat, const std::string& part, int times = 1) {
    return Eventually([&] { return Count(chat.Errors(), part) >= times; });
  }
  size_t SessionsOnNodes() const {
    size_t sessions = 0;
    for (const auto& node : nodes_) {
      const auto list = wire::ControlClient(node->control(), seconds(2)).List();
      EXPECT_TRUE(list.ok()) << list.status();
      if (list.ok()) sessions += list->size();
    }
    return sessions;
  }

  std::vector<std::unique_ptr<Node>> nodes_;
};

// Line by line what the same turns in a file are answered with.
TEST_F(ChatTest, AnswersAsAFileOfTurnsIsAnswered) {
  const TemporaryFolder folder;
  nlohmann::json prompt = {{"turns", nlohmann::json::array()}, {"max_tokens", 6}};
  for (const char* turn : kTurns) {
    prompt["turns"].push_back((prompt["turns"].empty() ? "<s> " : "") + std::string(turn));
  }
  const Ran generated = RunProgram(
      "sounder_worker",
      Options("generate", {"--prompts", folder.Write("turns.jsonl", prompt.dump() + "\n"),
                           "--summary", folder.Path("summary")}));
  ASSERT_EQ(generated.exit, 0) << generated.errors;
  std::vector<std::string> expected;
  for (const std::string& line : Lines(generated.output)) {
    const nlohmann::json answer = nlohmann::json::parse(line);
    expected.push_back(answer.at("text"));
    EXPECT_EQ(answer.at("turn"), expected.size());
    EXPECT_EQ(answer.at("status"), "OK");
    EXPECT_EQ(answer.contains("prefill_rows_loaded"), expected.size() > 1) << line;
  }
  ASSERT_EQ(expected.size(), 3u);
  const nlohmann::json summary = nlohmann::json::parse(ReadFile(folder.Path("summary")));
  EXPECT_EQ(summary.at("prompts"), 1);
  EXPECT_EQ(summary.at("turns"), 3);

  const auto chat = Chat();
  for (const char* turn : kTurns) chat->Send(std::string(turn) + "\n");
  chat->CloseInput();
  EXPECT_EQ(chat->Wait(seconds(10)), 0) << chat->Errors();
  EXPECT_EQ(Lines(chat->Output()), expected) << chat->Errors();
  for (const char* figures : {"[turn 1: 12 tokens, 6 generated, first after ", " tokens/s",
                              "[turn 3: ", " KiB/step", "nodes hold "}) {
    EXPECT_THAT(chat->Errors(), HasSubstr(figures));
  }
  EXPECT_EQ(SessionsOnNodes(), 0u);
}

TEST_F(ChatTest, Commands) {
  const auto chat = Chat({"--max-tokens", "6", "--attention", "sketch", "--min-indexed-rows", "8",
                          "--rows", ".3", "--audit-every", "1", "--turn-suffix", " the"});
  chat->Send("/help\n/undo\n\n  \n/nothing\n");
  ASSERT_TRUE(Says(*chat, "/nothing is no command"));
  EXPECT_THAT(chat->Errors(), AllOf(HasSubstr("/quit"), HasSubstr("no turn to undo")));
  for (const char* turn : kTurns) chat->Send(std::string(turn) + "\n");
  ASSERT_TRUE(Says(*chat, "[turn 3:"));
  EXPECT_THAT(chat->Errors(), AllOf(HasSubstr("of rows read"), HasSubstr("attention error")));
  chat->Send("/stats\n/undo\n");
  ASSERT_TRUE(Says(*chat, "turns left: 2"));
  EXPECT_THAT(chat->Errors(), HasSubstr("\n3 turns, "));
  EXPECT_EQ(SessionsOnNodes(), 2u) << "undo cuts the session off";
  chat->Send(std::string(kTurns[2]) + "\n");
  ASSERT_TRUE(Says(*chat, "[turn 3:", 2));
  EXPECT_THAT(chat->Errors(), Not(HasSubstr(" again)")));
  chat->Send("/reset\n");
  chat->Send(std::string(kTurns[0]) + "\n/quit\nnever read\n");
  EXPECT_EQ(chat->Wait(seconds(10)), 0) << chat->Errors();
  const std::vector<std::string> answers = Lines(chat->Output());
  ASSERT_EQ(answers.size(), 5u) << chat->Output();
  EXPECT_EQ(answers[4], answers[0]) << "after a reset the first turn is the first turn again";
  EXPECT_EQ(SessionsOnNodes(), 0u);
}

TEST_F(ChatTest, UndoneTurnsLeaveNothing) {
  const auto chat = Chat();
  chat->Send(std::string(kTurns[0]) + "\n" + kTurns[1] + "\n/undo\n" + kTurns[2] + "\n/undo\n" +
             kTurns[1] + "\n");
  chat->CloseInput();
  EXPECT_EQ(chat->Wait(seconds(10)), 0) << chat->Errors();
  const std::vector<std::string> answers = Lines(chat->Output());
  ASSERT_EQ(answers.size(), 4u);
  EXPECT_EQ(answers[3], answers[1]) << "exact: as if the other turn had never been";
  EXPECT_THAT(chat->Errors(), Not(HasSubstr(" again)"))) << "and nothing was computed again";
}

TEST_F(ChatTest, InterruptsEndTheAnswerThenTheProgram) {
  const auto chat = Chat({"--max-tokens", "1000000"});
  chat->Send(std::string(kTurns[0]) + "\n");
  ASSERT_TRUE(Eventually([&] {
    chat->Wait(milliseconds(0));  // reads
    return chat->Output().size() > 100;
  }));
  EXPECT_EQ(Count(chat->Output(), "\n"), 0) << "it is still being answered";
  chat->Signal(SIGINT);
  ASSERT_TRUE(Says(*chat, "[turn 1:"));
  chat->Send(std::string(kTurns[1]) + "\n");  // it goes on
  ASSERT_TRUE(Eventually([&] {
    chat->Wait(milliseconds(0));
    return chat->Output().size() > chat->Output().find('\n') + 100;
  }));
  chat->Signal(SIGINT);
  ASSERT_TRUE(Says(*chat, "[turn 2:"));
  EXPECT_EQ(SessionsOnNodes(), 2u);
  chat->Signal(SIGINT);
  EXPECT_EQ(chat->Wait(seconds(10)), 130) << chat->Errors();
  EXPECT_EQ(SessionsOnNodes(), 0u);
}

TEST_F(ChatTest, InterruptsWithoutAnAnswerWarnOnce) {
  const auto chat = Chat();
  chat->Send("/stats\n");
  ASSERT_TRUE(Says(*chat, "0 turns"));
  chat->Signal(SIGINT);
  ASSERT_TRUE(Says(*chat, "Ctrl-C again"));
  chat->Send("/stats\n");  // whoever goes on is warned again
  ASSERT_TRUE(Says(*chat, "0 turns", 2));
  chat->Signal(SIGINT);
  ASSERT_TRUE(Says(*chat, "Ctrl-C again", 2));
  chat->Signal(SIGINT);
  EXPECT_EQ(chat->Wait(seconds(10)), 130);

  const auto terminated = Chat({"--max-tokens", "1000000"});
  terminated->Send(std::string(kTurns[0]) + "\n");
  ASSERT_TRUE(Eventually([&] {
    terminated->Wait(milliseconds(0));
    return !terminated->Output().empty();
  }));
  terminated->Signal(SIGTERM);
  EXPECT_EQ(terminated->Wait(seconds(10)), 143) << terminated->Errors();
  EXPECT_EQ(SessionsOnNodes(), 0u);
}

TEST_F(ChatTest, GoesOnWhenANodeIsBack) {
  const auto chat = Chat();
  chat->Send(std::string(kTurns[0]) + "\n");
  ASSERT_TRUE(Says(*chat, "[turn 1:"));
  nodes_[1]->Kill();
  chat->Send(std::string(kTurns[1]) + "\n");
  ASSERT_TRUE(Says(*chat, "failed: "));
  EXPECT_THAT(chat->Errors(), AllOf(HasSubstr("node 127.0.0.1:"), HasSubstr("/reset begins anew")));
  nodes_[1]->Restart();
  // The turn that was answered is still known: it is computed again with the next that the node,
  // which is away until it was tried again, can answer.
  const char kAnswered[] = "[turn 2: 11 tokens (+ 18 again)";
  for (int failures = 1; Count(chat->Errors(), kAnswered) == 0; ++failures) {
    ASSERT_EQ(Count(chat->Errors(), "failed: "), failures);
    ASSERT_LT(failures, 1000);
    chat->Send(std::string(kTurns[1]) + "\n");
    ASSERT_TRUE(Eventually([&] {
      return Count(chat->Errors(), "failed: ") > failures || Count(chat->Errors(), kAnswered) > 0;
    }));
  }
  chat->Send(std::string("/reset\n") + kTurns[0] + "\n");
  chat->CloseInput();
  EXPECT_EQ(chat->Wait(seconds(10)), 4) << "a turn failed: " << chat->Errors();
  const std::vector<std::string> answers = Lines(chat->Output());
  ASSERT_GE(answers.size(), 4u);
  EXPECT_EQ(answers[1], "");
  EXPECT_NE(answers[answers.size() - 2], "");
  EXPECT_EQ(answers.back(), answers[0]);
  EXPECT_EQ(SessionsOnNodes(), 0u);
}

// Somebody thinks for longer than a session lives without its worker.
TEST_F(ChatTest, PausesDoNotEndTheSession) {
  const auto chat = Chat({"--max-tokens", "6", "--ttl", "1s"});
  chat->Send(std::string(kTurns[0]) + "\n");
  ASSERT_TRUE(Says(*chat, "[turn 1:"));
  // The control: a session nobody keeps, opened after the chat's last word.
  wire::ControlClient control(nodes_[0]->control(), seconds(2));
  const auto sessions = control.List();
  ASSERT_TRUE(sessions.ok() && sessions->size() == 1u);
  wire::SessionSpec spec = sessions->front().spec;
  const base::SessionId kept = spec.session.id;
  spec.session.id = {1, 2};
  ASSERT_TRUE(control.Open(spec).ok());
  ASSERT_TRUE(Eventually(
      [&] {
        const auto list = control.List();
        return list.ok() && list->size() == 1u;
      },
      seconds(10)));
  EXPECT_EQ(control.List()->front().spec.session.id, kept);
  chat->Send(std::string(kTurns[1]) + "\n");
  chat->CloseInput();
  EXPECT_EQ(chat->Wait(seconds(10)), 0) << chat->Errors();
  EXPECT_THAT(chat->Errors(), AllOf(HasSubstr("[turn 2:"), Not(HasSubstr("again)"))));
}

// Whoever types goes on where a worker ended that was killed between turns.
TEST_F(ChatTest, AnotherWorkerTakesOver) {
  const auto undisturbed = Chat();
  for (const char* turn : kTurns) undisturbed->Send(std::string(turn) + "\n");
  undisturbed->CloseInput();
  EXPECT_EQ(undisturbed->Wait(seconds(10)), 0) << undisturbed->Errors();

  const auto killed = Chat();
  killed->Send(std::string(kTurns[0]) + "\n" + kTurns[1] + "\n/stats\n");
  ASSERT_TRUE(Says(*killed, "2 turns, "));
  const std::string stats = killed->Errors();
  const std::string session = stats.substr(stats.find(", session ") + 10, 32);
  ASSERT_TRUE(base::SessionId::Parse(session).has_value()) << stats;
  killed->Signal(SIGKILL);
  EXPECT_EQ(killed->Wait(seconds(10)), -SIGKILL);

  const auto other = Chat({"--max-tokens", "6", "--adopt", session});
  other->Send(std::string(kTurns[2]) + "\n");
  other->CloseInput();
  EXPECT_EQ(other->Wait(seconds(10)), 0) << other->Errors();
  EXPECT_THAT(other->Errors(), AllOf(HasSubstr("taken over: "), Not(HasSubstr(" again)"))));
  const std::vector<std::string> answers = Lines(undisturbed->Output());
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_THAT(Lines(other->Output()), testing::ElementsAre(answers[2]));
  EXPECT_EQ(SessionsOnNodes(), 0u);

  const Ran wrong = RunProgram("sounder_worker", Options("chat", {"--adopt", "no session"}));
  EXPECT_EQ(wrong.exit, 2);
  EXPECT_THAT(wrong.errors, HasSubstr("--adopt"));
  const Ran gone = RunProgram("sounder_worker", Options("chat", {"--adopt", session}));
  EXPECT_EQ(gone.exit, 3);
  EXPECT_THAT(gone.errors, HasSubstr("no node has session " + session));
}

// A worker is killed in the middle of an answer; with the same line another gives the whole of it.
TEST_F(ChatTest, AnotherWorkerFinishesTheAnswer) {
  const TemporaryFolder folder;
  nlohmann::json prompt = {{"id", "p"}, {"max_tokens", 300}};
  prompt["turns"] = {"<s> " + std::string(kTurns[0]), kTurns[1]};
  const auto arguments = [&] {
    return Options("generate", {"--prompts", folder.Write("prompts.jsonl", prompt.dump() + "\n")});
  };
  const auto tokens = [](const std::string& output) {
    std::vector<std::vector<int32_t>> answers;
    for (const std::string& line : Lines(output)) {
      const nlohmann::json answer = nlohmann::json::parse(line);
      EXPECT_EQ(answer.at("status"), "OK");
      answers.push_back(answer.at("tokens"));
    }
    return answers;
  };
  const Ran undisturbed = RunProgram("sounder_worker", arguments());
  ASSERT_EQ(undisturbed.exit, 0) << undisturbed.errors;
  const auto expected = tokens(undisturbed.output);
  ASSERT_EQ(expected.size(), 2u);

  wire::ControlClient control(nodes_[0]->control(), seconds(2));
  for (const uint64_t rows : {40, 200}) {  // of about 310, of one node
    prompt.erase("adopt");
    Process killed(Binary("sounder_worker"), arguments());
    base::SessionId session;
    ASSERT_TRUE(Eventually([&] {
      const auto list = control.List();
      if (!list.ok() || list->empty() || list->front().tokens < rows) return false;
      session = list->front().spec.session.id;
      return true;
    }));
    killed.Signal(SIGKILL);
    ASSERT_EQ(killed.Wait(seconds(10)), -SIGKILL) << "it was faster than this test";
    prompt["adopt"] = session.ToString();
    const Ran other = RunProgram("sounder_worker", arguments());
    EXPECT_EQ(other.exit, 0) << other.errors;
    EXPECT_EQ(tokens(other.output), expected);
    EXPECT_EQ(SessionsOnNodes(), 0u);
  }
}

TEST(ChatWithoutNodesTest, RefusalsAndLocalLayers) {
  Ran ran = RunProgram("sounder_worker", {"chat", "--model", kModel});
  EXPECT_EQ(ran.exit, 2);
  EXPECT_THAT(ran.errors, HasSubstr("--nodes"));
  ran = RunProgram("sounder_worker", {"chat", "--model", kModel, "--attention", "exact-local"});
  EXPECT_EQ(ran.exit, 0) << "nothing was said: " << ran.errors;
  ran = RunProgram("sounder_worker", {"chat", "--model", "tests/golden/llama/two_shards",
                                      "--attention", "exact-local"});
  EXPECT_EQ(ran.exit, 3);
  EXPECT_THAT(ran.errors, HasSubstr("tokenizer.json"));
  Process chat(Binary("sounder_worker"),
               {"chat", "--model", kModel, "--attention", "exact-local", "--max-tokens", "2"},
               false, /*with_input=*/true);
  chat.Send("the and recall ashbank\n//the");
  chat.CloseInput();
  EXPECT_EQ(chat.Wait(seconds(10)), 0) << chat.Errors();
  EXPECT_EQ(Lines(chat.Output()).size(), 2u) << "a last line without its end is one too";
}

}  // namespace
}  // namespace sounder::e2e
