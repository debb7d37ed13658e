// The ground on which the conformance suite runs: where transports come from and how time passes.
#ifndef SOUNDER_TESTS_CONFORMANCE_TRANSPORT_WORLD_H_
#define SOUNDER_TESTS_CONFORMANCE_TRANSPORT_WORLD_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/base/executor.h"
#include "common/transport/transport.h"

namespace sounder::transport {

// Something happened: waiters look again.
class Pulse {
 public:
  void Beat();
  // Waits until `done()`; false after a generous deadline.
  bool WaitFor(const std::function<bool()>& done);

 private:
  std::mutex mutex_;
  std::condition_variable beaten_;
  uint64_t beats_ = 0;
};

class World {
 public:
  virtual ~World() = default;
  // Not started.
  virtual std::unique_ptr<Transport> NewTransport() = 0;
  // Lets time pass until `done()`; false if it never comes true.
  virtual bool WaitFor(const std::function<bool()>& done) = 0;
  // An address to listen at, with port 0.
  virtual std::string ListenAddress() const { return "127.0.0.1:0"; }
  // An address that swallows requests for connections, and how long that takes to be noticed is
  // the world's short connect timeout. The black hole lives as long as the world.
  virtual std::string BlackHole() = 0;

  Pulse pulse;
};

struct WorldFactory {
  std::string name;
  std::function<std::unique_ptr<World>()> make;
};

// loopback on threads, loopback in virtual time, both behind a faulty transport without faults,
// UCX over TCP and over shared memory.
std::vector<WorldFactory> AllWorlds();

inline std::ostream& operator<<(std::ostream& out, const WorldFactory& factory) {
  return out << factory.name;
}

// Writes down what a transport reports. Checks the promises that hold at all times.
class Recorder final : public TransportEvents {
 public:
  explicit Recorder(Pulse* pulse) : pulse_(pulse) {}

  void OnAccept(ConnectionId connection, const std::string& peer) override;
  void OnMessage(ConnectionId connection, Message message) override;
  void OnClosed(ConnectionId connection, absl::Status reason) override;

  // Called inside OnMessage, on the transport's thread. Set before Start.
  std::function<void(ConnectionId, Message&)> on_message;
  std::function<void(ConnectionId)> on_accept;
  std::function<void(ConnectionId)> on_closed;

  // A SendDone that is recorded under a number of its own.
  SendDone Done();
  int64_t done_count() const;
  int64_t done_ok_count() const;
  int64_t done_asked() const;  // calls of Done

  std::vector<ConnectionId> accepted() const;
  size_t message_count() const;
  size_t message_count(ConnectionId connection) const;
  // Messages in the order of arrival.
  std::vector<std::pair<ConnectionId, Message>> TakeMessages();
  size_t closed_count() const;
  bool IsClosed(ConnectionId connection) const;
  absl::Status CloseReason(ConnectionId connection) const;
  // What no transport may do: two OnClosed of a connection, a message after OnClosed, two events
  // at once, a SendDone called twice.
  std::string Violations() const;

 private:
  class Enter;
  void Violate(const std::string& what);

  Pulse* const pulse_;
  mutable std::mutex mutex_;
  bool inside_ = false;
  std::vector<ConnectionId> accepted_;
  std::deque<std::pair<ConnectionId, Message>> messages_;
  size_t message_count_ = 0;
  std::map<ConnectionId, size_t> message_counts_;
  std::map<ConnectionId, absl::Status> closed_;
  std::vector<int> done_calls_;
  int64_t done_ = 0;
  int64_t done_ok_ = 0;
  std::string violations_;
};

// Bytes that depend on every argument.
std::vector<std::byte> PatternHeader(size_t bytes, uint32_t seed);
memory::AlignedBuffer Pattern(size_t bytes, uint32_t seed);
Message PatternMessage(size_t header_bytes, size_t payload_bytes, uint32_t seed);
// "" if `message` is PatternMessage of these arguments, else what differs.
std::string ComparePattern(const Message& message, size_t header_bytes, size_t payload_bytes,
                           uint32_t seed);

}  // namespace sounder::transport

#endif  // SOUNDER_TESTS_CONFORMANCE_TRANSPORT_WORLD_H_
