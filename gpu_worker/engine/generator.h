// Turns prompts into answers: prefill, then greedy decode of a batch of sequences of different
// lengths, which join and leave between steps. A prompt of several turns stays until the last of
// them has been answered.
#ifndef SOUNDER_GPU_WORKER_ENGINE_GENERATOR_H_
#define SOUNDER_GPU_WORKER_ENGINE_GENERATOR_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/engine/sequence_runner.h"

namespace sounder::gpu_worker {

// Not thread safe. What it is made with outlives it; `client` is null when every layer is local.
class Generator {
 public:
  // Called for each turn as it ends, with status OK or why it ended early. The turns behind one
  // that failed follow it, with its status and without tokens.
  using Done = std::function<void(const Sequence& sequence)>;

  Generator(GeneratorOptions options, LlamaModel* model, KvClient* client, const base::Clock* clock)
      : runner_(std::move(options), model, client, clock) {}

  // Answers all prompts, and calls `done` in order of ending. The session of a prompt on the nodes
  // has been closed when its last turn is reported, or is closed next if it failed; a session that
  // could not be closed harms no answer (failed_closes). INVALID_ARGUMENT for options that do not
  // fit each other; otherwise an error of the model itself, which ends every sequence.
  absl::Status Run(std::vector<Prompt> prompts, const Done& done,
                   const LogitsSink& logits = nullptr);

  // Bytes of audits on the wire so far, which are no part of the steps.
  uint64_t audit_bytes() const { return runner_.audit_bytes(); }
  // Sessions that could not be closed so far; they end by their TTL at the latest.
  int64_t failed_closes() const { return failed_closes_; }

 private:
  struct Active {
    std::unique_ptr<Sequence> sequence;
    std::vector<Turn> later;  // turns, the next one last
  };

  absl::Status RunAll(std::vector<Prompt>* prompts, std::vector<Active>* active, const Done& done,
                      const LogitsSink& logits);
  // Opens the prompt's session and prefills its first turn; reports it if it cannot be served.
  absl::Status Admit(Prompt prompt, std::vector<Active>* active, const Done& done);
  // Reports turns that were answered and prefills those that follow them.
  absl::Status BeginNextTurns(std::vector<Active>* active, const Done& done, bool* began);
  // Takes out, reports and closes the sequences that failed or have been answered to the end.
  void EndFinished(std::vector<Active>* active, const Done& done);
  absl::Status Decode(const std::vector<Active>& active, const LogitsSink& logits);

  SequenceRunner runner_;
  int64_t failed_closes_ = 0;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_ENGINE_GENERATOR_H_
