#include "common/transport/faulty_transport.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "common/base/philox.h"
#include "common/transport/message_limits.h"

namespace sounder::transport {
namespace {

Message CopyOf(const Message& message) {
  return {message.header, memory::AlignedBuffer::CopyOf(message.payload.bytes())};
}

void FlipBit(Message& message, uint64_t random) {
  const size_t bits = 8 * (message.header.size() + message.payload.size());
  if (bits == 0) return;
  const size_t bit = random % bits;
  const size_t byte = bit / 8;
  const auto mask = static_cast<std::byte>(1u << bit % 8);
  if (byte < message.header.size()) {
    message.header[byte] ^= mask;
  } else {
    message.payload.data()[byte - message.header.size()] ^= mask;
  }
}

}  // namespace

const char* NameOf(Fault fault) {
  static constexpr const char* kNames[kFaultKinds] = {"delay",    "drop", "duplicate", "reorder",
                                                      "truncate", "flip", "reset"};
  return kNames[static_cast<size_t>(fault)];
}

// The mutex is never held while user code runs; the inner transport's Connect, Send and Close are
// called under it, which is safe because no transport calls back from inside them.
class FaultyTransport::State final : public TransportEvents,
                                     public std::enable_shared_from_this<State> {
 public:
  State(Transport* inner, base::Executor* executor, FaultOptions options, uint64_t seed)
      : inner_(inner), executor_(executor), options_(options), seed_(seed) {}

  void OnAccept(ConnectionId connection, const std::string& peer) override {
    {
      const std::lock_guard lock(mutex_);
      lines_.try_emplace(connection, seed_, connection);
    }
    events->OnAccept(connection, peer);
  }
  void OnMessage(ConnectionId connection, Message message) override {
    events->OnMessage(connection, std::move(message));
  }
  void OnClosed(ConnectionId connection, absl::Status reason) override;

  absl::StatusOr<ConnectionId> Connect(const std::string& address);
  void Send(ConnectionId connection, Message message, SendMode mode, SendDone done);
  void Close(ConnectionId connection);
  // No timer touches the inner transport any more. What callbacks still do before it is gone goes
  // straight to it.
  void Stop();

  std::vector<FaultRecord> faults() const {
    const std::lock_guard lock(mutex_);
    return faults_;
  }

  TransportEvents* events = nullptr;  // set by Start

 private:
  struct Parcel {
    Message message;
    SendMode mode = SendMode::kAuto;
    SendDone done;
  };
  struct Line {
    explicit Line(uint64_t seed, ConnectionId id) : random(seed, id) {}
    base::PhiloxStream random;
    uint64_t messages = 0;
    std::deque<Parcel> delayed;
    base::Time free_at{};     // when the last of `delayed` goes out
    std::deque<Parcel> held;  // to be overtaken
    bool reset = false;
  };
  struct Draw {
    std::array<bool, kFaultKinds> hit{};
    double delay = 0;
    uint64_t random = 0;
    bool has(Fault fault) const { return hit[static_cast<size_t>(fault)]; }
  };

  Draw DrawFaults(Line& line) const;
  void SendDelayed(ConnectionId connection, Line& line, Parcel parcel, const Draw& draw);
  void SendNow(ConnectionId connection, Parcel parcel);
  void ReleaseHeld(ConnectionId connection, Line& line);
  // Ends a send that the inner transport never saw, in the order of its events.
  void Answer(SendDone done, absl::Status status);
  std::vector<SendDone> TakeUnsent(Line& line);
  void At(base::Duration delay, ConnectionId connection, void (State::*act)(ConnectionId, Line&));
  void SendFirstDelayed(ConnectionId connection, Line& line);

  Transport* const inner_;
  base::Executor* const executor_;
  const FaultOptions options_;
  const uint64_t seed_;
  mutable std::mutex mutex_;
  bool stopped_ = false;                          // guarded by mutex_
  std::unordered_map<ConnectionId, Line> lines_;  // of live connections; guarded by mutex_
  std::vector<FaultRecord> faults_;               // guarded by mutex_
};

FaultyTransport::State::Draw FaultyTransport::State::DrawFaults(Line& line) const {
  const double chances[kFaultKinds] = {options_.delay,   options_.drop,     options_.duplicate,
                                       options_.reorder, options_.truncate, options_.flip,
                                       options_.reset};
  Draw draw;  // always the same number of draws, so that a fault does not shift the others
  for (size_t kind = 0; kind < kFaultKinds; ++kind) {
    draw.hit[kind] = line.random.NextUniform() < chances[kind];
  }
  draw.delay = line.random.NextUniform();
  draw.random = line.random.Next64();
  return draw;
}

// Under the mutex, so that the connection has its line before it can end.
absl::StatusOr<ConnectionId> FaultyTransport::State::Connect(const std::string& address) {
  const std::lock_guard lock(mutex_);
  absl::StatusOr<ConnectionId> connection = inner_->Connect(address);
  if (connection.ok()) lines_.try_emplace(*connection, seed_, *connection);
  return connection;
}

void FaultyTransport::State::Send(ConnectionId connection, Message message, SendMode mode,
                                  SendDone done) {
  const std::lock_guard lock(mutex_);
  Parcel parcel{std::move(message), mode, std::move(done)};
  const auto found = lines_.find(connection);
  if (stopped_ || found == lines_.end() || !CheckLimits(parcel.message).ok()) {
    return SendNow(connection, std::move(parcel));
  }
  Line& line = found->second;
  const Draw draw = DrawFaults(line);
  const uint64_t number = line.messages++;
  const auto strikes = [&](Fault fault) {
    if (draw.has(fault)) faults_.push_back({fault, connection, number});
    return draw.has(fault);
  };
  if (strikes(Fault::kReset)) {
    line.reset = true;
    Answer(std::move(parcel.done), absl::UnavailableError("injected reset"));
    for (SendDone& each : TakeUnsent(line)) {
      Answer(std::move(each), absl::UnavailableError("injected reset"));
    }
    return inner_->Close(connection);
  }
  if (strikes(Fault::kDrop)) return Answer(std::move(parcel.done), absl::OkStatus());
  if (!parcel.message.payload.empty() && strikes(Fault::kTruncate)) {
    const auto& payload = parcel.message.payload;
    parcel.message.payload =
        memory::AlignedBuffer::CopyOf(payload.bytes().first(draw.random % payload.size()));
  }
  if (strikes(Fault::kFlip)) FlipBit(parcel.message, draw.random);
  if (strikes(Fault::kReorder)) {
    line.held.push_back(std::move(parcel));
    return At(options_.delay_max, connection, &State::ReleaseHeld);
  }
  Parcel twin;
  const bool twice = strikes(Fault::kDuplicate);
  if (twice) twin = {CopyOf(parcel.message), mode, nullptr};
  if (draw.has(Fault::kDelay)) faults_.push_back({Fault::kDelay, connection, number});
  SendDelayed(connection, line, std::move(parcel), draw);
  if (twice) SendDelayed(connection, line, std::move(twin), draw);
  ReleaseHeld(connection, line);
}

// Sends now, or behind the delay of this message or an earlier one.
void FaultyTransport::State::SendDelayed(ConnectionId connection, Line& line, Parcel parcel,
                                         const Draw& draw) {
  const base::Time now = executor_->clock().Now();
  base::Time due = now;
  if (draw.has(Fault::kDelay)) {
    due += std::chrono::duration_cast<base::Duration>(options_.delay_max * draw.delay);
  }
  due = std::max(due, line.delayed.empty() ? now : line.free_at);
  if (due <= now && line.delayed.empty()) return SendNow(connection, std::move(parcel));
  line.free_at = due;
  line.delayed.push_back(std::move(parcel));
  At(due - now, connection, &State::SendFirstDelayed);
}

void FaultyTransport::State::SendFirstDelayed(ConnectionId connection, Line& line) {
  if (line.delayed.empty()) return;
  Parcel parcel = std::move(line.delayed.front());
  line.delayed.pop_front();
  SendNow(connection, std::move(parcel));
}

void FaultyTransport::State::ReleaseHeld(ConnectionId connection, Line& line) {
  for (Parcel& parcel : std::exchange(line.held, {})) SendNow(connection, std::move(parcel));
}

void FaultyTransport::State::SendNow(ConnectionId connection, Parcel parcel) {
  inner_->Send(connection, std::move(parcel.message), parcel.mode, std::move(parcel.done));
}

void FaultyTransport::State::At(base::Duration delay, ConnectionId connection,
                                void (State::*act)(ConnectionId, Line&)) {
  executor_->RunAt(executor_->clock().Now() + delay, [weak = weak_from_this(), connection, act] {
    const std::shared_ptr<State> self = weak.lock();
    if (self == nullptr) return;
    const std::lock_guard lock(self->mutex_);
    const auto found = self->lines_.find(connection);
    if (self->stopped_ || found == self->lines_.end()) return;
    ((*self).*act)(connection, found->second);
  });
}

void FaultyTransport::State::Answer(SendDone done, absl::Status status) {
  if (done == nullptr) return;
  // Connection 0 never exists, so the inner transport calls back at once and in turn.
  inner_->Send(0, Message{}, SendMode::kEager,
               [done = std::move(done), status](const absl::Status&) { done(status); });
}

std::vector<SendDone> FaultyTransport::State::TakeUnsent(Line& line) {
  std::vector<SendDone> unsent;
  for (std::deque<Parcel>* queue : {&line.delayed, &line.held}) {
    for (Parcel& parcel : std::exchange(*queue, {})) {
      if (parcel.done != nullptr) unsent.push_back(std::move(parcel.done));
    }
  }
  return unsent;
}

void FaultyTransport::State::Close(ConnectionId connection) {
  const std::lock_guard lock(mutex_);
  const auto found = lines_.find(connection);
  if (found != lines_.end()) {
    for (SendDone& done : TakeUnsent(found->second)) {
      Answer(std::move(done), absl::CancelledError("the connection was closed"));
    }
  }
  inner_->Close(connection);
}

void FaultyTransport::State::OnClosed(ConnectionId connection, absl::Status reason) {
  std::vector<SendDone> unsent;
  {
    const std::lock_guard lock(mutex_);
    const auto found = lines_.find(connection);
    if (found != lines_.end()) {
      if (found->second.reset) reason = absl::UnavailableError("injected reset");
      unsent = TakeUnsent(found->second);
      lines_.erase(found);
    }
  }
  for (SendDone& done : unsent) done(absl::UnavailableError("the connection is gone"));
  events->OnClosed(connection, std::move(reason));
}

void FaultyTransport::State::Stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  for (auto& [connection, line] : lines_) {
    for (SendDone& done : TakeUnsent(line)) {
      Answer(std::move(done), absl::CancelledError("the transport is being destroyed"));
    }
  }
}

FaultyTransport::FaultyTransport(std::unique_ptr<Transport> inner, base::Executor* executor,
                                 FaultOptions options, uint64_t seed)
    : seed_(seed),
      state_(std::make_shared<State>(inner.get(), executor, options, seed)),
      inner_(std::move(inner)) {}

FaultyTransport::~FaultyTransport() {
  if (state_->events != nullptr) state_->events->OnStopping();
  state_->Stop();
  inner_.reset();
}

absl::Status FaultyTransport::Start(TransportEvents* events) {
  state_->events = events;
  return inner_->Start(state_.get());
}
absl::StatusOr<std::string> FaultyTransport::Listen(const std::string& address) {
  return inner_->Listen(address);
}
absl::StatusOr<ConnectionId> FaultyTransport::Connect(const std::string& address) {
  return state_->Connect(address);
}
void FaultyTransport::Send(ConnectionId connection, Message message, SendMode mode, SendDone done) {
  state_->Send(connection, std::move(message), mode, std::move(done));
}
void FaultyTransport::Close(ConnectionId connection) { state_->Close(connection); }
void FaultyTransport::Rest(base::Duration pause) { inner_->Rest(pause); }

absl::StatusOr<ConnectionInfo> FaultyTransport::Describe(ConnectionId connection) {
  return inner_->Describe(connection);
}
std::vector<FaultRecord> FaultyTransport::Faults() const { return state_->faults(); }
std::array<uint64_t, kFaultKinds> FaultyTransport::FaultCounts() const {
  std::array<uint64_t, kFaultKinds> counts{};
  for (const FaultRecord& record : state_->faults()) ++counts[static_cast<size_t>(record.fault)];
  return counts;
}

}  // namespace sounder::transport
