// A conversation at a terminal, or through pipes: a line is a turn, its answer comes token by
// token.
#ifndef SOUNDER_GPU_WORKER_CHAT_H_
#define SOUNDER_GPU_WORKER_CHAT_H_

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "gpu_worker/engine/conversation.h"
#include "gpu_worker/line_reader.h"
#include "gpu_worker/model/tokenizer.h"
#include "gpu_worker/output_file.h"
#include "gpu_worker/stop_signals.h"

namespace sounder::gpu_worker {

struct ChatStyle {
  std::string begin;        // text before the first turn
  std::string turn_prefix;  // text around each line
  std::string turn_suffix;
  int64_t max_tokens = 256;  // of an answer
  bool prompt = false;       // a "> " on stdout where a line is expected
};

// Answers go to `output` and nothing else; figures, notices and errors to stderr. Not thread safe;
// what it is made with outlives it.
class Chat {
 public:
  Chat(ChatStyle style, Conversation* conversation, const Tokenizer* words, LineReader* input,
       OutputFile* output, StopSignals* signals);

  // Until /quit, the end of the input, or a signal. OK, or why the first turn that failed did.
  absl::Status Run();

 private:
  // Whether to go on.
  bool Obey(const std::string& command);
  void Say(const std::string& line);
  void Stream(std::span<const int32_t> generated);
  void ShowFigures();
  void ShowConversation() const;
  void NoteCloseFailure();
  // Whether to go on after an interrupt with no answer to end.
  bool Interrupted();

  const ChatStyle style_;
  Conversation* const conversation_;
  const Tokenizer* const words_;
  LineReader* const input_;
  OutputFile* const output_;
  StopSignals* const signals_;
  std::string streamed_;      // of the answer
  bool interrupted_ = false;  // since the last line
  absl::Status first_failure_;
};

// One line: tokens, speed, rows read, error, bytes, memory; what is not known is left out.
std::string Describe(int64_t turn, const TurnFigures& figures);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_CHAT_H_
