// Serves a ControlService over Cap'n Proto RPC on TCP, on a thread of its own.
#ifndef SOUNDER_COMMON_WIRE_CONTROL_SERVER_H_
#define SOUNDER_COMMON_WIRE_CONTROL_SERVER_H_

#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/wire/control_limits.h"
#include "common/wire/control_service.h"

namespace sounder::wire {

class ControlConnections;
class KjInbox;

// Thread safe. The destructor drops every connection and joins the thread; replies of the service
// that come later are ignored.
class ControlServer {
 public:
  // Listens at "host:port" (port 0 picks one). `service` outlives the server.
  // UNAVAILABLE if the address cannot be had, INVALID_ARGUMENT if it is malformed.
  // `limits.refused` is called on the server's thread.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(const std::string& address,
                                                              ControlService* service,
                                                              const ControlLimits& limits = {});
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // "host:port" with the real port.
  const std::string& address() const { return address_; }

  // Waits until the answers given so far have been handed to the network; false past the deadline.
  // Not from the server's thread.
  bool WaitSent(base::Duration deadline);

 private:
  ControlServer();

  std::string address_;
  const std::shared_ptr<KjInbox> inbox_;       // shared with replies that may come late
  ControlConnections* connections_ = nullptr;  // the thread's
  std::thread thread_;
};

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_CONTROL_SERVER_H_
