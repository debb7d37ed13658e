#include "gpu_worker/kv/keep_alive_thread.h"

#include "common/base/check.h"

namespace sounder::gpu_worker {

KeepAliveThread::KeepAliveThread(KvClient* client, base::Duration interval) {
  CHECK(client != nullptr && interval > base::Duration::zero());
  thread_ = std::thread([this, client, interval] {
    std::unique_lock lock(mutex_);
    while (!end_.wait_for(lock, interval, [this] { return ending_; })) {
      lock.unlock();
      client->KeepAlive();
      lock.lock();
    }
  });
}

KeepAliveThread::~KeepAliveThread() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  end_.notify_all();
  thread_.join();
}

}  // namespace sounder::gpu_worker
