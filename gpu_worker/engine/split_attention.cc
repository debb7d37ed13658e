#include "gpu_worker/engine/split_attention.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <utility>

#include "common/base/check.h"
#include "common/kernels/signature.h"
#include "gpu_worker/engine/remote_block.h"

namespace sounder::gpu_worker {

bool SplitAttentionOptions::AnyRemote() const {
  return std::any_of(layers.begin(), layers.end(),
                     [](LayerMode mode) { return mode != LayerMode::kExactLocal; });
}

AttentionCounts& AttentionCounts::operator+=(const AttentionCounts& other) {
  positions += other.positions;
  positions_exact += other.positions_exact;
  rows_visible += other.rows_visible;
  rows_read += other.rows_read;
  rows_loaded += other.rows_loaded;
  sketched += other.sketched;
  drawn_alike += other.drawn_alike;
  audited_error += other.audited_error;
  audited += other.audited;
  prefill_blocks += other.prefill_blocks;
  prefill_rows_loaded += other.prefill_rows_loaded;
  return *this;
}

SplitAttention::SplitAttention(SplitAttentionOptions options, const ModelConfig& config,
                               KvClient* client, const base::Clock* clock)
    : options_(std::move(options)),
      config_(config),
      query_heads_(config.num_query_heads),
      kv_heads_(config.num_kv_heads),
      group_(config.num_query_heads / config.num_kv_heads),
      dim_(config.head_dim),
      query_width_(config.query_width()),
      scale_(1.0f / std::sqrt(static_cast<float>(config.head_dim))),
      client_(client),
      clock_(clock),
      here_(config) {
  CHECK(options_.layers.size() == static_cast<size_t>(config.num_layers));
}

void SplitAttention::Begin(std::vector<BatchSlice> slices) {
  slices_ = std::move(slices);
  rows_ = 0;
  for (const BatchSlice& slice : slices_) {
    CHECK(slice.count == 1 || slice.prefill);
    rows_ = std::max(rows_, slice.first + slice.count);
  }
}

base::Position SplitAttention::WindowBegin(int64_t positions) const {
  return std::max(std::min(options_.sinks, positions), positions - options_.window);
}

PositionSplit SplitAttention::SplitOf(const BatchSlice& slice) const {
  return SplitPositions(slice.sequence->positions, slice.count, options_.sinks, options_.window);
}

bool SplitAttention::AllHere(const BatchSlice& slice, int layer) const {
  return options_.layers[static_cast<size_t>(layer)] == LayerMode::kExactLocal ||
         (slice.prefill && slice.sequence->shipped == 0);
}

absl::Status SplitAttention::Attend(int layer, const float* q, const float* k, const float* v,
                                    float* out) {
  // Here, because a pass over a long prompt takes long, and asks nothing of the nodes.
  if (client_ != nullptr) client_->KeepAlive();
  RoundQueries(q);
  KeepRows(layer, k, v);
  const LayerMode mode = options_.layers[static_cast<size_t>(layer)];
  work_.assign(slices_.size(), SliceWork{});
  queries_.clear();
  query_slice_.clear();
  signatures_.clear();
  AskNodes(layer);
  std::unique_ptr<KvClient::PendingAttend> pending;
  if (!queries_.empty()) pending = client_->StartAttend(static_cast<uint32_t>(layer), queries_);
  for (size_t i = 0; i < slices_.size(); ++i) {
    const BatchSlice& slice = slices_[i];
    float* const slice_out = out + slice.first * query_width_;
    if (AllHere(slice, layer)) {
      AttendAll(layer, slice, slice_out);
    } else if (slice.prefill) {
      AttendBlock(layer, slice, slice_out);
    } else {
      AttendHere(layer, slice, SplitOf(slice).sinks, &work_[i].sinks);
      AttendHere(layer, slice, SplitOf(slice).window, &work_[i].window);
    }
  }
  if (pending != nullptr) pending->Wait();
  if (mode == LayerMode::kSketch) {
    for (size_t i = 0; i < queries_.size(); ++i) {
      slices_[query_slice_[i]].sequence->hints[static_cast<size_t>(layer)].Learn(queries_[i]);
    }
  }
  for (size_t i = 0; i < slices_.size(); ++i) FinishSlice(layer, i, out);
  if (IsSampled(mode) && options_.audit_every > 0) Audit(layer, out);
  return absl::OkStatus();
}

// Of decode: what the nodes answered is there.
void SplitAttention::FinishSlice(int layer, size_t index, float* out) {
  const BatchSlice& slice = slices_[index];
  if (slice.prefill || AllHere(slice, layer)) return;
  const SliceWork& work = work_[index];
  const AttendQuery* middle = work.query < 0 ? nullptr : &queries_[static_cast<size_t>(work.query)];
  MergeParts(work, middle, out + slice.first * query_width_);
  // A failed sequence asks nothing, and not because it has all its rows here.
  const bool sampled = IsSampled(options_.layers[static_cast<size_t>(layer)]);
  if (sampled && slice.sequence->status.ok()) Count(slice, middle);
  if (middle != nullptr && !middle->status.ok()) slice.sequence->status = middle->status;
}

void SplitAttention::RoundQueries(const float* q) {
  rounded_.resize(static_cast<size_t>(rows_ * query_width_));
  for (size_t i = 0; i < rounded_.size(); ++i) rounded_[i] = base::RoundTo(options_.dtype, q[i]);
}

void SplitAttention::KeepRows(int layer, const float* k, const float* v) {
  for (const BatchSlice& slice : slices_) {
    for (int64_t row = slice.first; row < slice.first + slice.count; ++row) {
      for (int64_t head = 0; head < kv_heads_; ++head) {
        const int64_t offset = (row * kv_heads_ + head) * dim_;
        slice.sequence->rows[static_cast<size_t>(layer)][static_cast<size_t>(head)].Append(
            k + offset, v + offset);
      }
    }
  }
}

void SplitAttention::AskNodes(int layer) {
  const bool sampled = IsSampled(options_.layers[static_cast<size_t>(layer)]);
  for (size_t i = 0; i < slices_.size(); ++i) {
    const BatchSlice& slice = slices_[i];
    const base::PositionRange middle = SplitOf(slice).middle;
    if (slice.prefill || AllHere(slice, layer)) continue;
    if (middle.empty() || !slice.sequence->status.ok()) continue;
    work_[i].query = static_cast<int>(queries_.size());
    AttendQuery& query = queries_.emplace_back();
    query_slice_.push_back(i);
    query.session = slice.sequence->session.get();
    query.queries = RoundedRow(slice.first);
    query.range = middle;
    query.layout_position = slice.sequence->positions;
    query.scale = scale_;
    query.sample_key = slice.sequence->sample_key;
    query.step = static_cast<uint64_t>(slice.sequence->steps);
    std::vector<uint64_t>& signatures = signatures_.emplace_back();
    if (sampled) AskForSample(layer, *slice.sequence, &query, &signatures);
  }
  // The inner vectors' memory does not move when the outer one grows, but say it where it matters.
  for (size_t i = 0; i < queries_.size(); ++i) {
    if (!signatures_[i].empty()) queries_[i].signatures = signatures_[i].data();
  }
}

void SplitAttention::AskForSample(int layer, Sequence& sequence, AttendQuery* query,
                                  std::vector<uint64_t>* signatures) const {
  if (options_.layers[static_cast<size_t>(layer)] == LayerMode::kSketch) {
    if (sequence.hints.empty()) {
      sequence.hints.assign(options_.layers.size(),
                            SketchHints(options_.sketch, kv_heads_, group_));
    }
    SketchHints& hints = sequence.hints[static_cast<size_t>(layer)];
    hints.Ask(sequence.steps, query);
    sequence.counts.sketched += static_cast<uint64_t>(kv_heads_);
    sequence.counts.drawn_alike += static_cast<uint64_t>(hints.drawn_alike());
    return;
  }
  query->attention = wire::AttentionKind::kLshTables;
  const lsh::Projection& projection = *query->session->projection();
  signatures->resize(static_cast<size_t>(query_heads_ * projection.params().words()));
  kernels::SignVectors(projection, query->queries, dim_, query_heads_, signatures->data());
}

void SplitAttention::AttendHere(int layer, const BatchSlice& slice, base::PositionRange range,
                                HeadsOutput* part) {
  here_.Attend(slice.sequence->rows[static_cast<size_t>(layer)], range, RoundedRow(slice.first),
               slice.sequence->positions, slice.count, part);
}

void SplitAttention::AttendAll(int layer, const BatchSlice& slice, float* out) {
  HeadsOutput all;
  AttendHere(layer, slice, {0, slice.sequence->positions + slice.count}, &all);
  std::copy(all.outputs.begin(), all.outputs.end(), out);
}

void SplitAttention::AttendBlock(int layer, const BatchSlice& slice, float* out) {
  const PositionSplit split = SplitOf(slice);
  Sequence& sequence = *slice.sequence;
  std::optional<RemoteBlock> remote;
  if (!split.middle.empty() && sequence.status.ok()) {
    remote.emplace(client_, config_, static_cast<uint32_t>(layer), sequence, split.middle,
                   RoundedRow(slice.first), slice.count);
  }
  HeadsOutput merged;
  HeadsOutput middle;
  HeadsOutput window;
  AttendHere(layer, slice, split.sinks, &merged);
  AttendHere(layer, slice, split.window, &window);
  const auto merge = [&merged](const HeadsOutput& part) {
    MergeHeads(part.outputs, part.lse, merged.outputs.data(), merged.lse.data());
  };
  if (remote.has_value()) {
    if (absl::Status status = remote->Finish(&middle); !status.ok()) {
      sequence.status = std::move(status);
    } else {
      merge(middle);
    }
    sequence.counts.prefill_blocks += remote->blocks();
    sequence.counts.prefill_rows_loaded += remote->rows_loaded();
  }
  merge(window);
  std::copy(merged.outputs.begin(), merged.outputs.end(), out);
}

void SplitAttention::MergeParts(const SliceWork& work, const AttendQuery* middle,
                                float* out) const {
  std::copy(work.sinks.outputs.begin(), work.sinks.outputs.end(), out);
  std::vector<float> lse = work.sinks.lse;
  if (middle != nullptr && middle->status.ok()) {
    MergeHeads(middle->outputs, middle->lse, out, lse.data());
  }
  MergeHeads(work.window.outputs, work.window.lse, out, lse.data());
}

// The same queries with exact attention, beside what was sampled.
void SplitAttention::Audit(int layer, const float* out) {
  std::vector<AttendQuery> exact;
  std::vector<size_t> slices;
  for (size_t i = 0; i < queries_.size(); ++i) {
    if (!queries_[i].status.ok()) continue;
    if (queries_[i].step % static_cast<uint64_t>(options_.audit_every) != 0) continue;
    AttendQuery& query = exact.emplace_back();
    query.session = queries_[i].session;
    query.queries = queries_[i].queries;
    query.range = queries_[i].range;
    query.layout_position = queries_[i].layout_position;
    query.scale = queries_[i].scale;
    query.sample_key = queries_[i].sample_key;
    query.step = queries_[i].step;
    slices.push_back(query_slice_[i]);
  }
  if (exact.empty()) return;
  const base::Time start = clock_->Now();
  const uint64_t bytes_before = client_->counters().attend_bytes();
  client_->StartAttend(static_cast<uint32_t>(layer), exact)->Wait();
  audit_cost_.bytes += client_->counters().attend_bytes() - bytes_before;
  std::vector<float> truth(static_cast<size_t>(query_width_));
  for (size_t i = 0; i < exact.size(); ++i) {
    if (!exact[i].status.ok()) continue;
    const BatchSlice& slice = slices_[slices[i]];
    MergeParts(work_[slices[i]], &exact[i], truth.data());
    const float* sampled = out + slice.first * query_width_;
    AddErrors(sampled, truth.data(), &slice.sequence->counts);
  }
  audit_cost_.seconds += std::chrono::duration<double>(clock_->Now() - start).count();
}

void SplitAttention::AddErrors(const float* sampled, const float* truth,
                               AttentionCounts* counts) const {
  for (int64_t head = 0; head < query_heads_; ++head) {
    double difference = 0;
    double norm = 0;
    for (int64_t d = head * dim_; d < (head + 1) * dim_; ++d) {
      const double delta = double{sampled[d]} - truth[d];
      difference += delta * delta;
      norm += double{truth[d]} * truth[d];
    }
    if (norm == 0) continue;
    counts->audited_error += std::sqrt(difference / norm);
    ++counts->audited;
  }
}

SplitAttention::AuditCost SplitAttention::TakeAuditCost() {
  return std::exchange(audit_cost_, AuditCost{});
}

void SplitAttention::Count(const BatchSlice& slice, const AttendQuery* middle) {
  AttentionCounts& counts = slice.sequence->counts;
  const uint64_t heads = static_cast<uint64_t>(query_heads_);
  const uint64_t positions = static_cast<uint64_t>(slice.sequence->positions + slice.count);
  const uint64_t on_nodes = middle == nullptr ? 0 : static_cast<uint64_t>(middle->range.size());
  counts.positions += heads * positions;
  counts.positions_exact += heads * (positions - on_nodes);
  if (middle == nullptr) return;
  counts.positions_exact += middle->rows_exact;
  counts.rows_visible += middle->rows_visible;
  counts.rows_read += middle->rows_read;
  counts.rows_loaded += middle->rows_loaded;
}

}  // namespace sounder::gpu_worker
