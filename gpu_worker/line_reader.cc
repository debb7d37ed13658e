#include "gpu_worker/line_reader.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace sounder::gpu_worker {

bool LineReader::TakeLine(std::string* line) {
  const size_t end = buffer_.find('\n');
  if (end == std::string::npos) return false;
  line->assign(buffer_, 0, end);
  buffer_.erase(0, end + 1);
  if (line->ends_with('\r')) line->pop_back();
  return true;
}

LineReader::Outcome LineReader::Next(std::string* line) {
  for (;;) {
    if (TakeLine(line)) {
      if (!std::exchange(skipping_, false)) return Outcome::kLine;
      return Outcome::kTooLong;
    }
    if (buffer_.size() > kMaxLineBytes) skipping_ = true;
    if (skipping_) buffer_.clear();
    if (ended_) {
      if (std::exchange(skipping_, false)) return Outcome::kTooLong;
      if (buffer_.empty()) return Outcome::kEnd;
      *line = std::exchange(buffer_, {});
      return Outcome::kLine;
    }
    pollfd wait[] = {{input_, POLLIN, 0}, {wake_, POLLIN, 0}};
    if (::poll(wait, 2, -1) < 0 && errno == EINTR) continue;
    if (wait[1].revents != 0) return Outcome::kWoken;
    char bytes[65536];
    const ssize_t size = ::read(input_, bytes, sizeof bytes);
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (size > 0) {
      buffer_.append(bytes, static_cast<size_t>(size));
    } else {
      ended_ = true;
    }
  }
}

}  // namespace sounder::gpu_worker
