// One sequence that goes on: turns are said to it one after the other, as somebody thinks of them.
#ifndef SOUNDER_GPU_WORKER_ENGINE_CONVERSATION_H_
#define SOUNDER_GPU_WORKER_ENGINE_CONVERSATION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/engine/sequence_runner.h"

namespace sounder::gpu_worker {

// Of one turn.
struct TurnFigures {
  int64_t prompt_tokens = 0;  // the turn's own
  int64_t recomputed = 0;     // tokens of earlier turns that had to be computed again
  int64_t generated = 0;
  double first_token_seconds = 0;  // from the call to the first token; 0: there was none
  double decode_seconds = 0;
  int64_t decode_steps = 0;
  AttentionCounts counts;
  uint64_t attend_bytes = 0;  // of decode, sent and received, audits left out
  uint64_t node_memory = 0;   // accounted bytes on all nodes, where options.measure_nodes
};

// Not thread safe; what it is made with outlives it. Between turns its session stays open on the
// nodes, and lives as long as somebody calls KvClient::KeepAlive.
class Conversation {
 public:
  // `options.batch` means nothing here. `client` is null when every layer is local.
  Conversation(GeneratorOptions options, LlamaModel* model, KvClient* client,
               const base::Clock* clock);
  ~Conversation();
  Conversation(const Conversation&) = delete;
  Conversation& operator=(const Conversation&) = delete;

  // Goes on with the session that another worker left, where nothing was said yet: all of it counts
  // as one turn. The newest token, whose row no node has, is decoded again. As
  // SequenceRunner::Adopt, and FAILED_PRECONDITION for a session without rows; after an error the
  // session is left to whoever adopts it next.
  absl::Status Adopt(const base::SessionId& id);
  // Of the open session on the nodes; empty: there is none.
  base::SessionId session() const;

  // Called after each token, with all that the turn has generated so far.
  using OnTokens = std::function<void(std::span<const int32_t> generated)>;
  // Adds a turn and generates its answer. CANCELLED when it was stopped: what there is of it stays
  // (nothing, if it was stopped before it had a session). After any other failure the conversation
  // is what it was before, but its session is gone: the next turn opens another and computes
  // everything again.
  absl::Status Say(Turn turn, const OnTokens& on_tokens);

  // Forgets the last turn and its answer: the session is cut off where they began, and goes on from
  // there as if they had never been. Where that is not possible (no session is open after a turn
  // failed, the nodes do not answer, or nothing is left) the session is given up, and the next turn
  // opens another and computes everything again. FAILED_PRECONDITION if there is no turn.
  absl::Status Undo();
  // Forgets everything.
  void Reset();

  // Whether the next turn computes the earlier ones again.
  bool recomputes() const { return sequence_ == nullptr && !history_.empty(); }
  int64_t turns() const { return static_cast<int64_t>(begins_.size()); }
  // Of all turns and answers.
  std::span<const int32_t> tokens() const;
  // Of the last turn that was said, also if it failed.
  const TurnFigures& figures() const { return figures_; }
  // Why a session could not be freed, once since the last call; it ends by its TTL.
  absl::Status TakeCloseFailure();

 private:
  absl::Status Answer(Turn turn, const OnTokens& on_tokens);
  absl::Status Open(Turn* turn);
  void NoteFigures(const Sequence& sequence, uint64_t bytes_before, uint64_t audits_before);
  uint64_t AttendBytes() const;
  // What there was before a turn.
  struct TurnBegin {
    size_t tokens = 0;
    base::Position positions = 0;  // rows
    int64_t steps = 0;             // of the sequence
  };
  TurnBegin Now() const;
  // Takes the open sequence back to there; false: it can only be given up.
  bool TakeBack(const TurnBegin& begin);
  // Keeps the first tokens and closes the session.
  void GiveUp(size_t tokens);

  SequenceRunner runner_;
  KvClient* const client_;
  const base::Clock* const clock_;
  std::unique_ptr<Sequence> sequence_;  // null: to be made of history_
  std::vector<int32_t> history_;        // while there is no sequence
  std::vector<TurnBegin> begins_;       // of the turns
  TurnFigures figures_;
  absl::Status close_failure_;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_ENGINE_CONVERSATION_H_
