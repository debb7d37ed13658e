#include "gpu_worker/engine/remote_block.h"

#include <cmath>
#include <utility>

#include "common/attention/partial_output.h"

namespace sounder::gpu_worker {
namespace {

AttendQuery RequestOf(const ModelConfig& config, const Sequence& sequence) {
  AttendQuery query;
  query.session = sequence.session.get();
  query.layout_position = sequence.positions;
  query.scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  query.sample_key = sequence.sample_key;
  query.step = static_cast<uint64_t>(sequence.steps);
  return query;
}

}  // namespace

RemoteBlock::RemoteBlock(KvClient* client, const ModelConfig& config, uint32_t layer,
                         const Sequence& sequence, base::PositionRange middle, const float* queries,
                         int64_t count)
    : client_(client),
      layer_(layer),
      query_width_(config.query_width()),
      query_heads_(config.num_query_heads),
      count_(count),
      queries_(queries),
      request_(RequestOf(config, sequence)),
      blocks_(CutQueryBlock(count, middle, sequence.session->options().seal_rows, sequence.marks,
                            LimitsOf(config.num_query_heads, config.head_dim))) {
  SendMore();
}

void RemoteBlock::SendMore() {
  for (; in_flight_.size() < kInFlight && next_ < blocks_.size(); ++next_) {
    Call& call = in_flight_.emplace_back();
    call.block = next_;
    call.query = request_;
    call.query.queries = queries_ + blocks_[next_].first * query_width_;
    call.query.query_count = static_cast<uint32_t>(blocks_[next_].count);
    call.query.range = blocks_[next_].range;
    call.pending = client_->StartAttend(layer_, {&call.query, 1});
  }
}

absl::Status RemoteBlock::Finish(HeadsOutput* output) {
  output->outputs.assign(static_cast<size_t>(count_ * query_width_), 0);
  output->lse.assign(static_cast<size_t>(count_ * query_heads_), attention::kEmptyLse);
  while (!in_flight_.empty()) {
    Call& call = in_flight_.front();
    call.pending->Wait();
    if (!call.query.status.ok()) {
      const absl::Status failure = call.query.status;
      in_flight_.clear();  // waits for the others
      return failure;
    }
    const int64_t first = blocks_[call.block].first;
    MergeHeads(call.query.outputs, call.query.lse, output->outputs.data() + first * query_width_,
               output->lse.data() + first * query_heads_);
    rows_loaded_ += call.query.rows_loaded;
    in_flight_.pop_front();
    SendMore();
  }
  return absl::OkStatus();
}

}  // namespace sounder::gpu_worker
