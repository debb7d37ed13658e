// One Fetch request on its way through the node: rows and token ids from the sessions, the reply.
#ifndef SOUNDER_KV_NODE_SERVER_FETCH_JOB_H_
#define SOUNDER_KV_NODE_SERVER_FETCH_JOB_H_

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "common/base/clock.h"
#include "common/wire/messages.h"
#include "kv_node/session/session_map.h"

namespace sounder::kv_node {

// Runs once. Shared by what waits in sessions; `done` is called exactly once with the reply, whose
// spans point into the job, which lives until `done` returns.
class FetchJob : public std::enable_shared_from_this<FetchJob> {
 public:
  using Done = std::function<void(const wire::FetchReply& reply)>;
  FetchJob(wire::FetchRequest request, base::Time deadline, SessionMap* sessions, Done done);

  void Start();

 private:
  void OnFetched(size_t item, absl::StatusOr<FetchedRows> rows);
  void FillReplyItem(size_t item, FetchedRows rows);

  const wire::FetchRequest request_;
  const base::Time deadline_;
  SessionMap* const sessions_;
  const Done done_;
  std::atomic<size_t> unfinished_;
  wire::FetchReply reply_;
  // By item, each written once before unfinished_ drops: what the reply points into.
  std::vector<memory::AlignedBuffer> rows_;  // keys, then values
  std::vector<std::vector<int32_t>> tokens_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_FETCH_JOB_H_
