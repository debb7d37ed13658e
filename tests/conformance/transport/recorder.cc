#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "tests/conformance/transport/world.h"

namespace sounder::transport {

void Pulse::Beat() {
  {
    const std::lock_guard lock(mutex_);
    ++beats_;
  }
  beaten_.notify_all();
}

bool Pulse::WaitFor(const std::function<bool()>& done) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (;;) {
    uint64_t seen;
    {
      const std::lock_guard lock(mutex_);
      seen = beats_;
    }
    if (done()) return true;
    std::unique_lock lock(mutex_);
    if (!beaten_.wait_until(lock, deadline, [&] { return beats_ != seen; })) return done();
  }
}

// Events happen one at a time, on whatever thread.
class Recorder::Enter {
 public:
  explicit Enter(Recorder* recorder) : recorder_(recorder) {
    const std::lock_guard lock(recorder_->mutex_);
    if (recorder_->inside_) recorder_->Violate("two events at once");
    recorder_->inside_ = true;
  }
  ~Enter() {
    {
      const std::lock_guard lock(recorder_->mutex_);
      recorder_->inside_ = false;
    }
    recorder_->pulse_->Beat();
  }

 private:
  Recorder* recorder_;
};

void Recorder::Violate(const std::string& what) { absl::StrAppend(&violations_, what, "; "); }

void Recorder::OnAccept(ConnectionId connection, const std::string&) {
  const Enter enter(this);
  {
    const std::lock_guard lock(mutex_);
    accepted_.push_back(connection);
    if (connection == 0) Violate("connection 0");
  }
  if (on_accept) on_accept(connection);
}

void Recorder::OnMessage(ConnectionId connection, Message message) {
  const Enter enter(this);
  if (on_message) on_message(connection, message);  // before it counts as arrived
  const std::lock_guard lock(mutex_);
  if (closed_.count(connection) > 0) Violate("a message after OnClosed");
  ++message_count_;
  ++message_counts_[connection];
  messages_.emplace_back(connection, std::move(message));
}

void Recorder::OnClosed(ConnectionId connection, absl::Status reason) {
  const Enter enter(this);
  {
    const std::lock_guard lock(mutex_);
    if (!closed_.emplace(connection, std::move(reason)).second) Violate("a second OnClosed");
  }
  if (on_closed) on_closed(connection);
}

SendDone Recorder::Done() {
  const std::lock_guard lock(mutex_);
  const size_t number = done_calls_.size();
  done_calls_.push_back(0);
  return [this, number](const absl::Status& status) {
    const Enter enter(this);
    const std::lock_guard inner(mutex_);
    if (++done_calls_[number] > 1) Violate("a second SendDone");
    ++done_;
    done_ok_ += status.ok() ? 1 : 0;
  };
}

int64_t Recorder::done_count() const {
  const std::lock_guard lock(mutex_);
  return done_;
}
int64_t Recorder::done_ok_count() const {
  const std::lock_guard lock(mutex_);
  return done_ok_;
}
int64_t Recorder::done_asked() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(done_calls_.size());
}
std::vector<ConnectionId> Recorder::accepted() const {
  const std::lock_guard lock(mutex_);
  return accepted_;
}
size_t Recorder::message_count() const {
  const std::lock_guard lock(mutex_);
  return message_count_;
}
size_t Recorder::message_count(ConnectionId connection) const {
  const std::lock_guard lock(mutex_);
  const auto found = message_counts_.find(connection);
  return found == message_counts_.end() ? 0 : found->second;
}
std::vector<std::pair<ConnectionId, Message>> Recorder::TakeMessages() {
  const std::lock_guard lock(mutex_);
  std::vector<std::pair<ConnectionId, Message>> taken;
  for (auto& each : messages_) taken.push_back(std::move(each));
  messages_.clear();
  return taken;
}
size_t Recorder::closed_count() const {
  const std::lock_guard lock(mutex_);
  return closed_.size();
}
bool Recorder::IsClosed(ConnectionId connection) const {
  const std::lock_guard lock(mutex_);
  return closed_.count(connection) > 0;
}
absl::Status Recorder::CloseReason(ConnectionId connection) const {
  const std::lock_guard lock(mutex_);
  const auto found = closed_.find(connection);
  return found == closed_.end() ? absl::InternalError("not closed") : found->second;
}
std::string Recorder::Violations() const {
  const std::lock_guard lock(mutex_);
  return violations_;
}

namespace {

std::byte PatternByte(size_t i, uint32_t seed) {
  return static_cast<std::byte>((i * 2654435761u + (i >> 8) * 40503u + seed * 97u) >> 7);
}

}  // namespace

std::vector<std::byte> PatternHeader(size_t bytes, uint32_t seed) {
  std::vector<std::byte> header(bytes);
  for (size_t i = 0; i < bytes; ++i) header[i] = PatternByte(i, ~seed);
  return header;
}

memory::AlignedBuffer Pattern(size_t bytes, uint32_t seed) {
  memory::AlignedBuffer buffer(bytes);
  for (size_t i = 0; i < bytes; ++i) buffer.data()[i] = PatternByte(i, seed);
  return buffer;
}

Message PatternMessage(size_t header_bytes, size_t payload_bytes, uint32_t seed) {
  return {PatternHeader(header_bytes, seed), Pattern(payload_bytes, seed)};
}

std::string ComparePattern(const Message& message, size_t header_bytes, size_t payload_bytes,
                           uint32_t seed) {
  if (message.header.size() != header_bytes || message.payload.size() != payload_bytes) {
    return absl::StrCat("sizes ", message.header.size(), " + ", message.payload.size(),
                        ", expected ", header_bytes, " + ", payload_bytes);
  }
  if (message.header != PatternHeader(header_bytes, seed)) return "the header differs";
  for (size_t i = 0; i < payload_bytes; ++i) {
    if (message.payload.data()[i] != PatternByte(i, seed)) {
      return absl::StrCat("the payload differs at byte ", i);
    }
  }
  if (reinterpret_cast<uintptr_t>(message.payload.data()) % memory::kAlignment != 0) {
    return "the payload is not aligned";
  }
  return "";
}

}  // namespace sounder::transport
