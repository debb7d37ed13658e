// The control plane of a machine that may be away: forwards calls to whatever service is there.
#ifndef SOUNDER_TESTS_CLUSTER_SERVICE_SWITCH_H_
#define SOUNDER_TESTS_CLUSTER_SERVICE_SWITCH_H_

#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "common/wire/control_service.h"

namespace sounder::tests {

// What a network does to a call.
enum class CallFate { kDelivered, kLost, kAnswerLost, kTwice };

// Thread safe. Without a service every call answers UNAVAILABLE; frozen, calls wait for Thaw.
class ServiceSwitch final : public wire::ControlService {
 public:
  // Returns when no call is inside the service that was there before.
  void Set(wire::ControlService* service) {
    std::lock_guard lock(mutex_);
    service_ = service;
    if (service == nullptr) ReleaseHeld();
  }
  void Freeze(bool on) {
    std::lock_guard lock(mutex_);
    frozen_ = on;
    if (!on) ReleaseHeld();
  }

  // Decides over every call from now on; null: all are delivered.
  void SetFate(std::function<CallFate()> fate) {
    std::lock_guard lock(mutex_);
    fate_ = std::move(fate);
  }

  void Open(const wire::SessionSpec& spec, wire::Reply<wire::OpenResult> reply) override {
    Forward(std::move(reply), [spec](auto& service, auto done) { service.Open(spec, done); });
  }
  void Close(const wire::SessionOp& op, wire::StatusReply reply) override {
    Forward(std::move(reply), [op](auto& service, auto done) { service.Close(op, done); });
  }
  void Fork(const wire::ForkCall& call, wire::StatusReply reply) override {
    Forward(std::move(reply), [=](auto& service, auto done) { service.Fork(call, done); });
  }
  void Truncate(const wire::SessionOp& op, base::Position position,
                wire::StatusReply reply) override {
    Forward(std::move(reply),
            [=](auto& service, auto done) { service.Truncate(op, position, done); });
  }
  void Adopt(const wire::AdoptCall& call, wire::Reply<wire::SessionInfo> reply) override {
    Forward(std::move(reply), [=](auto& service, auto done) { service.Adopt(call, done); });
  }
  void Describe(const wire::DescribeCall& call, wire::Reply<wire::SessionInfo> reply) override {
    Forward(std::move(reply), [=](auto& service, auto done) { service.Describe(call, done); });
  }
  void List(wire::Reply<std::vector<wire::SessionInfo>> reply) override {
    Forward(std::move(reply), [](auto& service, auto done) { service.List(done); });
  }
  void Pin(const wire::PinCall& call, wire::StatusReply reply) override {
    Forward(std::move(reply), [=](auto& service, auto done) { service.Pin(call, done); });
  }
  void Spill(const base::SessionId& session, wire::StatusReply reply) override {
    Forward(std::move(reply), [=](auto& service, auto done) { service.Spill(session, done); });
  }
  void Load(const base::SessionId& session, wire::StatusReply reply) override {
    Forward(std::move(reply), [=](auto& service, auto done) { service.Load(session, done); });
  }
  void Drain(bool on, wire::StatusReply reply) override {
    Forward(std::move(reply), [=](auto& service, auto done) { service.Drain(on, done); });
  }
  void Status(wire::Reply<wire::NodeStatus> reply) override {
    Forward(std::move(reply), [](auto& service, auto done) { service.Status(done); });
  }

 private:
  template <typename Reply, typename Call>
  void Forward(Reply reply, Call call) {
    auto run = [reply = std::move(reply), call](wire::ControlService* service) {
      if (service == nullptr) {
        reply(absl::UnavailableError("not reachable"));
      } else {
        call(*service, reply);
      }
    };
    std::lock_guard lock(mutex_);
    const CallFate fate = fate_ == nullptr ? CallFate::kDelivered : fate_();
    if (fate == CallFate::kLost) return;
    const auto unheard = [call](wire::ControlService* service) {
      if (service != nullptr) call(*service, Reply([](auto&&) {}));
    };
    if (fate == CallFate::kAnswerLost) return unheard(service_);
    if (fate == CallFate::kTwice) unheard(service_);
    if (frozen_) {
      held_.push_back(std::move(run));
    } else {
      run(service_);
    }
  }
  void ReleaseHeld() {
    for (const auto& run : std::exchange(held_, {})) run(service_);
  }

  std::mutex mutex_;  // guards everything below; held during calls
  wire::ControlService* service_ = nullptr;
  bool frozen_ = false;
  std::function<CallFate()> fate_;
  std::vector<std::function<void(wire::ControlService*)>> held_;
};

}  // namespace sounder::tests

#endif  // SOUNDER_TESTS_CLUSTER_SERVICE_SWITCH_H_
