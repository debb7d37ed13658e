#include "cli/eval_head.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "common/attention/partial_output.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/kernels/exact_attention.h"
#include "common/kernels/signature.h"

namespace sounder::cli {
namespace {

memory::AlignedBuffer Packed(const memory::RowsView& rows) {
  const size_t row_bytes = rows.dim * base::SizeOf(rows.dtype);
  memory::AlignedBuffer packed(rows.rows * row_bytes);
  for (int64_t r = 0; r < rows.rows; ++r) {
    std::memcpy(packed.data() + r * row_bytes, rows.Row(r), row_bytes);
  }
  return packed;
}

absl::StatusOr<std::vector<std::unique_ptr<kv_node::Segment>>> MakeSegments(
    const EvalInput& input, int kv_head, const RowCut& cut, const kv_node::Sampler& sampler,
    kv_node::Scratch& scratch) {
  std::vector<std::unique_ptr<kv_node::Segment>> segments;
  for (int64_t at = cut.dynamic_begin; at < cut.dynamic_end; at += base::kMaxSegmentRows) {
    const int64_t end = std::min(at + base::kMaxSegmentRows, cut.dynamic_end);
    ASSIGN_OR_RETURN(auto segment,
                     kv_node::Segment::Create(at, end - at, input.dim, input.dtype(),
                                              Packed(input.Keys(kv_head).Slice(at, end)),
                                              Packed(input.Values(kv_head).Slice(at, end))));
    ASSIGN_OR_RETURN(auto index, sampler.BuildIndex(*segment->rows(), scratch));
    segment->SetIndex(std::move(index));
    segments.push_back(std::move(segment));
  }
  return segments;
}

}  // namespace

RowCut::RowCut(int64_t n, int64_t sinks, int64_t window)
    : dynamic_begin(std::min(sinks, n)),
      dynamic_end(std::max(dynamic_begin, n - std::min(window, n))) {}

PackedRows::PackedRows(const memory::RowsView& keys, const memory::RowsView& values)
    : keys_(Packed(keys)), values_(Packed(values)), shape_(keys) {
  shape_.data = nullptr;
  shape_.row_stride = shape_.dim * static_cast<int64_t>(base::SizeOf(shape_.dtype));
}

memory::RowsView PackedRows::ViewOf(const memory::AlignedBuffer& buffer) const {
  memory::RowsView view = shape_;
  view.data = buffer.data();
  return view;
}

absl::StatusOr<std::unique_ptr<EvalHead>> EvalHead::Create(const EvalInput& input, int kv_head,
                                                           const RowCut& cut,
                                                           const kv_node::Sampler& sampler,
                                                           kv_node::Scratch& scratch) {
  ASSIGN_OR_RETURN(auto segments, MakeSegments(input, kv_head, cut, sampler, scratch));
  return std::unique_ptr<EvalHead>(
      new EvalHead(input, kv_head, cut, sampler, std::move(segments), scratch));
}

EvalHead::EvalHead(const EvalInput& input, int kv_head, const RowCut& cut,
                   const kv_node::Sampler& sampler,
                   std::vector<std::unique_ptr<kv_node::Segment>> segments,
                   kv_node::Scratch& scratch)
    : sampler_(sampler),
      scratch_(scratch),
      segments_(std::move(segments)),
      sinks_(input.Keys(kv_head).Slice(0, cut.dynamic_begin),
             input.Values(kv_head).Slice(0, cut.dynamic_begin)),
      window_(input.Keys(kv_head).Slice(cut.dynamic_end, input.n),
              input.Values(kv_head).Slice(cut.dynamic_end, input.n)),
      kv_head_(kv_head),
      group_(input.group()),
      dim_(input.dim),
      scale_(static_cast<float>(1 / std::sqrt(static_cast<double>(input.dim)))),
      outputs_(static_cast<size_t>(group_) * dim_),
      part_(outputs_.size()),
      part_lse_(group_) {}

void EvalHead::Attend(const float* queries, uint64_t sample_key, int64_t step,
                      kv_node::AttendStats& stats) {
  if (const lsh::Projection* projection = sampler_.projection()) {
    signatures_.resize(static_cast<size_t>(group_) * projection->params().words());
    kernels::SignVectors(*projection, queries, dim_, group_, signatures_.data());
  }
  std::fill(outputs_.begin(), outputs_.end(), 0.0f);
  lse_.assign(group_, attention::kEmptyLse);
  dynamic_lse_.assign(group_, attention::kEmptyLse);
  AttendExactly(queries, sinks_);
  for (const auto& segment : segments_) {
    kv_node::AttendStats one;
    sampler_.Attend(*segment,
                    {.queries = queries,
                     .group = group_,
                     .signatures = signatures_.empty() ? nullptr : signatures_.data(),
                     .row_begin = 0,
                     .row_end = segment->num_rows(),
                     .scale = scale_,
                     .sample_key = sample_key,
                     .step = static_cast<uint64_t>(step),
                     .kv_head = kv_head_,
                     .lse_hints = {}},
                    scratch_, part_.data(), part_lse_.data(), nullptr, &one);
    stats.Add(one);
    rows_exact_ += one.exact ? one.rows_read : 0;
    for (int h = 0; h < group_; ++h) {
      dynamic_lse_[h] = attention::WeightsOfMerge(dynamic_lse_[h], part_lse_[h]).lse;
    }
    MergePart();
  }
  AttendExactly(queries, window_);
}

void EvalHead::AttendExactly(const float* queries, const PackedRows& rows) {
  if (rows.rows() == 0) return;
  kernels::ExactAttention({.queries = queries,
                           .query_stride = dim_,
                           .num_queries = group_,
                           .keys = rows.keys(),
                           .values = rows.values(),
                           .scale = scale_,
                           .visible_rows = {}},
                          part_.data(), part_lse_.data());
  MergePart();
}

void EvalHead::MergePart() {
  for (int h = 0; h < group_; ++h) {
    attention::MergePartial(&outputs_[h * dim_], &lse_[h], &part_[h * dim_], part_lse_[h], dim_);
  }
}

size_t EvalHead::index_bytes() const {
  size_t sum = 0;
  for (const auto& segment : segments_) sum += segment->index_bytes();
  return sum;
}

size_t EvalHead::bytes() const {
  size_t sum = 0;
  for (const auto& segment : segments_) sum += segment->bytes();
  return sum;
}

}  // namespace sounder::cli
