#include "gpu_worker/engine/local_attention.h"

#include <algorithm>
#include <cmath>

#include "common/attention/partial_output.h"
#include "common/base/check.h"
#include "common/kernels/exact_attention.h"

namespace sounder::gpu_worker {

void MergeHeads(const std::vector<float>& outputs, const std::vector<float>& lse,
                float* into_outputs, float* into_lse) {
  CHECK(!lse.empty() && outputs.size() % lse.size() == 0);
  const size_t dim = outputs.size() / lse.size();
  for (size_t head = 0; head < lse.size(); ++head) {
    attention::MergePartial(into_outputs + head * dim, into_lse + head, outputs.data() + head * dim,
                            lse[head], static_cast<int>(dim));
  }
}

LocalAttention::LocalAttention(const ModelConfig& config)
    : kv_heads_(config.num_kv_heads),
      group_(config.num_query_heads / config.num_kv_heads),
      dim_(config.head_dim),
      query_width_(config.query_width()),
      scale_(1.0f / std::sqrt(static_cast<float>(config.head_dim))) {}

void LocalAttention::Attend(const std::vector<LocalRows>& rows, base::PositionRange range,
                            const float* queries, base::Position first, int64_t count,
                            HeadsOutput* part) {
  const int64_t of_head = count * group_;
  part->outputs.resize(static_cast<size_t>(count * query_width_));
  part->lse.resize(static_cast<size_t>(of_head * kv_heads_));
  packed_.resize(static_cast<size_t>(of_head * dim_));
  outputs_.resize(packed_.size());
  lse_.resize(static_cast<size_t>(of_head));
  visible_.clear();
  if (range.end > first + 1) {  // the first query does not see all
    for (int64_t t = 0; t < count; ++t) {
      const int64_t seen = std::clamp<int64_t>(first + t + 1 - range.begin, 0, range.size());
      visible_.insert(visible_.end(), static_cast<size_t>(group_), seen);
    }
  }
  for (int64_t head = 0; head < kv_heads_; ++head) {
    for (int64_t t = 0; t < count; ++t) {
      std::copy_n(queries + t * query_width_ + head * group_ * dim_, group_ * dim_,
                  packed_.data() + t * group_ * dim_);
    }
    const LocalPiece piece = rows[static_cast<size_t>(head)].Range(range);
    kernels::ExactAttentionArgs args;
    args.queries = packed_.data();
    args.query_stride = dim_;
    args.num_queries = static_cast<int>(of_head);
    args.keys = piece.keys;
    args.values = piece.values;
    args.scale = scale_;
    args.visible_rows = visible_;
    kernels::ExactAttention(args, outputs_.data(), lse_.data());
    for (int64_t t = 0; t < count; ++t) {
      std::copy_n(outputs_.data() + t * group_ * dim_, group_ * dim_,
                  part->outputs.data() + t * query_width_ + head * group_ * dim_);
      std::copy_n(lse_.data() + t * group_, group_,
                  part->lse.data() + (t * kv_heads_ + head) * group_);
    }
  }
}

}  // namespace sounder::gpu_worker
