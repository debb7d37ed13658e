#include "gpu_worker/chat_command.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>

#include "common/config/option_set.h"
#include "gpu_worker/chat.h"
#include "gpu_worker/kv/keep_alive_thread.h"
#include "gpu_worker/worker.h"

namespace sounder::gpu_worker {
namespace {

// Chat templates are programs in Jinja, which nothing here runs.
void MentionTemplate(const std::string& model) {
  std::ifstream file(model + "/tokenizer_config.json");
  const nlohmann::json config = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  std::error_code none;
  const bool jinja = std::filesystem::exists(model + "/chat_template.jinja", none);
  if (!jinja && !(config.is_object() && config.contains("chat_template"))) return;
  std::fputs(
      "the model's chat template is not applied: give what it puts around a turn with --begin, "
      "--turn-prefix and --turn-suffix\n",
      stderr);
}

// Where the conversation is.
void ShowAdopted(const Conversation& conversation, const Tokenizer& words) {
  constexpr size_t kTokens = 40;
  const std::span<const int32_t> tokens = conversation.tokens();
  const absl::StatusOr<std::string> text =
      words.Decode(tokens.last(std::min(kTokens, tokens.size())));
  std::fprintf(stderr, "taken over: %zu tokens, which end with\n%s\n", tokens.size(),
               text.ok() ? text->c_str() : "?");
}

int RunChat(const ChatOptions& options) {
  StopSignals signals(StopSignals::Interrupt::kEndAnswer);
  Worker worker(options);
  if (const std::optional<int> exit = worker.Load()) return *exit;
  if (worker.words() == nullptr) {
    return Fail(kExitBadInput, absl::InvalidArgumentError("a chat needs a model with a "
                                                          "tokenizer.json"));
  }
  MentionTemplate(options.model);
  worker.generator_options().measure_nodes = true;
  worker.generator_options().stop = &signals.requested();
  OutputFile output;
  if (absl::Status status = output.Open(""); !status.ok()) return Fail(kExitBadInput, status);
  if (const std::optional<int> exit = worker.Connect()) return *exit;
  // Twice as often as the client tells the nodes at most.
  const base::Duration ttl = std::chrono::seconds(worker.generator_options().session.ttl_seconds);
  std::optional<KeepAliveThread> keep_alive;
  if (worker.client() != nullptr && ttl.count() > 0) keep_alive.emplace(worker.client(), ttl / 6);

  Conversation conversation(worker.generator_options(), worker.model(), worker.client(),
                            worker.clock());
  if (!options.adopt.empty()) {
    const absl::Status adopted = conversation.Adopt(*base::SessionId::Parse(options.adopt));
    if (!adopted.ok()) return Fail(ExitCodeOf(adopted), adopted);
    ShowAdopted(conversation, *worker.words());
  }
  LineReader input(STDIN_FILENO, signals.descriptor());
  ChatStyle style{options.begin, options.turn_prefix, options.turn_suffix, options.max_tokens,
                  ::isatty(STDIN_FILENO) == 1};
  if (style.prompt) std::fputs("/help lists what there is beside turns\n", stderr);
  Chat chat(std::move(style), &conversation, worker.words(), &input, &output, &signals);
  const absl::Status status = chat.Run();
  conversation.Reset();
  if (!output.status().ok()) return Fail(kExitUnavailable, output.status());
  if (signals.ended_by() != 0) return 128 + signals.ended_by();
  return status.ok() ? 0 : ExitCodeOf(status);
}

}  // namespace

int ChatCommand(int argc, const char* const* argv, const config::Environment& environment) {
  ChatOptions options;
  options.log_level = "warning";
  config::OptionSet set("sounder_worker chat", "Talks to a model, turn by turn.");
  Declare(set, &options);
  if (std::optional<int> exit = set.ParseOrExit(argc, argv, environment)) return *exit;
  return RunChat(options);
}

}  // namespace sounder::gpu_worker
