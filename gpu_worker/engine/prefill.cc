// How the prompts of turns are computed: everything here while nothing is on the nodes, then block
// by block against what is.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "gpu_worker/engine/sequence_runner.h"

namespace sounder::gpu_worker {

absl::Status SequenceRunner::CheckTurn(const Turn& turn) const {
  if (turn.tokens.empty()) return absl::InvalidArgumentError("the prompt has no tokens");
  const int64_t vocab = model_->config().vocab_size;
  for (const int32_t token : turn.tokens) {
    if (token >= 0 && token < vocab) continue;
    return absl::InvalidArgumentError(absl::StrCat("token ", token, " is not in [0, ", vocab, ")"));
  }
  return absl::OkStatus();
}

void SequenceRunner::BeginTurn(Sequence* sequence, Turn turn) {
  ++sequence->turn;
  sequence->turn_begin = sequence->prompt_tokens = sequence->tokens.size();
  sequence->max_tokens = turn.max_tokens;
  sequence->forced = std::move(turn.forced);
  // The new queries look elsewhere: what the nodes are told about the last ones would mislead them.
  sequence->hints.clear();
  sequence->counts = AttentionCounts{};
  sequence->prefill_seconds = sequence->decode_seconds = 0;
  sequence->decode_steps = 0;
  sequence->node_memory = 0;
  if (sequence->status.ok()) sequence->status = CheckTurn(turn);
  if (!sequence->status.ok()) return;
  sequence->tokens.insert(sequence->tokens.end(), turn.tokens.begin(), turn.tokens.end());
  sequence->prompt_tokens = sequence->tokens.size();
  if (sequence->adopted.empty()) return;
  sequence->status = Replay(sequence);
  if (!sequence->status.ok()) sequence->session = nullptr;
}

absl::Status SequenceRunner::Prefill(Sequence* sequence) {
  if (!sequence->status.ok()) return absl::OkStatus();
  // Of an adopted sequence that is further.
  if (sequence->generated() > 0 || !sequence->adopted.empty()) return absl::OkStatus();
  const base::Time start = clock_->Now();
  const auto end = static_cast<int64_t>(sequence->tokens.size()) - 1;
  while (sequence->positions < end && sequence->status.ok()) {
    if (Stopped()) {
      sequence->status = absl::CancelledError("stopped");
      break;
    }
    RETURN_IF_ERROR(PrefillBlock(sequence, NextBlock(*sequence, end - sequence->positions)));
    const bool full = options_.prefill_local_rows > 0 && sequence->session != nullptr &&
                      sequence->positions >= options_.prefill_local_rows;
    // The last block goes with its seal mark.
    if (sequence->positions < end && (full || sequence->shipped > 0)) Ship(sequence, false);
  }
  if (sequence->status.ok()) {
    const bool mark = IsMark(*sequence, sequence->positions);
    if (mark) sequence->marks.push_back(sequence->positions);
    Ship(sequence, mark);
  }
  sequence->prefill_seconds = SecondsSince(start);
  return absl::OkStatus();
}

int64_t SequenceRunner::NextBlock(const Sequence& sequence, int64_t left) const {
  int64_t count = std::min(options_.prefill_tokens, left);
  if (options_.prefill_local_rows > 0 && sequence.shipped == 0 && sequence.session != nullptr) {
    count = std::min(count, options_.prefill_local_rows - sequence.positions);
  }
  CHECK(count > 0);
  return count;
}

// Always after the first turn: that is the bulk of most sessions. Short turns after it, each a
// segment that is too short for an index, would be attended exactly for as long as the session
// lives.
bool SequenceRunner::IsMark(const Sequence& sequence, base::Position position) const {
  if (position == 0) return false;
  if (sequence.turn == 1) return true;
  const RemoteSessionOptions& session =
      sequence.session != nullptr ? sequence.session->options() : options_.session;
  base::Position last = position / session.seal_rows * session.seal_rows;
  if (!sequence.marks.empty()) last = std::max(last, sequence.marks.back());
  return position - last >= int64_t{session.min_indexed_rows};
}

absl::Status SequenceRunner::PrefillBlock(Sequence* sequence, int64_t count) {
  std::vector<int64_t> positions(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) positions[static_cast<size_t>(i)] = sequence->positions + i;
  ForwardBatch batch;
  batch.tokens = std::span(sequence->tokens)
                     .subspan(static_cast<size_t>(sequence->positions), static_cast<size_t>(count));
  batch.positions = positions;
  attention_.Begin({{sequence, 0, count, /*prefill=*/true}});
  RETURN_IF_ERROR(model_->Forward(batch, attention_, {}));
  sequence->positions += count;
  return absl::OkStatus();
}

}  // namespace sounder::gpu_worker
