// Exact attention of a block of a prompt's queries to rows on the nodes.
#ifndef SOUNDER_GPU_WORKER_ENGINE_REMOTE_BLOCK_H_
#define SOUNDER_GPU_WORKER_ENGINE_REMOTE_BLOCK_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/engine/local_attention.h"
#include "gpu_worker/engine/query_blocks.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/model/model_config.h"

namespace sounder::gpu_worker {

// One block, cut so that it fits into messages and into the nodes' memory; a row is read once for
// all queries of the block, but where they are more than fit. Not thread safe.
class RemoteBlock {
 public:
  // Sends the first requests. `queries` [count, query heads, dim], rounded, at the positions that
  // follow the sequence's; every one sees all of `middle`, which is not empty. They and the
  // sequence's session outlive this object.
  RemoteBlock(KvClient* client, const ModelConfig& config, uint32_t layer, const Sequence& sequence,
              base::PositionRange middle, const float* queries, int64_t count);

  // Sends the others and waits for all answers. The first failure: then `output` is of no use. To
  // be called once.
  absl::Status Finish(HeadsOutput* output);
  // Of the answers.
  uint64_t blocks() const { return blocks_.size(); }
  uint64_t rows_loaded() const { return rows_loaded_; }

 private:
  // Several, so that nodes that hold different rows work at the same time; few, for an answer takes
  // megabytes here, and as many times that on the node as it has units of work.
  static constexpr size_t kInFlight = 4;

  struct Call {
    size_t block = 0;
    AttendQuery query;
    std::unique_ptr<KvClient::PendingAttend> pending;  // goes before the query
  };
  void SendMore();

  KvClient* const client_;
  const uint32_t layer_;
  const int64_t query_width_;
  const int64_t query_heads_;
  const int64_t count_;
  const float* const queries_;
  const AttendQuery request_;  // what all have in common
  const std::vector<QueryBlock> blocks_;
  size_t next_ = 0;
  std::deque<Call> in_flight_;
  uint64_t rows_loaded_ = 0;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_ENGINE_REMOTE_BLOCK_H_
