// What is done with sequences: opened, prefilled turn by turn, decoded in batches, shipped to the
// nodes, closed. Who does it when is the caller's (generator.h: a list of prompts; conversation.h:
// one that goes on).
#ifndef SOUNDER_GPU_WORKER_ENGINE_SEQUENCE_RUNNER_H_
#define SOUNDER_GPU_WORKER_ENGINE_SEQUENCE_RUNNER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "gpu_worker/engine/prompt.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/engine/split_attention.h"
#include "gpu_worker/kv/kv_client.h"
#include "gpu_worker/model/forward.h"

namespace sounder::gpu_worker {

struct GeneratorOptions {
  SplitAttentionOptions attention;
  RemoteSessionOptions session;  // id is the prompt's
  int64_t batch = 8;             // sequences decoded together
  int64_t prefill_tokens = 512;  // prompt tokens per forward pass, at most
  // Rows of a prompt that are prefilled here before the nodes get them, at most; from there on they
  // are attended there, block by block. 0: all of the first turn's.
  int64_t prefill_local_rows = 0;
  // Of every random number the nodes draw for this run; see SampleKeyOf.
  uint64_t seed = 1;
  bool measure_nodes = false;  // ask the nodes for their memory as each turn ends
  // Set from outside (a signal): sequences end as CANCELLED, those not begun included, and their
  // sessions are closed. Looked at between passes of the model. May be null; outlives the
  // generator.
  const std::atomic<bool>* stop = nullptr;
};

// Per step of a sequence: the logits its next token was chosen from.
using LogitsSink = std::function<void(const Sequence& sequence, std::span<const float> logits)>;

// Not thread safe. What it is made with outlives it; `client` is null when every layer is local.
// A sequence that fails has its status set, and nothing more is done with it but Close; a returned
// error is one of the model, or of options, and ends all.
class SequenceRunner {
 public:
  SequenceRunner(GeneratorOptions options, LlamaModel* model, KvClient* client,
                 const base::Clock* clock);

  const GeneratorOptions& options() const { return options_; }
  // INVALID_ARGUMENT for options that do not fit each other.
  absl::Status CheckOptions() const;
  // INVALID_ARGUMENT for a turn without tokens, or with one that the model does not have.
  absl::Status CheckTurn(const Turn& turn) const;

  // A sequence without tokens, and its session on the nodes. `sample_key`: see SampleKeyOf.
  absl::StatusOr<std::unique_ptr<Sequence>> Open(const base::SessionId& id, uint64_t sample_key);
  // A sequence that another worker began, with the session it left on the nodes. Its turns are to
  // be given again, from the first: as far as the nodes have rows, they are answered with the
  // tokens of those, and from there on computed. The same sequence, but for what hints a sketch's
  // first steps would have had. FAILED_PRECONDITION for a session of another model or dtype,
  // without the index that is wanted, or without tokens; NOT_FOUND.
  absl::StatusOr<std::unique_ptr<Sequence>> Adopt(const base::SessionId& id, uint64_t sample_key);
  // Appends the turn's tokens; as CheckTurn, in the sequence's status, and FAILED_PRECONDITION
  // where the nodes have other tokens of an adopted sequence. If it cannot go on, its session is
  // left to whoever adopts it next.
  void BeginTurn(Sequence* sequence, Turn turn);
  // Computes the rows that are missing of all tokens but the last, exactly, and has them shipped.
  // The last token is the first to be decoded: so every token that is generated was computed with
  // the attention that was asked for. CANCELLED in the sequence's status when stopped.
  absl::Status Prefill(Sequence* sequence);
  // The next token of each; none has failed, nor ended its turn.
  absl::Status Decode(std::span<Sequence* const> sequences, const LogitsSink& logits);
  // The turn is answered, or the sequence has failed.
  bool TurnEnded(const Sequence& sequence) const;
  // Takes the sequence back to its first `positions` rows: those behind are given up, here and on
  // the nodes, and what the window wants of those before comes back from there. Its tokens are the
  // caller's to cut. After an error it can only be closed.
  absl::Status TakeBack(Sequence* sequence, base::Position positions);
  // Sets node_memory, if it is to be measured.
  void MeasureNodes(Sequence* sequence) const;
  // Frees the session on the nodes. What could not be closed ends by its TTL.
  absl::Status Close(Sequence* sequence);

  bool Stopped() const { return options_.stop != nullptr && *options_.stop; }
  // Bytes of audits on the wire so far, which are no part of the steps.
  uint64_t audit_bytes() const { return audit_bytes_; }

 private:
  double SecondsSince(base::Time start) const;
  std::unique_ptr<Sequence> NewSequence(uint64_t sample_key) const;
  absl::Status CheckIndex(const RemoteSessionOptions& session) const;
  // Of a turn that was begun: what of it is known, and on from there.
  absl::Status Replay(Sequence* sequence);
  absl::Status PrefillBlock(Sequence* sequence, int64_t count);
  // Reads back what is kept here of the sequence's rows, where it is not here.
  absl::Status LoadRows(Sequence* sequence);
  absl::Status LoadRows(const Sequence& sequence, uint32_t layer, base::PositionRange range,
                        std::vector<LocalRows>* heads);
  // How many tokens of `left` the next pass of a prefill takes.
  int64_t NextBlock(const Sequence& sequence, int64_t left) const;
  // Whether the end of a turn's prompt, at `position`, is a seal mark.
  bool IsMark(const Sequence& sequence, base::Position position) const;
  void Choose(Sequence* sequence, std::span<const float> logits, const LogitsSink& sink);
  // Sends the rows that the nodes do not have yet and forgets what left the window.
  void Ship(Sequence* sequence, bool seal);

  const GeneratorOptions options_;
  LlamaModel* const model_;
  KvClient* const client_;
  const base::Clock* const clock_;
  SplitAttention attention_;
  std::vector<float> logits_;
  uint64_t audit_bytes_ = 0;
};

// The identity under which a model's rows are stored. `name` is for people.
wire::ModelIdentity IdentityOf(const LlamaModel& model, const std::string& name);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_ENGINE_SEQUENCE_RUNNER_H_
