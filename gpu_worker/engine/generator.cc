#include "gpu_worker/engine/generator.h"

#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/config/logging.h"
#include "gpu_worker/model/rope.h"

namespace sounder::gpu_worker {
namespace {

// The position of the largest logit; the first of equals.
int32_t ArgMax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

uint64_t SampleKeyOf(uint64_t seed, const Prompt& prompt) {
  const uint64_t of_id = XXH3_64bits_withSeed(prompt.id.data(), prompt.id.size(), seed);
  return XXH3_64bits_withSeed(prompt.tokens.data(), prompt.tokens.size() * sizeof(int32_t), of_id);
}

wire::ModelIdentity IdentityOf(const LlamaModel& model, const std::string& name) {
  wire::ModelIdentity identity;
  identity.name = name.substr(0, base::kMaxNameBytes);
  identity.weights_digest = model.weights_digest();
  identity.layers = static_cast<uint32_t>(model.config().num_layers);
  identity.kv_heads = static_cast<uint32_t>(model.config().num_kv_heads);
  identity.query_heads = static_cast<uint32_t>(model.config().num_query_heads);
  identity.head_dim = static_cast<uint32_t>(model.config().head_dim);
  identity.rope_digest = RopeDigest(model.config());
  return identity;
}

Generator::Generator(GeneratorOptions options, LlamaModel* model, KvClient* client,
                     const base::Clock* clock)
    : options_(std::move(options)),
      model_(model),
      client_(client),
      clock_(clock),
      attention_(options_.attention, model->config(), client, clock) {
  CHECK(client != nullptr || !AnyRemote());
}

double Generator::SecondsSince(base::Time start) const {
  return std::chrono::duration<double>(clock_->Now() - start).count();
}

bool Generator::AnyRemote() const {
  return std::any_of(options_.attention.layers.begin(), options_.attention.layers.end(),
                     [](LayerMode mode) { return mode != LayerMode::kExactLocal; });
}

absl::StatusOr<std::unique_ptr<Generator::Active>> Generator::Admit(Prompt prompt) {
  if (Stopped()) return absl::CancelledError("stopped");
  const ModelConfig& config = model_->config();
  auto active = std::make_unique<Active>();
  Sequence& sequence = active->sequence;
  sequence.id = prompt.id;
  sequence.numeric_id = prompt.numeric_id;
  sequence.tokens = prompt.tokens;
  sequence.prompt_tokens = prompt.tokens.size();
  sequence.max_tokens = prompt.max_tokens;
  sequence.sample_key = SampleKeyOf(options_.seed, prompt);
  active->prompt = std::move(prompt);
  if (sequence.tokens.empty()) return absl::InvalidArgumentError("the prompt has no tokens");
  for (const int32_t token : sequence.tokens) {
    if (token < 0 || token >= config.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", token, " is not in [0, ", config.vocab_size, ")"));
    }
  }
  sequence.rows.resize(static_cast<size_t>(config.num_layers));
  for (std::vector<LocalRows>& heads : sequence.rows) {
    for (int64_t head = 0; head < config.num_kv_heads; ++head) {
      heads.emplace_back(static_cast<int>(config.head_dim), options_.attention.dtype,
                         options_.attention.sinks);
    }
  }
  if (AnyRemote()) {
    RemoteSessionOptions session = options_.session;
    session.id = active->prompt.session;
    session.dtype = options_.attention.dtype;
    ASSIGN_OR_RETURN(sequence.session, client_->Open(session));
  }
  return active;
}

// All of the prompt but its last token, which is the first to be decoded: so every token that is
// generated was computed with the attention that was asked for.
absl::Status Generator::Prefill(Active* active) {
  const base::Time start = clock_->Now();
  Sequence& sequence = active->sequence;
  const auto count = static_cast<int64_t>(sequence.prompt_tokens) - 1;
  std::vector<int64_t> positions;
  while (sequence.positions < count) {
    if (Stopped()) {
      sequence.status = absl::CancelledError("stopped");
      return absl::OkStatus();
    }
    const int64_t chunk = std::min(options_.prefill_tokens, count - sequence.positions);
    positions.resize(static_cast<size_t>(chunk));
    for (int64_t i = 0; i < chunk; ++i) positions[static_cast<size_t>(i)] = sequence.positions + i;
    ForwardBatch batch;
    batch.tokens =
        std::span(sequence.tokens)
            .subspan(static_cast<size_t>(sequence.positions), static_cast<size_t>(chunk));
    batch.positions = positions;
    attention_.Begin({{&sequence, 0, chunk}});
    RETURN_IF_ERROR(model_->Forward(batch, attention_, {}));
    sequence.positions += chunk;
  }
  Ship(&sequence, 0, /*seal=*/true);
  sequence.prefilled = true;
  sequence.prefill_seconds = SecondsSince(start);
  return absl::OkStatus();
}

void Generator::Choose(Active* active, std::span<const float> logits, const LogitsSink& sink) {
  Sequence& sequence = active->sequence;
  if (sink != nullptr) sink(sequence, logits);
  const size_t generated = sequence.generated();
  const auto& forced = active->prompt.forced;
  sequence.tokens.push_back(forced.has_value() && generated < forced->size() ? (*forced)[generated]
                                                                             : ArgMax(logits));
}

void Generator::Ship(Sequence* sequence, base::Position first, bool seal) {
  const base::Position window = attention_.WindowBegin(sequence->positions);
  if (sequence->session != nullptr && sequence->status.ok()) {
    AppendRows rows;
    rows.first_position = first;
    rows.row_count = sequence->positions - first;
    rows.tokens = std::span(sequence->tokens)
                      .subspan(static_cast<size_t>(first), static_cast<size_t>(rows.row_count));
    rows.seal_after = seal;
    rows.rows = [&](uint32_t layer, uint32_t head) {
      const LocalPiece piece = sequence->rows[layer][head].Range({first, sequence->positions});
      const size_t bytes = static_cast<size_t>(piece.keys.rows * piece.keys.row_stride);
      return AppendRows::Head{{piece.keys.data, bytes}, {piece.values.data, bytes}};
    };
    sequence->status = client_->Append(sequence->session.get(), rows);
    // A row may be dropped here only when the nodes have it.
    if (sequence->status.ok()) {
      sequence->status = client_->WaitAppended(sequence->session.get(), window);
    }
  }
  for (size_t layer = 0; layer < sequence->rows.size(); ++layer) {
    if (options_.attention.layers[layer] == LayerMode::kExactLocal) continue;
    for (LocalRows& rows : sequence->rows[layer]) rows.DropBefore(window);
  }
}

bool Generator::Finished(const Active& active) const {
  const Sequence& sequence = active.sequence;
  if (!sequence.status.ok()) return true;
  if (static_cast<int64_t>(sequence.generated()) >= sequence.max_tokens) return true;
  if (active.prompt.forced.has_value() || sequence.generated() == 0) return false;
  const std::vector<int32_t>& eos = model_->config().eos_tokens;
  return std::find(eos.begin(), eos.end(), sequence.tokens.back()) != eos.end();
}

absl::Status Generator::Decode(std::vector<std::unique_ptr<Active>>* active,
                               const LogitsSink& logits) {
  const base::Time start = clock_->Now();
  const auto rows = static_cast<int64_t>(active->size());
  std::vector<int32_t> tokens;
  std::vector<int64_t> positions;
  std::vector<int32_t> logit_rows;
  std::vector<BatchSlice> slices;
  for (int64_t row = 0; row < rows; ++row) {
    Sequence& sequence = (*active)[static_cast<size_t>(row)]->sequence;
    tokens.push_back(sequence.tokens[static_cast<size_t>(sequence.positions)]);
    positions.push_back(sequence.positions);
    logit_rows.push_back(static_cast<int32_t>(row));
    slices.push_back({&sequence, row, 1});
  }
  const auto vocab = static_cast<size_t>(model_->config().vocab_size);
  logits_.resize(static_cast<size_t>(rows) * vocab);
  attention_.Begin(std::move(slices));
  RETURN_IF_ERROR(model_->Forward({tokens, positions, logit_rows}, attention_, logits_));
  for (size_t row = 0; row < active->size(); ++row) {
    Active& entry = *(*active)[row];
    ++entry.sequence.positions;
    if (!entry.sequence.status.ok()) continue;
    Choose(&entry, std::span(logits_).subspan(row * vocab, vocab), logits);
    Ship(&entry.sequence, entry.sequence.positions - 1, /*seal=*/false);
  }
  const SplitAttention::AuditCost audit = attention_.TakeAuditCost();
  audit_bytes_ += audit.bytes;
  const double seconds = SecondsSince(start) - audit.seconds;
  for (const auto& entry : *active) {
    entry->sequence.decode_seconds += seconds;
    ++entry->sequence.decode_steps;
  }
  return absl::OkStatus();
}

// Failures are reported first: closing the sessions may take a node's deadline once more.
void Generator::EndFinished(std::vector<std::unique_ptr<Active>>* active,
                            const std::function<void(const Sequence&)>& done) {
  std::vector<std::unique_ptr<Active>> finished;
  for (auto entry = active->begin(); entry != active->end();) {
    if (!Finished(**entry)) {
      ++entry;
      continue;
    }
    finished.push_back(std::move(*entry));
    entry = active->erase(entry);
  }
  for (const std::unique_ptr<Active>& entry : finished) {
    if (!entry->sequence.status.ok()) done(entry->sequence);
  }
  for (const std::unique_ptr<Active>& entry : finished) {
    Sequence& sequence = entry->sequence;
    const bool failed = !sequence.status.ok();
    if (sequence.session != nullptr) {
      if (options_.measure_nodes && !failed) {
        for (const absl::StatusOr<wire::NodeStatus>& node : client_->NodeStatuses()) {
          if (node.ok()) sequence.node_memory += node->memory_used;
        }
      }
      const absl::Status closed = client_->Close(sequence.session.get());
      if (!closed.ok()) {
        ++failed_closes_;
        config::LogWarning("the session of prompt '" + sequence.id +
                           "' could not be closed: " + base::MessageOf(closed));
      }
    }
    if (!failed) done(sequence);
  }
}

absl::Status Generator::CheckOptions() const {
  const SplitAttentionOptions& attention = options_.attention;
  if (options_.batch < 1 || options_.prefill_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("batches of ", options_.batch, " sequences, prefill of ",
                     options_.prefill_tokens, " tokens at a time; expected 1 or more"));
  }
  if (attention.sinks < 0 || attention.window < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("sinks ", attention.sinks, ", window ", attention.window,
                     "; expected 0 or more and 1 or more: the newest row is on no node yet"));
  }
  const std::vector<uint32_t>& indexed = options_.session.indexed_layers;
  for (size_t layer = 0; layer < attention.layers.size(); ++layer) {
    if (!IsSampled(attention.layers[layer])) continue;
    const bool sketch = attention.layers[layer] == LayerMode::kSketch;
    if ((sketch ? options_.session.sketch.bits : options_.session.lsh.num_tables) == 0 ||
        std::find(indexed.begin(), indexed.end(), layer) == indexed.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", layer, " is to be sampled, but its sessions have no ",
                       sketch ? "sketches" : "LSH tables", " for it"));
    }
  }
  return absl::OkStatus();
}

absl::Status Generator::Run(std::vector<Prompt> prompts,
                            const std::function<void(const Sequence&)>& done,
                            const LogitsSink& logits) {
  RETURN_IF_ERROR(CheckOptions());
  std::vector<std::unique_ptr<Active>> active;
  const absl::Status status = RunAll(&prompts, &active, done, logits);
  for (std::unique_ptr<Active>& entry : active) {  // only after an error
    if (entry->sequence.status.ok()) entry->sequence.status = status;
  }
  EndFinished(&active, done);
  return status;
}

absl::Status Generator::RunAll(std::vector<Prompt>* prompts,
                               std::vector<std::unique_ptr<Active>>* active,
                               const std::function<void(const Sequence&)>& done,
                               const LogitsSink& logits) {
  size_t next = 0;
  while (next < prompts->size() || !active->empty()) {
    if (Stopped()) {
      for (const auto& entry : *active) {
        if (entry->sequence.status.ok()) entry->sequence.status = absl::CancelledError("stopped");
      }
    }
    while (next < prompts->size() && static_cast<int64_t>(active->size()) < options_.batch) {
      Sequence refused;
      refused.id = (*prompts)[next].id;
      refused.numeric_id = (*prompts)[next].numeric_id;
      absl::StatusOr<std::unique_ptr<Active>> admitted = Admit(std::move((*prompts)[next++]));
      if (!admitted.ok()) {  // this prompt cannot be served; the others can
        refused.status = admitted.status();
        done(refused);
        continue;
      }
      active->push_back(*std::move(admitted));
      RETURN_IF_ERROR(Prefill(active->back().get()));
    }
    EndFinished(active, done);
    if (active->empty()) continue;
    RETURN_IF_ERROR(Decode(active, logits));
  }
  return absl::OkStatus();
}

}  // namespace sounder::gpu_worker
