#include "common/wire/control_connections.h"

#include <capnp/rpc-twoparty.h>
#include <capnp/rpc.h>
#include <capnp/serialize-async.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/transport/address.h"

namespace sounder::wire {
namespace {

constexpr kj::Duration kAcceptAgainAfter = 50 * kj::MILLISECONDS;
constexpr kj::Duration kLookAgainAfter = 5 * kj::MILLISECONDS;

kj::Duration ToKj(base::Duration duration) { return duration.count() * kj::NANOSECONDS; }

std::string SecondsOf(base::Duration duration) {
  return absl::StrCat(std::chrono::duration<double>(duration).count(), " s");
}

std::string PeerOf(kj::AsyncIoStream& stream) {
  sockaddr_storage address{};
  kj::uint length = sizeof address;
  try {
    stream.getpeername(reinterpret_cast<sockaddr*>(&address), &length);
  } catch (const kj::Exception&) {
    return "?";  // gone already
  }
  return transport::FormatSocketAddress(address);
}

// Notes when bytes come, and reads nothing while an answer is not taken: who does not read is not
// read from.
class WatchedBytes final : public kj::AsyncIoStream {
 public:
  WatchedBytes(kj::Own<kj::AsyncIoStream> inner, kj::Timer& timer)
      : inner_(kj::mv(inner)), timer_(timer) {}

  // A message is awaited from here on.
  void Await() { begun_ = nullptr; }
  // When the first byte of the message came that is not complete yet.
  kj::Maybe<kj::TimePoint> begun() const { return begun_; }
  uint64_t written() const { return written_; }

  kj::Promise<size_t> tryRead(void* buffer, size_t min_bytes, size_t max_bytes) override {
    if (writing_ > 0) {
      auto paf = kj::newPromiseAndFulfiller<void>();
      taken_ = kj::mv(paf.fulfiller);
      return paf.promise.then(
          [this, buffer, min_bytes, max_bytes] { return tryRead(buffer, min_bytes, max_bytes); });
    }
    return inner_->tryRead(buffer, 1, max_bytes)
        .then([this, buffer, min_bytes, max_bytes](size_t bytes) -> kj::Promise<size_t> {
          if (bytes > 0 && begun_ == nullptr) begun_ = timer_.now();
          if (bytes == 0 || bytes >= min_bytes) return bytes;
          return tryRead(static_cast<kj::byte*>(buffer) + bytes, min_bytes - bytes,
                         max_bytes - bytes)
              .then([bytes](size_t more) { return bytes + more; });
        });
  }
  kj::Promise<void> write(const void* buffer, size_t size) override {
    written_ += size;
    return Written(inner_->write(buffer, size));
  }
  kj::Promise<void> write(kj::ArrayPtr<const kj::ArrayPtr<const kj::byte>> pieces) override {
    for (const auto& piece : pieces) written_ += piece.size();
    return Written(inner_->write(pieces));
  }
  kj::Promise<void> whenWriteDisconnected() override { return inner_->whenWriteDisconnected(); }
  void shutdownWrite() override { inner_->shutdownWrite(); }
  void abortRead() override { inner_->abortRead(); }
  void getsockopt(int level, int option, void* value, kj::uint* length) override {
    inner_->getsockopt(level, option, value, length);
  }
  void getsockname(sockaddr* address, kj::uint* length) override {
    inner_->getsockname(address, length);
  }
  void getpeername(sockaddr* address, kj::uint* length) override {
    inner_->getpeername(address, length);
  }

 private:
  kj::Promise<void> Written(kj::Promise<void> write) {
    ++writing_;
    return write.attach(kj::defer([this] {
      if (--writing_ > 0 || taken_.get() == nullptr) return;
      taken_->fulfill();
      taken_ = nullptr;
    }));
  }

  kj::Own<kj::AsyncIoStream> inner_;
  kj::Timer& timer_;
  kj::Maybe<kj::TimePoint> begun_;
  uint64_t written_ = 0;
  int writing_ = 0;
  kj::Own<kj::PromiseFulfiller<void>> taken_;
};

// Counts messages, refuses those that are too large (Cap'n Proto's own limit would hold for answers
// too), and notes what was wrong with one.
class WatchedMessages final : public capnp::MessageStream {
 public:
  using Malformed = kj::Function<void(const kj::Exception&)>;
  WatchedMessages(WatchedBytes& bytes, kj::Timer& timer, size_t most_bytes, Malformed malformed)
      : most_bytes_(most_bytes),
        bytes_(bytes),
        inner_(bytes),
        timer_(timer),
        malformed_(kj::mv(malformed)),
        last_(timer.now()) {}

  uint64_t messages() const { return messages_; }
  kj::TimePoint last() const { return last_; }  // message, or the start

  kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> tryReadMessage(
      kj::ArrayPtr<kj::AutoCloseFd> fd_space, capnp::ReaderOptions options,
      kj::ArrayPtr<capnp::word> scratch) override {
    bytes_.Await();
    options.traversalLimitInWords = most_bytes_ / sizeof(capnp::word);
    return inner_.tryReadMessage(fd_space, options, scratch)
        .then(
            [this](kj::Maybe<capnp::MessageReaderAndFds> message) {
              bytes_.Await();
              ++messages_;
              last_ = timer_.now();
              return message;
            },
            [this](kj::Exception&& exception) -> kj::Maybe<capnp::MessageReaderAndFds> {
              if (exception.getType() == kj::Exception::Type::FAILED) malformed_(exception);
              kj::throwFatalException(kj::mv(exception));
            });
  }
  kj::Promise<void> writeMessage(
      kj::ArrayPtr<const int> fds,
      kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) override {
    return inner_.writeMessage(fds, segments);
  }
  kj::Promise<void> writeMessages(
      kj::ArrayPtr<kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>> messages) override {
    return inner_.writeMessages(messages);
  }
  kj::Maybe<int> getSendBufferSize() override { return inner_.getSendBufferSize(); }
  kj::Promise<void> end() override { return inner_.end(); }

 private:
  const size_t most_bytes_;
  WatchedBytes& bytes_;
  capnp::AsyncIoMessageStream inner_;
  kj::Timer& timer_;
  Malformed malformed_;
  uint64_t messages_ = 0;
  kj::TimePoint last_;
};

}  // namespace

struct ControlConnections::Connection {
  Connection(ControlConnections& all, kj::Own<kj::AsyncIoStream> stream)
      : owner(all),
        id(++all.last_id_),
        peer(PeerOf(*stream)),
        opened(all.timer_.now()),
        bytes(kj::mv(stream), all.timer_),
        messages(bytes, all.timer_, all.limits_.message_bytes,
                 [this](const kj::Exception& exception) {
                   owner.Refused("malformed",
                                 absl::StrCat(peer, ": ", exception.getDescription().cStr()));
                 }),
        network(messages, capnp::rpc::twoparty::Side::SERVER),
        rpc(capnp::makeRpcServer(network, all.service_)) {
    rpc.setFlowLimit(all.limits_.unanswered_bytes / sizeof(capnp::word));
    owner.open_.emplace(id, this);
  }
  ~Connection() noexcept(false) { owner.open_.erase(id); }

  ControlConnections& owner;
  const uint64_t id;
  const std::string peer;
  const kj::TimePoint opened;
  bool dropped = false;
  kj::Canceler canceler;
  WatchedBytes bytes;
  WatchedMessages messages;
  capnp::TwoPartyVatNetwork network;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc;
};

ControlConnections::ControlConnections(kj::AsyncIoContext& io, capnp::Capability::Client service,
                                       const ControlLimits& limits)
    : timer_(io.provider->getTimer()), service_(kj::mv(service)), limits_(limits), tasks_(*this) {
  tasks_.add(Watch());
}

ControlConnections::~ControlConnections() noexcept(false) = default;

// Accepting fails when, say, no file descriptors are left; that passes, and must not end the node's
// control plane.
kj::Promise<void> ControlConnections::Accept(kj::ConnectionReceiver& listener) {
  return kj::evalNow([&] { return listener.accept(); })  // it throws when there is no waiting
      .then(
          [this](kj::Own<kj::AsyncIoStream> stream) -> kj::Promise<void> {
            Admit(kj::mv(stream));
            return kj::READY_NOW;
          },
          [this](kj::Exception&&) { return timer_.afterDelay(kAcceptAgainAfter); })
      .then([this, &listener] { return Accept(listener); });
}

void ControlConnections::Admit(kj::Own<kj::AsyncIoStream> stream) {
  if (open_.size() >= limits_.connections) {
    const auto unused = std::find_if(open_.begin(), open_.end(), [](const auto& entry) {
      return !entry.second->dropped && entry.second->messages.messages() == 0;
    });
    const std::string many = absl::StrCat("more than ", limits_.connections, " connections");
    if (unused == open_.end()) return Refused("limit", absl::StrCat(PeerOf(*stream), ": ", many));
    Drop(*unused->second, "limit", absl::StrCat(many, ", and this one had sent nothing"));
  }
  auto connection = kj::heap<Connection>(*this, kj::mv(stream));
  auto ended = connection->canceler.wrap(connection->network.onDisconnect());
  tasks_.add(ended.catch_([](kj::Exception&&) {}).attach(kj::mv(connection)));
}

// Looks at every connection once in a while, for ever.
kj::Promise<void> ControlConnections::Watch() {
  const kj::Duration stall = ToKj(limits_.stall);
  return timer_.afterDelay(kj::min(stall / 4, 1 * kj::SECONDS)).then([this, stall] {
    const kj::TimePoint now = timer_.now();
    for (const auto& [id, connection] : open_) {
      if (connection->dropped) continue;
      const bool sending = connection->network.getCurrentQueueCount() > 0;
      KJ_IF_MAYBE (begun, connection->bytes.begun()) {
        if (now - *begun > stall && !sending) {
          Drop(*connection, "slow", "a message was not complete after " + SecondsOf(limits_.stall));
          continue;
        }
      }
      if (connection->messages.messages() == 0 && now - connection->opened > stall) {
        Drop(*connection, "silent", "no message within " + SecondsOf(limits_.stall));
      } else if (sending && connection->network.getOutgoingMessageWaitTime() > stall) {
        Drop(*connection, "unread", "an answer was not read within " + SecondsOf(limits_.stall));
      } else if (!sending && now - connection->messages.last() > ToKj(limits_.idle)) {
        Drop(*connection, "idle", "no message within " + SecondsOf(limits_.idle));
      } else if (!sending && connection->bytes.written() > limits_.answered_bytes) {
        Drop(*connection, "used_up",
             absl::StrCat("answered with more than ", limits_.answered_bytes, " bytes"));
      }
    }
    return Watch();
  });
}

// Ends it soon: it may be what is running.
void ControlConnections::Drop(Connection& connection, const std::string& cause,
                              const std::string& what) {
  connection.dropped = true;
  Refused(cause, absl::StrCat(connection.peer, ": ", what));
  connection.canceler.cancel(cause.c_str());
}

void ControlConnections::Refused(const std::string& cause, const std::string& what) const {
  if (limits_.refused != nullptr) limits_.refused(cause, what);
}

kj::Promise<void> ControlConnections::WhenSent() {
  return timer_.afterDelay(kLookAgainAfter).then([this]() -> kj::Promise<void> {
    for (const auto& [id, connection] : open_) {
      if (connection->network.getCurrentQueueCount() > 0) return WhenSent();
    }
    return kj::READY_NOW;
  });
}

}  // namespace sounder::wire
