// Wraps a transport and shows every message that is sent to a function, which may lose it.
#ifndef SOUNDER_TESTS_CLUSTER_TAPPED_TRANSPORT_H_
#define SOUNDER_TESTS_CLUSTER_TAPPED_TRANSPORT_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "common/base/check.h"
#include "common/transport/transport.h"

namespace sounder::tests {

// Called on the sender's thread. False: the message is lost.
using MessageTap = std::function<bool(const transport::Message&)>;

class TappedTransport final : public transport::Transport {
 public:
  TappedTransport(std::unique_ptr<transport::Transport> inner, MessageTap tap)
      : inner_(std::move(inner)), tap_(std::move(tap)) {}

  absl::Status Start(transport::TransportEvents* events) override { return inner_->Start(events); }
  absl::StatusOr<std::string> Listen(const std::string& address) override {
    return inner_->Listen(address);
  }
  absl::StatusOr<transport::ConnectionId> Connect(const std::string& address) override {
    return inner_->Connect(address);
  }
  void Send(transport::ConnectionId connection, transport::Message message,
            transport::SendMode mode, transport::SendDone done) override {
    if (!tap_(message)) {
      CHECK(done == nullptr) << "only messages nobody waits for can be lost";
      return;
    }
    inner_->Send(connection, std::move(message), mode, std::move(done));
  }
  void Close(transport::ConnectionId connection) override { inner_->Close(connection); }
  absl::StatusOr<transport::ConnectionInfo> Describe(transport::ConnectionId connection) override {
    return inner_->Describe(connection);
  }

 private:
  const std::unique_ptr<transport::Transport> inner_;
  const MessageTap tap_;
};

}  // namespace sounder::tests

#endif  // SOUNDER_TESTS_CLUSTER_TAPPED_TRANSPORT_H_
