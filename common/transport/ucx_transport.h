// The transport of production: UCX active messages over RDMA, TCP or shared memory.
//
// An engine is a progress thread with a UCX worker; it serves one transport, or several. A process
// uses ONE engine: with two workers in a process UCX 1.13 now and then aborts (when a socket that
// one worker closes is reused by another; see DESIGN.md). So whoever needs several transports in a
// process, as tests do, makes an engine and gives it to all of them.
//
// The engine's thread owns everything of UCX. Calls from other threads are queued to it and wake
// it when it sleeps. Events and SendDone callbacks run on that thread, outside of UCX: they may
// call Send, Connect, Close, Listen and Describe, but while one runs nothing else moves, so they
// hand real work to an executor. They must not destroy a transport of the engine.
//
// Listen waits for the progress thread (and Connect for the resolver, if the host is a name): do
// not call them under a lock that a callback takes.
#ifndef SOUNDER_COMMON_TRANSPORT_UCX_TRANSPORT_H_
#define SOUNDER_COMMON_TRANSPORT_UCX_TRANSPORT_H_

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/transport/transport.h"

namespace sounder::transport {

struct UcxOptions {
  // "auto" (all that UCX finds but shared memory, fastest first), "tcp", "shm" (see DESIGN.md, trap
  // 14, before you use it), or a UCX_TLS list ("rc,ud,tcp").
  std::string tls = "auto";
  // Network devices, as in UCX_NET_DEVICES ("eth0", "mlx5_0:1"); empty for all.
  std::string net_devices = {};
  // Ports of the data connections, "lo-hi" (each worker listens on one per device); empty for any.
  std::string port_range = {};
  // How long the progress thread polls after the last work before it sleeps. Longer is faster (a
  // wake-up of a sleeping thread costs 25-150 us) and burns a core while traffic flows.
  base::Duration spin = std::chrono::microseconds(20);
  // A connection whose peer has not said hello by then is closed.
  base::Duration connect_timeout = std::chrono::seconds(5);
  // How long a closed connection may take to send what was sent before and say goodbye, and how
  // long UCX may then take to give back its buffers.
  base::Duration linger = std::chrono::milliseconds(500);
  // SendMode::kAuto sends payloads of at least this many bytes by rendezvous.
  size_t rendezvous_bytes = size_t{1} << 20;
  // Rendezvous payloads received at once, over all connections; more wait at the sender.
  size_t receive_bytes_max = size_t{1} << 30;
  // Of those, over one connection, so that a peer that hangs does not hold up the others.
  size_t connection_receive_bytes_max = base::kMaxPayloadBytes;
  // A rendezvous payload that has not arrived so long after its transfer began fails its connection
  // (DEADLINE_EXCEEDED): UCX would wait for a hung peer for ever.
  base::Duration receive_timeout = std::chrono::seconds(10);
  // Accepted at once; more are refused, and so are sockets on UCX's ports that are not (yet) a
  // connection.
  size_t connections_max = 1024;
  // Told of each connection refused before OnAccept: a word for the cause, and a sentence. On the
  // engine's thread or that of CloseStrays; may be null.
  std::function<void(const std::string& cause, const std::string& what)> refused = {};
  // Fail connections that did not get an RDMA transport (FAILED_PRECONDITION).
  bool require_rdma = false;
};

class UcxEngine;
struct UcxPort;

// Starts nothing yet.
std::shared_ptr<UcxEngine> MakeUcxEngine(UcxOptions options);

// See transport.h. The destructor closes all connections (their OnClosed come before it returns).
class UcxTransport final : public Transport {
 public:
  explicit UcxTransport(UcxOptions options);  // with an engine of its own
  // The engine is shared by its transports; the last one ends it.
  explicit UcxTransport(std::shared_ptr<UcxEngine> engine);
  ~UcxTransport() override;
  UcxTransport(const UcxTransport&) = delete;
  UcxTransport& operator=(const UcxTransport&) = delete;

  // An error if UCX has nothing for the options; then no other call may follow.
  absl::Status Start(TransportEvents* events) override;
  // ALREADY_EXISTS if the port is taken, UNIMPLEMENTED for IPv6 (for Connect too, in OnClosed).
  absl::StatusOr<std::string> Listen(const std::string& address) override;
  absl::StatusOr<ConnectionId> Connect(const std::string& address) override;
  void Send(ConnectionId connection, Message message, SendMode mode, SendDone done) override;
  void Close(ConnectionId connection) override;
  // UNAVAILABLE while the connection is being made: UCX has not chosen yet.
  absl::StatusOr<ConnectionInfo> Describe(ConnectionId connection) override;
  void Rest(base::Duration pause) override;

  // Ends TCP sockets on UCX's ports that became no connection within connect_timeout, and the
  // oldest of them where they are more than connections_max: UCX 1.13 itself lets them stay for
  // ever. To be called every second or so where strangers may connect. Thread safe; returns how
  // many.
  size_t CloseStrays();

 private:
  std::shared_ptr<UcxEngine> engine_;
  std::unique_ptr<UcxPort> port_;  // set by Start
};

}  // namespace sounder::transport

#endif  // SOUNDER_COMMON_TRANSPORT_UCX_TRANSPORT_H_
