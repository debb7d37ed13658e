// Keeps open sessions alive while nobody asks anything of the nodes.
#ifndef SOUNDER_GPU_WORKER_KV_KEEP_ALIVE_THREAD_H_
#define SOUNDER_GPU_WORKER_KV_KEEP_ALIVE_THREAD_H_

#include <condition_variable>
#include <mutex>
#include <thread>

#include "common/base/clock.h"
#include "gpu_worker/kv/kv_client.h"

namespace sounder::gpu_worker {

// Calls KvClient::KeepAlive every `interval` (> 0) of wall-clock time, on a thread of its own: the
// control calls it makes may block for their deadline, which neither the executor's thread nor a
// step of decode should wait for. The client outlives this object, whose end waits for a call that
// is under way.
class KeepAliveThread {
 public:
  KeepAliveThread(KvClient* client, base::Duration interval);
  ~KeepAliveThread();
  KeepAliveThread(const KeepAliveThread&) = delete;
  KeepAliveThread& operator=(const KeepAliveThread&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable end_;
  bool ending_ = false;  // guarded by mutex_
  std::thread thread_;   // the last: it uses the others
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_KV_KEEP_ALIVE_THREAD_H_
