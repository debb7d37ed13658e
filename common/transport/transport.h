// The data plane's interface: messages of a small header and a large payload over connections.
//
// Implementations: ucx_transport (RDMA, TCP, shared memory), loopback_transport (in one process,
// on any executor, also in virtual time), faulty_transport (wraps another and misbehaves from a
// seed). One conformance suite runs over all of them (tests/conformance/transport).
//
// What every implementation promises:
//  1. A message arrives whole and unchanged, or not at all. The receiver may get a message at most
//     once. Messages of one connection sent with the same SendMode arrive in the order sent; a
//     rendezvous message may be overtaken by an eager one.
//  2. Events (TransportEvents) happen one at a time, never inside a call of Transport, and not
//     after the Transport is destroyed. Every connection, accepted or made, ends in exactly one
//     OnClosed, also when it was us who closed it. The destructor closes what is open and lets the
//     last callbacks happen before it returns; they may still call the transport, but nothing that
//     runs inside a callback may destroy it.
//  3. The callback of every Send is called exactly once: OK when the payload may be reused (which
//     says nothing about the receiver), an error otherwise. It happens like an event; for messages
//     sent before OnClosed it happens before OnClosed.
//  4. A peer that died is reported by OnClosed(UNAVAILABLE) where the network tells; a peer that
//     hangs is not (but for one whose payload stays half-way, where an implementation says so):
//     users keep deadlines of their own and call Close.
//  5. Close returns at once. What was sent before may still go out, for a time that the
//     implementation bounds; then every Send has ended, and OnClosed(OK) says that the connection
//     is released. Messages that were on their way to us may be delivered before it or be lost.
#ifndef SOUNDER_COMMON_TRANSPORT_TRANSPORT_H_
#define SOUNDER_COMMON_TRANSPORT_TRANSPORT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/memory/aligned_buffer.h"

namespace sounder::transport {

using ConnectionId = uint64_t;  // unique within a Transport; 0 is never a connection

struct Message {
  std::vector<std::byte> header;  // at most base::kMaxHeaderBytes
  memory::AlignedBuffer payload;  // at most base::kMaxPayloadBytes; may be empty
};

// How a payload travels. kAuto lets the implementation choose by size.
enum class SendMode { kAuto, kEager, kRendezvous };

using SendDone = std::function<void(absl::Status)>;

// What carries a connection, as the implementation reports it (not as we asked for it).
struct ConnectionInfo {
  std::string peer;       // address of the other side
  std::string transport;  // e.g. "tcp/eth0", "posix/memory,tcp/lo", "rc_mlx5/mlx5_0:1", "loopback"
  std::string detail;     // implementation's own multi-line description, may be empty
};

// Implemented by the user of a transport.
class TransportEvents {
 public:
  virtual ~TransportEvents() = default;
  // A peer connected to our listener.
  virtual void OnAccept(ConnectionId connection, const std::string& peer) = 0;
  virtual void OnMessage(ConnectionId connection, Message message) = 0;
  // The connection is gone. OK: the peer said goodbye or we closed it.
  virtual void OnClosed(ConnectionId connection, absl::Status reason) = 0;
  // The transport's destructor has begun, on its caller's thread, before the last events. When this
  // returns, only callbacks may still call the transport: timers of the user's must have stopped.
  virtual void OnStopping() {}
};

// Thread safe.
class Transport {
 public:
  virtual ~Transport() = default;

  // Once, before any other call. `events` outlives the transport.
  virtual absl::Status Start(TransportEvents* events) = 0;
  // Accepts connections at `address` ("host:port"; port 0 picks one). Returns the real address.
  virtual absl::StatusOr<std::string> Listen(const std::string& address) = 0;
  // Returns at once; a failure to connect arrives as OnClosed (UNAVAILABLE, DEADLINE_EXCEEDED) and
  // in the callbacks of the messages sent meanwhile. INVALID_ARGUMENT for a malformed address.
  virtual absl::StatusOr<ConnectionId> Connect(const std::string& address) = 0;
  // `done` may be null. A connection that is gone fails with UNAVAILABLE.
  virtual void Send(ConnectionId connection, Message message, SendMode mode, SendDone done) = 0;
  // Unknown connections are ignored.
  virtual void Close(ConnectionId connection) = 0;
  // NOT_FOUND for a connection that is gone, UNAVAILABLE for one that is still being made.
  virtual absl::StatusOr<ConnectionInfo> Describe(ConnectionId connection) = 0;
  // Inside OnMessage: what comes next may wait for so long, and is then taken together; so may what
  // others send. For who refuses requests because there is more work than time: each look at the
  // network costs some of it. A hint.
  virtual void Rest(base::Duration /*pause*/) {}
};

}  // namespace sounder::transport

#endif  // SOUNDER_COMMON_TRANSPORT_TRANSPORT_H_
