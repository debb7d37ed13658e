// A transport inside one process, on any executor: for tests and for clusters in virtual time.
//
// A LoopbackFabric is the network; each LoopbackTransport is a machine on it. Addresses are names
// "host:port" that mean nothing to the operating system. The fabric can kill or freeze a machine.
#ifndef SOUNDER_COMMON_TRANSPORT_LOOPBACK_TRANSPORT_H_
#define SOUNDER_COMMON_TRANSPORT_LOOPBACK_TRANSPORT_H_

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "common/base/executor.h"
#include "common/transport/transport.h"

namespace sounder::transport {

struct LoopbackOptions {
  base::Duration latency{0};    // one way
  double bytes_per_second = 0;  // of each direction of each connection; 0: no limit
  base::Duration connect_timeout = std::chrono::seconds(5);
};

struct LoopbackNode;
struct LoopbackLink;

// Thread safe. Outlives its transports; the executor outlives the fabric.
class LoopbackFabric {
 public:
  explicit LoopbackFabric(base::Executor* executor, LoopbackOptions options = {});
  ~LoopbackFabric();
  LoopbackFabric(const LoopbackFabric&) = delete;
  LoopbackFabric& operator=(const LoopbackFabric&) = delete;

  // The machine that listens at `address` dies, as by SIGKILL: its peers get OnClosed(UNAVAILABLE),
  // it hears nothing more (until its transport is destroyed, which ends what is open, as always),
  // and the address is free again. Unknown addresses are ignored.
  void Kill(const std::string& address);
  // The machine that listens at `address` stops, as by SIGSTOP or a silent partition: nothing is
  // delivered to it or from it and nothing is reported, until Thaw. Unknown addresses are ignored.
  void Freeze(const std::string& address);
  void Thaw(const std::string& address);

 private:
  friend class LoopbackTransport;
  struct State;
  std::shared_ptr<State> state_;  // shared with the timers in flight
};

// See transport.h. Events run on the fabric's executor, one at a time per transport. The destructor
// waits for the event that is running, then ends what is open: those last callbacks run on the
// destructor's own thread. It must not be called from a callback.
class LoopbackTransport final : public Transport {
 public:
  // `name` is how peers see this machine when it connects to them.
  explicit LoopbackTransport(LoopbackFabric* fabric, std::string name = "loopback:0");
  ~LoopbackTransport() override;
  LoopbackTransport(const LoopbackTransport&) = delete;
  LoopbackTransport& operator=(const LoopbackTransport&) = delete;

  absl::Status Start(TransportEvents* events) override;
  // ALREADY_EXISTS if another transport listens there.
  absl::StatusOr<std::string> Listen(const std::string& address) override;
  absl::StatusOr<ConnectionId> Connect(const std::string& address) override;
  void Send(ConnectionId connection, Message message, SendMode mode, SendDone done) override;
  void Close(ConnectionId connection) override;
  absl::StatusOr<ConnectionInfo> Describe(ConnectionId connection) override;

 private:
  std::shared_ptr<LoopbackFabric::State> fabric_;
  std::shared_ptr<LoopbackNode> node_;  // shared with the work in flight
};

}  // namespace sounder::transport

#endif  // SOUNDER_COMMON_TRANSPORT_LOOPBACK_TRANSPORT_H_
