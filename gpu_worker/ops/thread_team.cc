#include "gpu_worker/ops/thread_team.h"

#include "common/base/check.h"

namespace sounder::gpu_worker {

ThreadTeam::ThreadTeam(int size) {
  CHECK(size >= 1) << size;
  for (int member = 1; member < size; ++member)
    threads_.emplace_back([this, member] { Work(member); });
}

ThreadTeam::~ThreadTeam() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  work_ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadTeam::Take(int member, const std::function<void(int64_t, int)>& body) {
  for (;;) {
    int64_t iteration;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (next_ >= iterations_) return;
      iteration = next_++;
    }
    body(iteration, member);
  }
}

void ThreadTeam::For(int64_t iterations, int members,
                     const std::function<void(int64_t, int)>& body) {
  if (members <= 1 || threads_.empty() || iterations <= 1) {
    for (int64_t i = 0; i < iterations; ++i) body(i, 0);
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    body_ = &body;
    next_ = 0;
    iterations_ = iterations;
    members_ = members;
  }
  work_ready_.notify_all();
  Take(0, body);
  std::unique_lock<std::mutex> lock(mutex_);
  work_done_.wait(lock, [this] { return active_ == 0; });
  body_ = nullptr;
}

void ThreadTeam::Work(int member) {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    work_ready_.wait(lock, [&] {
      return stopping_ || (body_ != nullptr && member < members_ && next_ < iterations_);
    });
    if (stopping_) return;
    const std::function<void(int64_t, int)>* body = body_;
    ++active_;
    lock.unlock();
    Take(member, *body);
    lock.lock();
    if (--active_ == 0) work_done_.notify_one();
  }
}

}  // namespace sounder::gpu_worker
