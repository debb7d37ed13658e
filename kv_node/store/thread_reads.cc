#include "kv_node/store/thread_reads.h"

#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "common/base/check.h"

namespace sounder::kv_node {

ThreadReads::ThreadReads(int num_threads) {
  CHECK(num_threads >= 1) << num_threads;
  for (int i = 0; i < num_threads; ++i) {
    threads_.emplace_back([this] { Loop(); });
    pthread_setname_np(threads_.back().native_handle(), "disk_reads");
  }
}

ThreadReads::~ThreadReads() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadReads::Submit(std::shared_ptr<ReadBatch> batch) {
  const size_t size = batch->size();
  {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < size; ++i) queue_.push_back({.batch = batch, .index = i});
  }
  if (size == 1) {
    ready_.notify_one();
  } else {
    ready_.notify_all();
  }
}

void ThreadReads::Loop() {
  while (true) {
    ReadInFlight read;
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [this] { return !queue_.empty() || stopping_; });
      if (queue_.empty()) return;
      read = std::move(queue_.front());
      queue_.pop_front();
    }
    const DiskRead& asked = read.batch->read(read.index);
    absl::Status status;
    int64_t result = 0;
    do {
      result = pread(read.batch->fd(read.index), asked.into.data() + read.got,
                     asked.into.size() - read.got, static_cast<off_t>(asked.offset + read.got));
      if (result < 0) result = -errno;
    } while (!ReadIsOver(read, result, status));
    read.batch->Finish(read.index, std::move(status));
  }
}

}  // namespace sounder::kv_node
