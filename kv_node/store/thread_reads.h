// Reads by a pool of threads that block in pread: for systems that forbid io_uring (containers'
// seccomp profiles do).
#ifndef SOUNDER_KV_NODE_STORE_THREAD_READS_H_
#define SOUNDER_KV_NODE_STORE_THREAD_READS_H_

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kv_node/store/read_queue.h"

namespace sounder::kv_node {

class ThreadReads final : public ReadQueue {
 public:
  explicit ThreadReads(int num_threads);  // >= 1
  ~ThreadReads() override;
  void Submit(std::shared_ptr<ReadBatch> batch) override;

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<ReadInFlight> queue_;  // guarded by mutex_
  bool stopping_ = false;           // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_THREAD_READS_H_
