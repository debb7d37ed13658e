// Turns prompts into answers: prefill, then greedy decode of a batch of sequences of different
// lengths, which join and leave between steps.
#ifndef SOUNDER_GPU_WORKER_ENGINE_GENERATOR_H_
#define SOUNDER_GPU_WORKER_ENGINE_GENERATOR_H_

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/engine/split_attention.h"
#include "gpu_worker/kv/kv_client.h"
#include "gpu_worker/model/forward.h"

namespace sounder::gpu_worker {

struct GeneratorOptions {
  SplitAttentionOptions attention;
  RemoteSessionOptions session;  // id is the prompt's
  int64_t batch = 8;             // sequences decoded together
  int64_t prefill_tokens = 512;  // prompt tokens per forward pass
  // Of every random number the nodes draw for this run; see SampleKeyOf.
  uint64_t seed = 1;
  bool measure_nodes = false;  // ask the nodes for their memory as each sequence ends
  // Set from outside (a signal): sequences end as CANCELLED, those not begun included, and their
  // sessions are closed. Looked at between passes of the model. May be null; outlives the
  // generator.
  const std::atomic<bool>* stop = nullptr;
};

struct Prompt {
  std::string id;
  bool numeric_id = false;  // of the sequence
  std::vector<int32_t> tokens;
  int64_t max_tokens = 16;
  std::optional<std::vector<int32_t>> forced;  // teacher forcing: what is fed instead of the argmax
  base::SessionId session;                     // on the nodes, decides placement; empty: random
};

// Per step of a sequence: the logits its next token was chosen from.
using LogitsSink = std::function<void(const Sequence& sequence, std::span<const float> logits)>;

// Not thread safe. What it is made with outlives it; `client` is null when every layer is local.
class Generator {
 public:
  Generator(GeneratorOptions options, LlamaModel* model, KvClient* client,
            const base::Clock* clock);

  // Answers all prompts; `done` is called for each as it ends, in order of ending, with status OK
  // or why it ended early. Its session on the nodes has been closed then, or is closed next if it
  // failed; a session that could not be closed harms no answer (failed_closes). INVALID_ARGUMENT
  // for options that do not fit each other; otherwise an error of the model itself, which ends
  // every sequence.
  absl::Status Run(std::vector<Prompt> prompts, const std::function<void(const Sequence&)>& done,
                   const LogitsSink& logits = nullptr);

  // Bytes of audits on the wire so far, which are no part of the steps.
  uint64_t audit_bytes() const { return audit_bytes_; }
  // Sessions that could not be closed so far; they end by their TTL at the latest.
  int64_t failed_closes() const { return failed_closes_; }

 private:
  struct Active {
    Sequence sequence;
    Prompt prompt;
  };

  bool AnyRemote() const;
  double SecondsSince(base::Time start) const;
  bool Stopped() const { return options_.stop != nullptr && *options_.stop; }
  absl::Status CheckOptions() const;
  absl::Status RunAll(std::vector<Prompt>* prompts, std::vector<std::unique_ptr<Active>>* active,
                      const std::function<void(const Sequence&)>& done, const LogitsSink& logits);
  absl::StatusOr<std::unique_ptr<Active>> Admit(Prompt prompt);
  absl::Status Prefill(Active* active);
  absl::Status Decode(std::vector<std::unique_ptr<Active>>* active, const LogitsSink& logits);
  // Chooses the next token from the logits of the last row.
  void Choose(Active* active, std::span<const float> logits, const LogitsSink& sink);
  // Sends the rows [first, positions) of a sequence to the nodes and forgets what left the window.
  void Ship(Sequence* sequence, base::Position first, bool seal);
  bool Finished(const Active& active) const;
  void EndFinished(std::vector<std::unique_ptr<Active>>* active,
                   const std::function<void(const Sequence&)>& done);

  const GeneratorOptions options_;
  LlamaModel* const model_;
  KvClient* const client_;
  const base::Clock* const clock_;
  SplitAttention attention_;
  std::vector<float> logits_;
  uint64_t audit_bytes_ = 0;
  int64_t failed_closes_ = 0;
};

// What a prompt's sequence draws its samples from: a function of the seed, the prompt's id and its
// tokens, so that a prompt gets the same samples in whatever batch and on whatever nodes it is
// answered, and two prompts of a file get different ones.
uint64_t SampleKeyOf(uint64_t seed, const Prompt& prompt);

// The identity under which a model's rows are stored. `name` is for people.
wire::ModelIdentity IdentityOf(const LlamaModel& model, const std::string& name);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_ENGINE_GENERATOR_H_
