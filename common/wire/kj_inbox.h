// The way into a thread that runs a kj event loop. Private to common/wire.
//
// kj has calls across threads of its own, but they synchronise inside the library with futexes that
// no thread sanitizer sees: everything handed over looks like a race. Here the hand-over happens
// under a mutex of ours, and an eventfd wakes the loop.
#ifndef SOUNDER_COMMON_WIRE_KJ_INBOX_H_
#define SOUNDER_COMMON_WIRE_KJ_INBOX_H_

#include <kj/async-io.h>

#include <deque>
#include <mutex>

#include "common/base/executor.h"

namespace sounder::wire {

// Lives as long as anybody may post to it (shared), longer than the loop it belongs to.
class KjInbox {
 public:
  KjInbox();
  ~KjInbox();
  KjInbox(const KjInbox&) = delete;
  KjInbox& operator=(const KjInbox&) = delete;

  // Any thread: `work` will run, and be destroyed, on the loop's thread, in the order posted.
  // False after Close: the work will not run, and nothing of the loop is left.
  bool Post(base::Work work);
  // Any thread: Serve returns after the work posted before.
  void Stop();

  // The loop's thread: runs the event loop and what is posted, until Stop.
  void Serve(kj::AsyncIoContext& io);
  // Its thread, when the event loop itself and all its promises are destroyed: runs what is queued
  // and refuses what comes later.
  void Close();

 private:
  // Runs what is queued; true once it is time to stop.
  bool RunQueued();
  void Wake();

  const int event_fd_;
  std::mutex mutex_;
  std::deque<base::Work> queue_;  // guarded by mutex_
  bool stopping_ = false;         // guarded by mutex_
  bool closed_ = false;           // guarded by mutex_
};

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_KJ_INBOX_H_
