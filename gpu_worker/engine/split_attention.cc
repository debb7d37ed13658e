#include "gpu_worker/engine/split_attention.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "common/attention/partial_output.h"
#include "common/base/check.h"
#include "common/kernels/exact_attention.h"
#include "common/kernels/signature.h"

namespace sounder::gpu_worker {
namespace {

uint64_t AttendBytes(const wire::DataClientCounters& counters) {
  return counters.attend_bytes_sent + counters.attend_bytes_received;
}

}  // namespace

SplitAttention::SplitAttention(SplitAttentionOptions options, const ModelConfig& config,
                               KvClient* client, const base::Clock* clock)
    : options_(std::move(options)),
      query_heads_(config.num_query_heads),
      kv_heads_(config.num_kv_heads),
      group_(config.num_query_heads / config.num_kv_heads),
      dim_(config.head_dim),
      query_width_(config.query_width()),
      scale_(1.0f / std::sqrt(static_cast<float>(config.head_dim))),
      client_(client),
      clock_(clock) {
  CHECK(options_.layers.size() == static_cast<size_t>(config.num_layers));
}

void SplitAttention::Begin(std::vector<BatchSlice> slices) {
  slices_ = std::move(slices);
  rows_ = 0;
  for (const BatchSlice& slice : slices_) {
    CHECK(slice.count == 1 || !slice.sequence->prefilled);
    rows_ = std::max(rows_, slice.first + slice.count);
  }
}

base::Position SplitAttention::WindowBegin(int64_t positions) const {
  return std::max(std::min(options_.sinks, positions), positions - options_.window);
}

base::PositionRange SplitAttention::Middle(const BatchSlice& slice) const {
  const int64_t positions = slice.sequence->positions + slice.count;
  return {std::min(options_.sinks, positions), WindowBegin(positions)};
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
  if (mode != LayerMode::kExactLocal) AskNodes(layer);
  std::unique_ptr<KvClient::PendingAttend> pending;
  if (!queries_.empty()) pending = client_->StartAttend(static_cast<uint32_t>(layer), queries_);
  for (size_t i = 0; i < slices_.size(); ++i) {
    const BatchSlice& slice = slices_[i];
    if (!slice.sequence->prefilled || mode == LayerMode::kExactLocal) {
      AttendAll(layer, slice, out + slice.first * query_width_);
    } else {
      AttendPiece(layer, slice, /*sinks=*/true, &work_[i].sinks);
      AttendPiece(layer, slice, /*sinks=*/false, &work_[i].window);
    }
  }
  if (pending != nullptr) pending->Wait();
  if (mode == LayerMode::kSketch) {
    for (size_t i = 0; i < queries_.size(); ++i) {
      slices_[query_slice_[i]].sequence->hints[static_cast<size_t>(layer)].Learn(queries_[i]);
    }
  }
  for (size_t i = 0; i < slices_.size(); ++i) {
    const BatchSlice& slice = slices_[i];
    if (!slice.sequence->prefilled || mode == LayerMode::kExactLocal) continue;
    const AttendQuery* middle =
        work_[i].query < 0 ? nullptr : &queries_[static_cast<size_t>(work_[i].query)];
    MergeParts(work_[i], middle, out + slice.first * query_width_);
    // A failed sequence asks nothing, and not because it has all its rows here.
    if (IsSampled(mode) && slice.sequence->status.ok()) Count(slice, middle);
    if (middle != nullptr && !middle->status.ok()) slice.sequence->status = middle->status;
  }
  if (IsSampled(mode) && options_.audit_every > 0) Audit(layer, out);
  return absl::OkStatus();
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
    const base::PositionRange middle = Middle(slice);
    if (!slice.sequence->prefilled || middle.empty() || !slice.sequence->status.ok()) continue;
    work_[i].query = static_cast<int>(queries_.size());
    AttendQuery& query = queries_.emplace_back();
    query_slice_.push_back(i);
    query.session = slice.sequence->session.get();
    query.queries = RoundedRow(slice.first);
    query.range = middle;
    query.layout_position = slice.sequence->positions;
    query.scale = scale_;
    query.sample_key = slice.sequence->sample_key;
    query.step = static_cast<uint64_t>(slice.sequence->decode_steps);
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
    hints.Ask(sequence.decode_steps, query);
    sequence.counts.sketched += static_cast<uint64_t>(kv_heads_);
    sequence.counts.drawn_alike += static_cast<uint64_t>(hints.drawn_alike());
    return;
  }
  query->attention = wire::AttentionKind::kLshTables;
  const lsh::Projection& projection = *query->session->projection();
  signatures->resize(static_cast<size_t>(query_heads_ * projection.params().words()));
  kernels::SignVectors(projection, query->queries, dim_, query_heads_, signatures->data());
}

// Causal attention over every row of the sequence, which are all here.
void SplitAttention::AttendAll(int layer, const BatchSlice& slice, float* out) {
  const int64_t positions = slice.sequence->positions;
  const int64_t queries = slice.count * group_;
  packed_.resize(static_cast<size_t>(queries * dim_));
  part_.resize(packed_.size());
  part_lse_.resize(static_cast<size_t>(queries));
  visible_.resize(static_cast<size_t>(queries));
  for (int64_t head = 0; head < kv_heads_; ++head) {
    for (int64_t t = 0; t < slice.count; ++t) {
      std::copy_n(RoundedRow(slice.first + t) + head * group_ * dim_, group_ * dim_,
                  packed_.data() + t * group_ * dim_);
      std::fill_n(visible_.data() + t * group_, group_, positions + t + 1);
    }
    const LocalPiece piece =
        slice.sequence->rows[static_cast<size_t>(layer)][static_cast<size_t>(head)].Range(
            {0, positions + slice.count});
    kernels::ExactAttentionArgs args;
    args.queries = packed_.data();
    args.query_stride = dim_;
    args.num_queries = static_cast<int>(queries);
    args.keys = piece.keys;
    args.values = piece.values;
    args.scale = scale_;
    args.visible_rows = visible_;
    kernels::ExactAttention(args, part_.data(), part_lse_.data());
    for (int64_t t = 0; t < slice.count; ++t) {
      std::copy_n(part_.data() + t * group_ * dim_, group_ * dim_,
                  out + t * query_width_ + head * group_ * dim_);
    }
  }
}

void SplitAttention::AttendPiece(int layer, const BatchSlice& slice, bool sinks,
                                 HeadsOutput* part) {
  part->outputs.resize(static_cast<size_t>(query_width_));
  part->lse.resize(static_cast<size_t>(query_heads_));
  const base::Position end = slice.sequence->positions + slice.count;
  for (int64_t head = 0; head < kv_heads_; ++head) {
    const LocalRows& rows =
        slice.sequence->rows[static_cast<size_t>(layer)][static_cast<size_t>(head)];
    const LocalPiece piece = sinks ? rows.Sinks() : rows.Range({WindowBegin(end), end});
    kernels::ExactAttentionArgs args;
    args.queries = RoundedRow(slice.first) + head * group_ * dim_;
    args.query_stride = dim_;
    args.num_queries = static_cast<int>(group_);
    args.keys = piece.keys;
    args.values = piece.values;
    args.scale = scale_;
    kernels::ExactAttention(args, part->outputs.data() + head * group_ * dim_,
                            part->lse.data() + head * group_);
  }
}

// In order of position: sinks, middle, window.
void SplitAttention::MergeParts(const SliceWork& work, const AttendQuery* middle,
                                float* out) const {
  std::copy_n(work.sinks.outputs.data(), query_width_, out);
  for (int64_t head = 0; head < query_heads_; ++head) {
    float lse = work.sinks.lse[static_cast<size_t>(head)];
    float* output = out + head * dim_;
    const auto merge = [&](const std::vector<float>& outputs, const std::vector<float>& lses) {
      attention::MergePartial(output, &lse, outputs.data() + head * dim_,
                              lses[static_cast<size_t>(head)], static_cast<int>(dim_));
    };
    if (middle != nullptr && middle->status.ok()) merge(middle->outputs, middle->lse);
    merge(work.window.outputs, work.window.lse);
  }
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
  const uint64_t bytes_before = AttendBytes(client_->counters());
  client_->StartAttend(static_cast<uint32_t>(layer), exact)->Wait();
  audit_cost_.bytes += AttendBytes(client_->counters()) - bytes_before;
  std::vector<float> truth(static_cast<size_t>(query_width_));
  for (size_t i = 0; i < exact.size(); ++i) {
    if (!exact[i].status.ok()) continue;
    const BatchSlice& slice = slices_[slices[i]];
    MergeParts(work_[slices[i]], &exact[i], truth.data());
    const float* sampled = out + slice.first * query_width_;
    for (int64_t head = 0; head < query_heads_; ++head) {
      double difference = 0;
      double norm = 0;
      for (int64_t d = head * dim_; d < (head + 1) * dim_; ++d) {
        const double delta = double{sampled[d]} - truth[static_cast<size_t>(d)];
        difference += delta * delta;
        norm += double{truth[static_cast<size_t>(d)]} * truth[static_cast<size_t>(d)];
      }
      if (norm == 0) continue;
      slice.sequence->counts.audited_error += std::sqrt(difference / norm);
      ++slice.sequence->counts.audited;
    }
  }
  audit_cost_.seconds += std::chrono::duration<double>(clock_->Now() - start).count();
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
