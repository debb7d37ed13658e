// A node with one session of synthetic rows, and requests to it: what the suite measures threads
// and processes on.
#ifndef SOUNDER_BENCH_SUITE_ATTEND_NODE_H_
#define SOUNDER_BENCH_SUITE_ATTEND_NODE_H_

#include <pthread.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/base/thread_executor.h"
#include "kv_node/sampler/scratch_pool.h"
#include "kv_node/server/attend_queue.h"
#include "kv_node/session/session_map.h"

namespace sounder::suite {

struct AttendNodeSpec {
  int64_t n = 65536;
  uint32_t kv_heads = 4;
  uint32_t group = 4;
  uint32_t dim = 128;
  uint32_t seal_rows = 4096;
  wire::AttentionKind attention = wire::AttentionKind::kExact;  // or kLshTables: 10 bits, 150
};

// What a thread has done: instructions it retired in user mode, where the machine counts them, or
// else its CPU time in nanoseconds.
class ThreadWork {
 public:
  // Of the calling thread; readable by any.
  ThreadWork();
  ~ThreadWork();
  ThreadWork(const ThreadWork&) = delete;
  ThreadWork& operator=(const ThreadWork&) = delete;
  bool counts_instructions() const { return counter_ >= 0; }
  uint64_t Now() const;

 private:
  int counter_;
  clockid_t cpu_clock_;
};

// The work path of a node (plans, units, merges) without its transport. Requests come one at a
// time, from one thread.
class AttendNode {
 public:
  // A thread on each of `cpus`: schedulers put two threads that wake each other on one CPU when
  // both are busy with other programs.
  AttendNode(const AttendNodeSpec& spec, std::span<const int> cpus);

  // One decode step over all rows; returns when it has been answered (CHECKs that it was).
  void Attend();
  // By thread of the node.
  std::vector<uint64_t> Work() const;
  bool counts_instructions() const { return work_[0]->counts_instructions(); }

 private:
  void Fill();
  wire::AttendRequest NextRequest();

  const AttendNodeSpec spec_;
  wire::SessionRef session_;
  std::vector<std::vector<float>> queries_;        // by step
  std::vector<std::vector<uint64_t>> signatures_;  // by step
  uint64_t step_ = 0;
  kv_node::ScratchPool scratches_;
  std::vector<std::unique_ptr<ThreadWork>> work_;
  base::ThreadExecutor executor_;
  kv_node::SessionMap map_;
  metrics::Registry registry_;
  kv_node::ServerProbe probe_;
  kv_node::AttendQueue queue_;
};

}  // namespace sounder::suite

#endif  // SOUNDER_BENCH_SUITE_ATTEND_NODE_H_
