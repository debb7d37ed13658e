#include "common/transport/ucx_transport.h"

#include <utility>

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/transport/ucx_engine.h"

namespace sounder::transport {

std::shared_ptr<UcxEngine> MakeUcxEngine(UcxOptions options) {
  return std::make_shared<UcxEngine>(std::move(options));
}

UcxTransport::UcxTransport(UcxOptions options) : UcxTransport(MakeUcxEngine(std::move(options))) {}

UcxTransport::UcxTransport(std::shared_ptr<UcxEngine> engine) : engine_(std::move(engine)) {}

UcxTransport::~UcxTransport() {
  if (port_ == nullptr) return;
  port_->events->OnStopping();
  engine_->RemovePort(*port_);  // the port stays where it is: callbacks may still call us
}

absl::Status UcxTransport::Start(TransportEvents* events) {
  CHECK(port_ == nullptr) << "Start was called twice";
  ASSIGN_OR_RETURN(port_, engine_->AddPort(events));
  return absl::OkStatus();
}

absl::StatusOr<std::string> UcxTransport::Listen(const std::string& address) {
  return engine_->Listen(*port_, address);
}

absl::StatusOr<ConnectionId> UcxTransport::Connect(const std::string& address) {
  return engine_->Connect(*port_, address);
}

void UcxTransport::Send(ConnectionId connection, Message message, SendMode mode, SendDone done) {
  engine_->Send(*port_, connection, std::move(message), mode, std::move(done));
}

void UcxTransport::Close(ConnectionId connection) { engine_->Close(*port_, connection); }

absl::StatusOr<ConnectionInfo> UcxTransport::Describe(ConnectionId connection) {
  return engine_->Describe(*port_, connection);
}

void UcxTransport::Rest(base::Duration pause) { engine_->Rest(pause); }

size_t UcxTransport::CloseStrays() { return port_ == nullptr ? 0 : engine_->CloseStrays(); }

}  // namespace sounder::transport
