#include "common/wire/kj_inbox.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

#include "common/base/check.h"

namespace sounder::wire {

KjInbox::KjInbox() : event_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  CHECK(event_fd_ >= 0) << "no file descriptor for an event loop";
}

KjInbox::~KjInbox() { close(event_fd_); }

bool KjInbox::Post(base::Work work) {
  {
    std::lock_guard lock(mutex_);
    if (closed_) return false;
    queue_.push_back(std::move(work));
  }
  Wake();
  return true;
}

void KjInbox::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  Wake();
}

void KjInbox::Wake() {
  const uint64_t one = 1;
  // Fails only when 2^64 - 2 wake-ups are pending, and then the loop is awake.
  (void)!write(event_fd_, &one, sizeof one);
}

bool KjInbox::RunQueued() {
  std::deque<base::Work> batch;
  bool stop;
  {
    std::lock_guard lock(mutex_);
    batch.swap(queue_);
    stop = stopping_;
  }
  for (base::Work& work : batch) work();
  return stop;
}

void KjInbox::Serve(kj::AsyncIoContext& io) {
  auto wake_ups =
      io.lowLevelProvider->wrapInputFd(event_fd_, kj::LowLevelAsyncIoProvider::ALREADY_NONBLOCK |
                                                      kj::LowLevelAsyncIoProvider::ALREADY_CLOEXEC);
  uint64_t count = 0;
  while (!RunQueued()) wake_ups->read(&count, sizeof count).wait(io.waitScope);
}

void KjInbox::Close() {
  for (;;) {
    {
      std::lock_guard lock(mutex_);
      closed_ = queue_.empty();
      if (closed_) return;
    }
    RunQueued();
  }
}

}  // namespace sounder::wire
