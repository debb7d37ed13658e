#include "bench/quality/decode_attention.h"

#include <algorithm>
#include <cmath>

#include "common/attention/partial_output.h"
#include "common/base/dtype.h"
#include "common/kernels/exact_attention.h"
#include "common/kernels/signature.h"
#include "gpu_worker/kv/local_rows.h"

namespace sounder::quality {

DecodeAttention::DecodeAttention(const PromptCache& cache, const gpu_worker::ModelConfig& config,
                                 const Sampling& sampling, kv_node::Scratch& scratch)
    : cache_(cache),
      sampling_(sampling),
      scratch_(scratch),
      kv_heads_(static_cast<int>(config.num_kv_heads)),
      group_(static_cast<int>(config.num_query_heads / config.num_kv_heads)),
      dim_(static_cast<int>(config.head_dim)),
      scale_(1.0f / std::sqrt(static_cast<float>(config.head_dim))) {}

absl::Status DecodeAttention::Attend(int layer, const float* q, const float* k, const float* v,
                                     float* out) {
  const base::DType dtype = cache_.shape().dtype;
  const base::PositionRange middle = cache_.middle();
  const int64_t end = cache_.position();
  std::vector<float> queries(static_cast<size_t>(group_) * dim_);
  for (int head = 0; head < kv_heads_; ++head) {
    const size_t offset = head * queries.size();
    for (size_t i = 0; i < queries.size(); ++i) queries[i] = base::RoundTo(dtype, q[offset + i]);

    Part near = Empty();  // sinks, window and the row itself
    if (middle.begin > 0) {
      const gpu_worker::LocalPiece sinks = cache_.Rows(layer, head, {0, middle.begin});
      Merge(Exactly(queries.data(), sinks.keys, sinks.values), near);
    }
    if (middle.end < end) {
      const gpu_worker::LocalPiece window = cache_.Rows(layer, head, {middle.end, end});
      Merge(Exactly(queries.data(), window.keys, window.values), near);
    }
    gpu_worker::LocalRows own(dim_, dtype, 0);
    own.Append(k + head * dim_, v + head * dim_);
    Merge(Exactly(queries.data(), own.Window().keys, own.Window().values), near);

    Part sampled = Sampled(queries.data(), layer, head);
    const gpu_worker::LocalPiece rows = cache_.Rows(layer, head, middle);
    Part exact = Exactly(queries.data(), rows.keys, rows.values);
    Merge(near, sampled);
    Merge(near, exact);
    Compare(sampled, exact);
    std::copy(sampled.outputs.begin(), sampled.outputs.end(), out + offset);
  }
  return absl::OkStatus();
}

DecodeAttention::Part DecodeAttention::Empty() const {
  return {std::vector<float>(static_cast<size_t>(group_) * dim_),
          std::vector<float>(static_cast<size_t>(group_), attention::kEmptyLse)};
}

void DecodeAttention::Merge(const Part& from, Part& to) const {
  for (int h = 0; h < group_; ++h) {
    attention::MergePartial(&to.outputs[h * dim_], &to.lse[h], &from.outputs[h * dim_], from.lse[h],
                            dim_);
  }
}

DecodeAttention::Part DecodeAttention::Exactly(const float* queries, const memory::RowsView& keys,
                                               const memory::RowsView& values) const {
  Part part = Empty();
  kernels::ExactAttentionArgs args;
  args.queries = queries;
  args.query_stride = dim_;
  args.num_queries = group_;
  args.keys = keys;
  args.values = values;
  args.scale = scale_;
  kernels::ExactAttention(args, part.outputs.data(), part.lse.data());
  return part;
}

DecodeAttention::Part DecodeAttention::Sampled(const float* queries, int layer, int kv_head) {
  Part part = Empty();
  if (sampling_.sampler == nullptr) return part;
  const kv_node::Segment& segment = *(*sampling_.segments)[layer * kv_heads_ + kv_head];
  kv_node::GroupQuery query;
  query.queries = queries;
  query.group = group_;
  if (const lsh::Projection* projection = sampling_.sampler->projection()) {
    signatures_.resize(static_cast<size_t>(group_) * projection->params().words());
    kernels::SignVectors(*projection, queries, dim_, group_, signatures_.data());
    query.signatures = signatures_.data();
  }
  query.row_end = segment.num_rows();
  query.scale = scale_;
  query.sample_key = sampling_.sample_key;
  query.layer = layer;
  query.kv_head = kv_head;
  query.row_fraction = sampling_.row_fraction;
  kv_node::AttendStats stats;
  sampling_.sampler->Attend(segment, query, scratch_, part.outputs.data(), part.lse.data(), nullptr,
                            &stats);
  figures_.rows_read += stats.rows_read;
  figures_.rows_loaded += stats.rows_loaded;
  return part;
}

void DecodeAttention::Compare(const Part& sampled, const Part& exact) {
  for (int h = 0; h < group_; ++h) {
    double difference = 0, norm = 0;
    for (int d = h * dim_; d < (h + 1) * dim_; ++d) {
      const double truth = exact.outputs[d];
      const double delta = sampled.outputs[d] - truth;
      difference += delta * delta;
      norm += truth * truth;
    }
    figures_.error += difference == 0 ? 0 : std::sqrt(difference / norm);
    ++figures_.heads;
  }
}

}  // namespace sounder::quality
