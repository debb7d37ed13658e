// Wraps a transport and misbehaves from a seed: what a network, a bug or an attacker may do to
// messages. For tests of everything above the transport.
//
// Faults break the first promise of transport.h on purpose (messages are lost, doubled, reordered,
// damaged); the other promises still hold.
#ifndef SOUNDER_COMMON_TRANSPORT_FAULTY_TRANSPORT_H_
#define SOUNDER_COMMON_TRANSPORT_FAULTY_TRANSPORT_H_

#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "common/base/executor.h"
#include "common/transport/transport.h"

namespace sounder::transport {

enum class Fault {
  kDelay,      // the message, and those sent after it on its connection, arrive later
  kDrop,       // never sent; its SendDone says OK
  kDuplicate,  // sent twice
  kReorder,    // sent after the next message of its connection (or after delay_max)
  kTruncate,   // the payload loses its end; messages without payload are spared
  kFlip,       // one bit of header or payload is flipped
  kReset,      // not sent; the connection breaks: UNAVAILABLE here, an ordinary close at the peer
};
inline constexpr size_t kFaultKinds = 7;
const char* NameOf(Fault fault);

// Probabilities per message sent through this wrapper, each drawn by itself.
struct FaultOptions {
  double delay = 0;
  double drop = 0;
  double duplicate = 0;
  double reorder = 0;
  double truncate = 0;
  double flip = 0;
  double reset = 0;
  base::Duration delay_max = std::chrono::milliseconds(20);  // delays are uniform up to this
};

struct FaultRecord {
  Fault fault;
  ConnectionId connection;
  uint64_t message;  // number of the message among those sent on its connection, from 0
};

// Thread safe, like any transport. The faults of a connection are a function of the seed, the
// connection's id and the order in which messages are sent on it.
class FaultyTransport final : public Transport {
 public:
  // `executor` (for delays) outlives the transport.
  FaultyTransport(std::unique_ptr<Transport> inner, base::Executor* executor, FaultOptions options,
                  uint64_t seed);
  ~FaultyTransport() override;
  FaultyTransport(const FaultyTransport&) = delete;
  FaultyTransport& operator=(const FaultyTransport&) = delete;

  absl::Status Start(TransportEvents* events) override;
  absl::StatusOr<std::string> Listen(const std::string& address) override;
  absl::StatusOr<ConnectionId> Connect(const std::string& address) override;
  void Send(ConnectionId connection, Message message, SendMode mode, SendDone done) override;
  void Close(ConnectionId connection) override;
  absl::StatusOr<ConnectionInfo> Describe(ConnectionId connection) override;
  void Rest(base::Duration pause) override;

  uint64_t seed() const { return seed_; }
  // What was done so far, in order.
  std::vector<FaultRecord> Faults() const;
  // Indexed by Fault.
  std::array<uint64_t, kFaultKinds> FaultCounts() const;

 private:
  class State;
  const uint64_t seed_;
  const std::shared_ptr<State> state_;  // shared with the timers in flight
  std::unique_ptr<Transport> inner_;
};

}  // namespace sounder::transport

#endif  // SOUNDER_COMMON_TRANSPORT_FAULTY_TRANSPORT_H_
