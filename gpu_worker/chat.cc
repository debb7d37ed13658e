#include "gpu_worker/chat.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/absl_text.h"

namespace sounder::gpu_worker {
namespace {

constexpr char kHelp[] =
    "A line is a turn. Ctrl-C ends an answer; twice, or Ctrl-D, ends the program.\n"
    "  /help   this text\n"
    "  /reset  forget everything and begin anew\n"
    "  /undo   forget the last turn and its answer\n"
    "  /stats  what there is of the conversation\n"
    "  /quit   end\n"
    "A line that begins with // is a turn that begins with /.\n";

void Notice(const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); }

double Ratio(double a, double b) { return b > 0 ? a / b : 0.0; }

}  // namespace

std::string Describe(int64_t turn, const TurnFigures& figures) {
  const AttentionCounts& counts = figures.counts;
  std::string text = absl::StrFormat("[turn %d: %d tokens", turn, figures.prompt_tokens);
  if (figures.recomputed > 0) absl::StrAppendFormat(&text, " (+ %d again)", figures.recomputed);
  absl::StrAppendFormat(&text, ", %d generated", figures.generated);
  const auto steps = static_cast<double>(figures.decode_steps);
  if (figures.first_token_seconds > 0) {
    absl::StrAppendFormat(&text, ", first after %.2f s, %.1f tokens/s", figures.first_token_seconds,
                          Ratio(steps, figures.decode_seconds));
  }
  if (counts.rows_visible > 0) {
    absl::StrAppendFormat(&text, ", %.2f %% of rows read",
                          100 * Ratio(static_cast<double>(counts.rows_read),
                                      static_cast<double>(counts.rows_visible)));
  }
  if (counts.audited > 0) {
    absl::StrAppendFormat(&text, ", attention error %.4f",
                          counts.audited_error / static_cast<double>(counts.audited));
  }
  if (figures.attend_bytes > 0) {
    absl::StrAppendFormat(&text, ", %.1f KiB/step",
                          Ratio(static_cast<double>(figures.attend_bytes), steps) / 1024);
  }
  if (figures.node_memory > 0) {
    absl::StrAppendFormat(&text, ", nodes hold %.1f MiB",
                          static_cast<double>(figures.node_memory) / (1 << 20));
  }
  return text + "]";
}

Chat::Chat(ChatStyle style, Conversation* conversation, const Tokenizer* words, LineReader* input,
           OutputFile* output, StopSignals* signals)
    : style_(std::move(style)),
      conversation_(conversation),
      words_(words),
      input_(input),
      output_(output),
      signals_(signals) {}

absl::Status Chat::Run() {
  for (bool go_on = true; go_on && output_->status().ok();) {
    if (signals_->ended_by() != 0) break;
    if (style_.prompt) output_->Write("> ");
    std::string line;
    switch (input_->Next(&line)) {
      case LineReader::Outcome::kEnd:
        go_on = false;
        break;
      case LineReader::Outcome::kWoken:
        go_on = Interrupted();
        break;
      case LineReader::Outcome::kTooLong:
        Notice("that line is too long");
        break;
      case LineReader::Outcome::kLine:
        interrupted_ = false;
        if (line.starts_with("/") && !line.starts_with("//")) {
          go_on = Obey(line);
        } else if (line.find_first_not_of(" \t") != std::string::npos) {
          Say(line.substr(line.starts_with("//") ? 1 : 0));
        }
        break;
    }
  }
  return first_failure_;
}

bool Chat::Interrupted() {
  signals_->Consume();
  if (signals_->ended_by() != 0) return false;
  if (std::exchange(interrupted_, true)) {
    signals_->End();
    return false;
  }
  Notice("\nCtrl-C again, or /quit, to end");
  return true;
}

bool Chat::Obey(const std::string& command) {
  const std::string name = command.substr(0, command.find_last_not_of(" \t") + 1);
  if (name == "/quit" || name == "/exit" || name == "/bye") return false;
  if (name == "/help") {
    std::fputs(kHelp, stderr);
  } else if (name == "/reset") {
    conversation_->Reset();
    Notice("begun anew");
  } else if (name == "/undo") {
    const absl::Status status = conversation_->Undo();
    Notice(status.ok() ? absl::StrFormat(
                             "undone; turns left: %d%s", conversation_->turns(),
                             conversation_->recomputes() ? ", computed again with the next" : "")
                       : base::MessageOf(status));
  } else if (name == "/stats") {
    ShowConversation();
  } else {
    Notice(name + " is no command; /help lists them");
  }
  NoteCloseFailure();
  return true;
}

void Chat::Say(const std::string& line) {
  const bool first = conversation_->tokens().empty();
  Turn turn;
  absl::StatusOr<std::vector<int32_t>> tokens =
      words_->Encode((first ? style_.begin : "") + style_.turn_prefix + line + style_.turn_suffix);
  if (!tokens.ok()) {
    Notice(base::MessageOf(tokens.status()));
    if (first_failure_.ok()) first_failure_ = tokens.status();
    return;
  }
  turn.tokens = *std::move(tokens);
  turn.max_tokens = style_.max_tokens;
  streamed_.clear();
  const absl::Status status = conversation_->Say(
      std::move(turn), [this](std::span<const int32_t> generated) { Stream(generated); });
  output_->Write("\n");
  if (absl::IsCancelled(status)) {
    interrupted_ = true;
    signals_->Consume();
  } else if (!status.ok()) {
    if (first_failure_.ok()) first_failure_ = status;
    Notice("failed: " + base::MessageOf(status));
    Notice(
        absl::StrCat("the turn is forgotten; ",
                     conversation_->recomputes() ? "the next one computes the others again, " : "",
                     "/reset begins anew"));
  }
  if (status.ok() || absl::IsCancelled(status)) ShowFigures();
  NoteCloseFailure();
}

// What has come to the text of the answer since the last token.
void Chat::Stream(std::span<const int32_t> generated) {
  const absl::StatusOr<std::string> text = words_->Decode(generated);
  if (!text.ok() || !text->starts_with(streamed_)) return;
  output_->Write(text->substr(streamed_.size()));
  streamed_ = *text;
}

void Chat::ShowFigures() { Notice(Describe(conversation_->turns(), conversation_->figures())); }

void Chat::ShowConversation() const {
  const base::SessionId session = conversation_->session();
  Notice(absl::StrFormat("%d turns, %d tokens%s", conversation_->turns(),
                         conversation_->tokens().size(),
                         session.empty() ? "" : ", session " + session.ToString()));
  if (conversation_->turns() > 0) {
    Notice(Describe(conversation_->turns(), conversation_->figures()));
  }
}

void Chat::NoteCloseFailure() {
  const absl::Status status = conversation_->TakeCloseFailure();
  if (status.ok()) return;
  Notice("the session could not be freed, and ends by its --ttl: " + base::MessageOf(status));
}

}  // namespace sounder::gpu_worker
