#include "gpu_worker/stop_signals.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>

#include "common/base/check.h"

namespace sounder::gpu_worker {
namespace {

// A handler has no object to work on.
std::atomic<bool> stop_requested{false};
std::atomic<int> end_signal{0};
bool first_interrupt_ends = true;
int wake[2] = {-1, -1};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

void OnSignal(int number) {
  const int saved = errno;
  if (first_interrupt_ends || number != SIGINT || stop_requested) {
    end_signal = number;
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
  }
  stop_requested = true;
  // Full is as good as written.
  [[maybe_unused]] const ssize_t written = ::write(wake[1], "!", 1);
  errno = saved;
}

}  // namespace

StopSignals::StopSignals(Interrupt interrupt) {
  CHECK(wake[0] < 0) << "signals are taken already";
  CHECK(::pipe2(wake, O_CLOEXEC | O_NONBLOCK) == 0);
  first_interrupt_ends = interrupt == Interrupt::kEnd;
  signal(SIGPIPE, SIG_IGN);
  signal(SIGINT, OnSignal);
  signal(SIGTERM, OnSignal);
}

const std::atomic<bool>& StopSignals::requested() const { return stop_requested; }
void StopSignals::Request() { stop_requested = true; }
void StopSignals::End() { end_signal = SIGINT; }
int StopSignals::ended_by() const { return end_signal; }
int StopSignals::descriptor() const { return wake[0]; }

void StopSignals::Consume() {
  char bytes[64];
  while (::read(wake[0], bytes, sizeof bytes) > 0) {
  }
  if (end_signal == 0) stop_requested = false;
}

}  // namespace sounder::gpu_worker
