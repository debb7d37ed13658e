// One Fetch request on its way through the node: rows and token ids from the sessions, the reply.
#ifndef SOUNDER_KV_NODE_SERVER_FETCH_JOB_H_
#define SOUNDER_KV_NODE_SERVER_FETCH_JOB_H_

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "common/base/executor.h"
#include "common/wire/messages.h"
#include "kv_node/server/byte_quota.h"
#include "kv_node/session/session_map.h"
#include "kv_node/store/row_source.h"

namespace sounder::kv_node {

// Runs once. Shared by what waits in sessions and for the disk; `done` is called exactly once, on
// the executor's threads or within Start, with the reply, whose spans point into the job, which
// lives until `done` returns.
class FetchJob : public std::enable_shared_from_this<FetchJob> {
 public:
  using Done = std::function<void(const wire::FetchReply& reply)>;
  // rows: of the store; null: the node has none. room: for the pages that are read. The pointers
  // outlive the job.
  FetchJob(wire::FetchRequest request, base::Time deadline, SessionMap* sessions, RowSource* rows,
           ByteQuota* room, base::Executor* executor, Done done);

  void Start();

 private:
  // Runs of rows of an item that are read from the store into the reply's memory, one after the
  // other as far as there is room for their pages.
  struct StoredRuns {
    std::vector<std::vector<uint16_t>> rows;
    std::vector<RowRequest> requests;
    size_t next = 0;  // request that has not been read yet
    // Of the requests before it that are read now, or wait for room.
    std::vector<RowRequest> batch;
    uint64_t room = 0;
  };

  void OnFetched(size_t item, absl::StatusOr<FetchedRows> rows);
  void FillReplyItem(size_t item, FetchedRows rows);
  void AddStoredRun(size_t item, const Piece& piece, std::span<std::byte> keys,
                    std::span<std::byte> values);
  void ReadNext(size_t item);
  void ReadBatch(size_t item);
  void OnRead(size_t item, std::span<const absl::Status> statuses);
  void FinishOne();

  const wire::FetchRequest request_;
  const base::Time deadline_;
  SessionMap* const sessions_;
  RowSource* const source_;
  ByteQuota* const room_;
  base::Executor* const executor_;
  const Done done_;
  std::atomic<size_t> unfinished_;
  wire::FetchReply reply_;
  // By item, each written once before unfinished_ drops: what the reply points into.
  std::vector<memory::AlignedBuffer> rows_;  // keys, then values
  std::vector<std::vector<int32_t>> tokens_;
  std::vector<StoredRuns> stored_;  // by item; touched by one thread at a time
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_FETCH_JOB_H_
