// The connections of a ControlServer, each watched and bounded (control_limits.h). Private to
// common/wire; everything on the thread of the event loop.
#ifndef SOUNDER_COMMON_WIRE_CONTROL_CONNECTIONS_H_
#define SOUNDER_COMMON_WIRE_CONTROL_CONNECTIONS_H_

#include <capnp/capability.h>
#include <kj/async-io.h>

#include <functional>
#include <map>
#include <string>
#include <utility>

#include "common/wire/control_limits.h"

namespace sounder::wire {

class ControlConnections final : private kj::TaskSet::ErrorHandler {
 public:
  // `io` outlives this. Every connection is offered `service`.
  ControlConnections(kj::AsyncIoContext& io, capnp::Capability::Client service,
                     const ControlLimits& limits);
  ~ControlConnections() noexcept(false);

  // Accepts connections for ever.
  kj::Promise<void> Accept(kj::ConnectionReceiver& listener);
  // Calls `done` when nothing that was answered is waiting to be sent.
  void CallWhenSent(std::function<void()> done) { tasks_.add(WhenSent().then(std::move(done))); }

 private:
  struct Connection;
  void Admit(kj::Own<kj::AsyncIoStream> stream);
  kj::Promise<void> Watch();
  kj::Promise<void> WhenSent();
  void Drop(Connection& connection, const std::string& cause, const std::string& what);
  void Refused(const std::string& cause, const std::string& what) const;
  void taskFailed(kj::Exception&&) override {}

  kj::Timer& timer_;
  capnp::Capability::Client service_;
  const ControlLimits limits_;
  uint64_t last_id_ = 0;
  std::map<uint64_t, Connection*> open_;  // in order of age; owned by tasks_
  kj::TaskSet tasks_;
};

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_CONTROL_CONNECTIONS_H_
