#include "gpu_worker/engine/generator.h"

#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "common/base/absl_text.h"
#include "common/base/status_macros.h"
#include "common/config/logging.h"

namespace sounder::gpu_worker {
namespace {

// Reports turns [first, last] of a prompt that were not begun.
void ReportUnbegun(const Prompt& prompt, int64_t first, int64_t last, const absl::Status& status,
                   const Generator::Done& done) {
  for (int64_t turn = first; turn <= last; ++turn) {
    Sequence unbegun;
    unbegun.id = prompt.id;
    unbegun.numeric_id = prompt.numeric_id;
    unbegun.in_turns = prompt.in_turns;
    unbegun.turn = turn;
    unbegun.last_turn = turn == last;
    unbegun.status = status;
    done(unbegun);
  }
}

}  // namespace

uint64_t SampleKeyOf(uint64_t seed, const Prompt& prompt) {
  const uint64_t of_id = XXH3_64bits_withSeed(prompt.id.data(), prompt.id.size(), seed);
  return XXH3_64bits_withSeed(prompt.tokens.data(), prompt.tokens.size() * sizeof(int32_t), of_id);
}

absl::Status Generator::Run(std::vector<Prompt> prompts, const Done& done,
                            const LogitsSink& logits) {
  RETURN_IF_ERROR(runner_.CheckOptions());
  std::vector<Active> active;
  const absl::Status status = RunAll(&prompts, &active, done, logits);
  for (Active& entry : active) {  // only after an error
    if (entry.sequence->status.ok()) entry.sequence->status = status;
  }
  EndFinished(&active, done);
  return status;
}

absl::Status Generator::RunAll(std::vector<Prompt>* prompts, std::vector<Active>* active,
                               const Done& done, const LogitsSink& logits) {
  size_t next = 0;
  while (next < prompts->size() || !active->empty()) {
    if (runner_.Stopped()) {
      for (Active& entry : *active) {
        if (runner_.TurnEnded(*entry.sequence)) continue;  // its answer is complete
        entry.sequence->status = absl::CancelledError("stopped");
      }
    }
    while (next < prompts->size() &&
           static_cast<int64_t>(active->size()) < runner_.options().batch) {
      RETURN_IF_ERROR(Admit(std::move((*prompts)[next++]), active, done));
    }
    EndFinished(active, done);
    bool began = false;
    RETURN_IF_ERROR(BeginNextTurns(active, done, &began));
    if (began || active->empty()) continue;
    RETURN_IF_ERROR(Decode(*active, logits));
  }
  return absl::OkStatus();
}

absl::Status Generator::Admit(Prompt prompt, std::vector<Active>* active, const Done& done) {
  const auto open = [&]() -> absl::StatusOr<std::unique_ptr<Sequence>> {
    RETURN_IF_ERROR(runner_.CheckTurn(prompt));
    const uint64_t sample_key = SampleKeyOf(runner_.options().seed, prompt);
    return prompt.adopt.empty() ? runner_.Open(prompt.session, sample_key)
                                : runner_.Adopt(prompt.adopt, sample_key);
  };
  absl::StatusOr<std::unique_ptr<Sequence>> opened = open();
  if (!opened.ok()) {  // this prompt cannot be served; the others can
    const auto turns = static_cast<int64_t>(prompt.later_turns.size()) + 1;
    ReportUnbegun(prompt, 1, turns, opened.status(), done);
    return absl::OkStatus();
  }
  Active& entry = active->emplace_back();
  entry.sequence = *std::move(opened);
  entry.sequence->id = std::move(prompt.id);
  entry.sequence->numeric_id = prompt.numeric_id;
  entry.sequence->in_turns = prompt.in_turns;
  entry.sequence->last_turn = prompt.later_turns.empty();
  entry.later = std::move(prompt.later_turns);
  std::reverse(entry.later.begin(), entry.later.end());
  runner_.BeginTurn(entry.sequence.get(), std::move(prompt));
  return runner_.Prefill(entry.sequence.get());
}

absl::Status Generator::BeginNextTurns(std::vector<Active>* active, const Done& done, bool* began) {
  for (Active& entry : *active) {
    if (!runner_.TurnEnded(*entry.sequence)) continue;
    runner_.MeasureNodes(entry.sequence.get());
    done(*entry.sequence);
    Turn turn = std::move(entry.later.back());
    entry.later.pop_back();
    entry.sequence->last_turn = entry.later.empty();
    runner_.BeginTurn(entry.sequence.get(), std::move(turn));
    RETURN_IF_ERROR(runner_.Prefill(entry.sequence.get()));
    *began = true;
  }
  return absl::OkStatus();
}

// Failures are reported first: closing the sessions may take a node's deadline once more.
void Generator::EndFinished(std::vector<Active>* active, const Done& done) {
  std::vector<Active> finished;
  for (auto entry = active->begin(); entry != active->end();) {
    const bool failed = !entry->sequence->status.ok();
    if (!failed && (!entry->later.empty() || !runner_.TurnEnded(*entry->sequence))) {
      ++entry;
      continue;
    }
    finished.push_back(std::move(*entry));
    entry = active->erase(entry);
  }
  for (const auto& [sequence, later] : finished) {
    if (sequence->status.ok()) continue;
    done(*sequence);
    Prompt prompt;
    prompt.id = sequence->id;
    prompt.numeric_id = sequence->numeric_id;
    prompt.in_turns = sequence->in_turns;
    const int64_t next = sequence->turn + 1;
    ReportUnbegun(prompt, next, sequence->turn + static_cast<int64_t>(later.size()),
                  sequence->status, done);
  }
  for (const auto& [sequence, later] : finished) {
    const bool failed = !sequence->status.ok();
    if (!failed) runner_.MeasureNodes(sequence.get());
    if (const absl::Status closed = runner_.Close(sequence.get()); !closed.ok()) {
      ++failed_closes_;
      config::LogWarning("the session of prompt '" + sequence->id +
                         "' could not be closed: " + base::MessageOf(closed));
    }
    if (!failed) done(*sequence);
  }
}

absl::Status Generator::Decode(const std::vector<Active>& active, const LogitsSink& logits) {
  std::vector<Sequence*> sequences;
  for (const Active& entry : active) sequences.push_back(entry.sequence.get());
  return runner_.Decode(sequences, logits);
}

}  // namespace sounder::gpu_worker
