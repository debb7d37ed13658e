#include "gpu_worker/engine/conversation.h"

#include <chrono>
#include <utility>

#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace sounder::gpu_worker {
namespace {

constexpr char kPromptId[] = "chat";  // of SampleKeyOf

}  // namespace

Conversation::Conversation(GeneratorOptions options, LlamaModel* model, KvClient* client,
                           const base::Clock* clock)
    : runner_(std::move(options), model, client, clock), client_(client), clock_(clock) {}

Conversation::~Conversation() { Reset(); }

std::span<const int32_t> Conversation::tokens() const {
  return sequence_ != nullptr ? sequence_->tokens : history_;
}

absl::Status Conversation::Say(Turn turn, const OnTokens& on_tokens) {
  RETURN_IF_ERROR(runner_.CheckOptions());
  RETURN_IF_ERROR(runner_.CheckTurn(turn));
  const TurnBegin begin = Now();
  figures_ = TurnFigures{};
  figures_.prompt_tokens = static_cast<int64_t>(turn.tokens.size());
  absl::Status status = Answer(std::move(turn), on_tokens);
  if (status.ok() || (absl::IsCancelled(status) && sequence_ != nullptr)) {
    begins_.push_back(begin);
  } else {
    GiveUp(begin.tokens);
  }
  return status;
}

// Of tokens that will be computed again the last has no row yet, as after an answer.
Conversation::TurnBegin Conversation::Now() const {
  if (sequence_ != nullptr) {
    return {sequence_->tokens.size(), sequence_->positions, sequence_->steps};
  }
  const size_t rows = history_.empty() ? 0 : history_.size() - 1;
  return {history_.size(), static_cast<base::Position>(rows), 0};
}

absl::Status Conversation::Adopt(const base::SessionId& id) {
  CHECK(tokens().empty() && begins_.empty());
  RETURN_IF_ERROR(runner_.CheckOptions());
  ASSIGN_OR_RETURN(std::unique_ptr<Sequence> sequence, runner_.Adopt(id, 0));
  if (sequence->adopted.empty()) {
    return absl::FailedPreconditionError("session " + id.ToString() + " holds no rows");
  }
  Prompt all;
  all.id = kPromptId;
  all.tokens = sequence->adopted;
  all.max_tokens = 1;
  sequence->sample_key = SampleKeyOf(runner_.options().seed, all);
  runner_.BeginTurn(sequence.get(), std::move(all));
  sequence->marks.clear();  // where they are is not known
  Sequence* const alone[] = {sequence.get()};
  if (sequence->status.ok()) RETURN_IF_ERROR(runner_.Decode(alone, nullptr));
  RETURN_IF_ERROR(sequence->status);
  sequence_ = std::move(sequence);
  begins_.emplace_back();
  return absl::OkStatus();
}

base::SessionId Conversation::session() const {
  if (sequence_ == nullptr || sequence_->session == nullptr) return {};
  return sequence_->session->id();
}

absl::Status Conversation::Open(Turn* turn) {
  figures_.recomputed = static_cast<int64_t>(history_.size());
  turn->tokens.insert(turn->tokens.begin(), history_.begin(), history_.end());
  Prompt first;
  first.id = kPromptId;
  first.tokens = turn->tokens;
  const uint64_t sample_key = SampleKeyOf(runner_.options().seed, first);
  ASSIGN_OR_RETURN(sequence_, runner_.Open({}, sample_key));
  history_.clear();
  for (TurnBegin& begin : begins_) begin.steps = 0;  // none of theirs is taken again
  return absl::OkStatus();
}

absl::Status Conversation::Answer(Turn turn, const OnTokens& on_tokens) {
  const base::Time start = clock_->Now();
  if (sequence_ == nullptr) RETURN_IF_ERROR(Open(&turn));
  Sequence& sequence = *sequence_;
  runner_.BeginTurn(&sequence, std::move(turn));
  RETURN_IF_ERROR(runner_.Prefill(&sequence));
  const uint64_t bytes = AttendBytes();
  const uint64_t audits = runner_.audit_bytes();
  Sequence* const alone[] = {&sequence};
  while (!runner_.TurnEnded(sequence)) {
    if (runner_.Stopped()) {
      sequence.status = absl::CancelledError("stopped");
      break;
    }
    RETURN_IF_ERROR(runner_.Decode(alone, nullptr));
    if (sequence.generated() == 0) break;  // failed at its first step
    if (sequence.generated() == 1 && figures_.first_token_seconds == 0) {
      figures_.first_token_seconds = std::chrono::duration<double>(clock_->Now() - start).count();
    }
    if (sequence.status.ok()) {
      on_tokens(std::span(sequence.tokens).subspan(sequence.prompt_tokens));
    }
  }
  runner_.MeasureNodes(&sequence);
  NoteFigures(sequence, bytes, audits);
  // Stopped, it can go on: whatever is not computed yet is computed with the next turn.
  if (absl::IsCancelled(sequence.status)) return std::exchange(sequence.status, absl::OkStatus());
  return sequence.status;
}

void Conversation::NoteFigures(const Sequence& sequence, uint64_t bytes_before,
                               uint64_t audits_before) {
  figures_.generated = static_cast<int64_t>(sequence.generated());
  figures_.decode_seconds = sequence.decode_seconds;
  figures_.decode_steps = sequence.decode_steps;
  figures_.counts = sequence.counts;
  figures_.attend_bytes = AttendBytes() - bytes_before - (runner_.audit_bytes() - audits_before);
  figures_.node_memory = sequence.node_memory;
}

uint64_t Conversation::AttendBytes() const {
  return client_ == nullptr ? 0 : client_->counters().attend_bytes();
}

absl::Status Conversation::Undo() {
  if (begins_.empty()) return absl::FailedPreconditionError("there is no turn to undo");
  const TurnBegin begin = begins_.back();
  begins_.pop_back();
  // What a sequence draws from is a hash of its first turn: another one has a sequence of its own.
  if (begins_.empty() || !TakeBack(begin)) GiveUp(begin.tokens);
  return absl::OkStatus();
}

bool Conversation::TakeBack(const TurnBegin& begin) {
  if (sequence_ == nullptr || !runner_.TakeBack(sequence_.get(), begin.positions).ok())
    return false;
  sequence_->tokens.resize(begin.tokens);
  sequence_->turn_begin = sequence_->prompt_tokens = begin.tokens;
  sequence_->steps = begin.steps;
  sequence_->turn = turns();
  return true;
}

void Conversation::Reset() {
  GiveUp(0);
  begins_.clear();
}

void Conversation::GiveUp(size_t tokens) {
  if (sequence_ != nullptr) {
    history_ = std::move(sequence_->tokens);
    const absl::Status closed = runner_.Close(sequence_.get());
    if (close_failure_.ok()) close_failure_ = closed;
    sequence_ = nullptr;
  }
  history_.resize(tokens);
}

absl::Status Conversation::TakeCloseFailure() {
  return std::exchange(close_failure_, absl::OkStatus());
}

}  // namespace sounder::gpu_worker
