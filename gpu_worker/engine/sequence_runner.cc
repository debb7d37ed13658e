#include "gpu_worker/engine/sequence_runner.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "gpu_worker/model/rope.h"

namespace sounder::gpu_worker {
namespace {

// The position of the largest logit; the first of equals.
int32_t ArgMax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

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

SequenceRunner::SequenceRunner(GeneratorOptions options, LlamaModel* model, KvClient* client,
                               const base::Clock* clock)
    : options_(std::move(options)),
      model_(model),
      client_(client),
      clock_(clock),
      attention_(options_.attention, model->config(), client, clock) {
  CHECK(client != nullptr || !options_.attention.AnyRemote());
}

double SequenceRunner::SecondsSince(base::Time start) const {
  return std::chrono::duration<double>(clock_->Now() - start).count();
}

absl::Status SequenceRunner::CheckOptions() const {
  const SplitAttentionOptions& attention = options_.attention;
  if (options_.batch < 1 || options_.prefill_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("batches of ", options_.batch, " sequences, prefill of ",
                     options_.prefill_tokens, " tokens at a time; expected 1 or more"));
  }
  if (options_.prefill_local_rows < 0) {
    return absl::InvalidArgumentError(absl::StrCat("prefill of ", options_.prefill_local_rows,
                                                   " rows here; expected 0 (no bound) or more"));
  }
  if (attention.sinks < 0 || attention.window < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("sinks ", attention.sinks, ", window ", attention.window,
                     "; expected 0 or more and 1 or more: the newest row is on no node yet"));
  }
  return CheckIndex(options_.session);
}

absl::Status SequenceRunner::CheckIndex(const RemoteSessionOptions& session) const {
  const std::vector<LayerMode>& layers = options_.attention.layers;
  const std::vector<uint32_t>& indexed = session.indexed_layers;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    if (!IsSampled(layers[layer])) continue;
    const bool sketch = layers[layer] == LayerMode::kSketch;
    if ((sketch ? session.sketch.bits : session.lsh.num_tables) == 0 ||
        std::find(indexed.begin(), indexed.end(), layer) == indexed.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", layer, " is to be sampled, but its sessions have no ",
                       sketch ? "sketches" : "LSH tables", " for it"));
    }
  }
  return absl::OkStatus();
}

std::unique_ptr<Sequence> SequenceRunner::NewSequence(uint64_t sample_key) const {
  const ModelConfig& config = model_->config();
  auto sequence = std::make_unique<Sequence>();
  sequence->sample_key = sample_key;
  sequence->rows.resize(static_cast<size_t>(config.num_layers));
  for (std::vector<LocalRows>& heads : sequence->rows) {
    for (int64_t head = 0; head < config.num_kv_heads; ++head) {
      heads.emplace_back(static_cast<int>(config.head_dim), options_.attention.dtype,
                         options_.attention.sinks);
    }
  }
  return sequence;
}

absl::StatusOr<std::unique_ptr<Sequence>> SequenceRunner::Open(const base::SessionId& id,
                                                               uint64_t sample_key) {
  if (Stopped()) return absl::CancelledError("stopped");
  std::unique_ptr<Sequence> sequence = NewSequence(sample_key);
  if (options_.attention.AnyRemote()) {
    RemoteSessionOptions session = options_.session;
    session.id = id;
    session.dtype = options_.attention.dtype;
    ASSIGN_OR_RETURN(sequence->session, client_->Open(session));
  }
  return sequence;
}

void SequenceRunner::Choose(Sequence* sequence, std::span<const float> logits,
                            const LogitsSink& sink) {
  if (sink != nullptr) sink(*sequence, logits);
  const size_t generated = sequence->generated();
  const auto& forced = sequence->forced;
  sequence->tokens.push_back(forced.has_value() && generated < forced->size() ? (*forced)[generated]
                                                                              : ArgMax(logits));
}

void SequenceRunner::Ship(Sequence* sequence, bool seal) {
  const base::Position window = attention_.WindowBegin(sequence->positions);
  const base::Position first = sequence->shipped;
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
    sequence->shipped = sequence->positions;
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

bool SequenceRunner::TurnEnded(const Sequence& sequence) const {
  if (!sequence.status.ok()) return true;
  if (static_cast<int64_t>(sequence.generated()) >= sequence.max_tokens) return true;
  if (sequence.forced.has_value() || sequence.generated() == 0) return false;
  const std::vector<int32_t>& eos = model_->config().eos_tokens;
  return std::find(eos.begin(), eos.end(), sequence.tokens.back()) != eos.end();
}

absl::Status SequenceRunner::Decode(std::span<Sequence* const> sequences,
                                    const LogitsSink& logits) {
  const base::Time start = clock_->Now();
  std::vector<int32_t> tokens;
  std::vector<int64_t> positions;
  std::vector<int32_t> logit_rows;
  std::vector<BatchSlice> slices;
  for (Sequence* sequence : sequences) {
    const auto row = static_cast<int64_t>(tokens.size());
    tokens.push_back(sequence->tokens[static_cast<size_t>(sequence->positions)]);
    positions.push_back(sequence->positions);
    logit_rows.push_back(static_cast<int32_t>(row));
    slices.push_back({sequence, row, 1, /*prefill=*/false});
  }
  const auto vocab = static_cast<size_t>(model_->config().vocab_size);
  logits_.resize(sequences.size() * vocab);
  attention_.Begin(std::move(slices));
  RETURN_IF_ERROR(model_->Forward({tokens, positions, logit_rows}, attention_, logits_));
  for (size_t row = 0; row < sequences.size(); ++row) {
    Sequence* const sequence = sequences[row];
    ++sequence->positions;
    if (!sequence->status.ok()) continue;
    Choose(sequence, std::span(logits_).subspan(row * vocab, vocab), logits);
    Ship(sequence, /*seal=*/false);
  }
  const SplitAttention::AuditCost audit = attention_.TakeAuditCost();
  audit_bytes_ += audit.bytes;
  const double seconds = SecondsSince(start) - audit.seconds;
  for (Sequence* sequence : sequences) {
    sequence->decode_seconds += seconds;
    ++sequence->decode_steps;
    ++sequence->steps;
  }
  return absl::OkStatus();
}

void SequenceRunner::MeasureNodes(Sequence* sequence) const {
  if (sequence->session == nullptr || !options_.measure_nodes) return;
  sequence->node_memory = 0;
  for (const absl::StatusOr<wire::NodeStatus>& node : client_->NodeStatuses()) {
    if (node.ok()) sequence->node_memory += node->memory_used;
  }
}

absl::Status SequenceRunner::Close(Sequence* sequence) {
  if (sequence->session == nullptr) return absl::OkStatus();
  return client_->Close(sequence->session.get());
}

}  // namespace sounder::gpu_worker
